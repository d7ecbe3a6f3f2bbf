"""A tiny SAM, a small data set and a trained-looking adapter, made once for the whole run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor, samed_lora_config
from samed_hf.data.dataset import Case
from samed_hf.data.layouts.synapse import write_case, write_lists, write_slice
from samed_hf.model.fingerprint import model_fingerprint
from samed_hf.model.random_sam import make_random_sam

# The models are tiny: on a busy machine, several threads spend their time waiting for one another.
torch.set_num_threads(1)


def pytest_configure() -> None:
    """Pin each worker of pytest-xdist to one core, so that the processes that tests start do not compete."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker) % len(cores)]})


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need a package index, unless `-m` names them."""
    if "peers" not in config.option.markexpr:
        items[:] = [item for item in items if item.get_closest_marker("peers") is None]


TINY_LABELS = {0: "background", 1: "disc", 2: "bar"}
TINY_SIZE = 64


@pytest.fixture(scope="session")
def tiny_sam(tmp_path_factory) -> Path:
    """A plain SAM checkpoint of random weights, 128 pixels, four blocks with windows and global ones."""
    return make_random_sam(
        tmp_path_factory.mktemp("sam") / "sam",
        image_size=128,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        embedding_size=32,
    )


@pytest.fixture(scope="session")
def graphs(tmp_path_factory):
    """Exports trace each model once, which takes most of their time; later ones of the same weights copy the graph."""
    from samed_hf.model import onnx

    write, kept, folder = onnx._write_graph, {}, tmp_path_factory.mktemp("graphs")

    def write_or_copy(model, processor, file, *options):
        key = model_fingerprint(model, {"config": model.config.to_dict(), "options": options})
        if key in kept:
            shutil.copyfile(kept[key], file)
        else:
            write(model, processor, file, *options)
            kept[key] = shutil.copyfile(file, folder / f"{len(kept)}.onnx")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "_write_graph", write_or_copy)
        yield


@pytest.fixture
def tiny_model(tiny_sam) -> SamedForSemanticSegmentation:
    """A fresh model without adapter, 64 pixels, three labels."""
    torch.manual_seed(0)
    return SamedForSemanticSegmentation.from_pretrained(tiny_sam, image_size=TINY_SIZE, id2label=TINY_LABELS)


@pytest.fixture(scope="session")
def tiny_adapter(tiny_sam, tmp_path_factory) -> Path:
    """An adapter whose LoRA isn't zero, in a folder of its own."""
    torch.manual_seed(1)
    model = SamedForSemanticSegmentation.from_pretrained(tiny_sam, image_size=TINY_SIZE, id2label=TINY_LABELS)
    model.add_adapter(samed_lora_config(rank=2))
    randomize_lora(model)
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    model.save_pretrained(folder, image_processor=SamedImageProcessor(TINY_SIZE, (-125, 275), input_size=48))
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """Six training cases of four slices and two volumes: a bright disc and a grey bar at random places."""
    root = tmp_path_factory.mktemp("data") / "synapse"
    generator = np.random.default_rng(0)
    slices, cases = [], []
    for number in range(8):
        case = make_case(f"case{number:04d}", generator)
        if number < 6:
            for index, (image, label) in enumerate(zip(case.image, case.label, strict=True)):
                slices.append(f"{case.name}_slice{index:03d}")
                write_slice(root, slices[-1], image, label)
        else:
            write_case(root, case)
            cases.append(case.name)
    write_lists(root, slices, cases, TINY_LABELS)
    return root


def make_case(name: str, generator: np.random.Generator, slices: int = 4, size: int = 48) -> Case:
    """A volume with a disc (label 1) and a bar (label 2), spacing 5 × 2 × 2 mm."""
    rows, columns = np.mgrid[:size, :size]
    image = generator.normal(0.2, 0.02, (slices, size, size))
    label = np.zeros((slices, size, size), dtype=np.uint8)
    y, x = generator.integers(12, size - 12, 2)
    top = int(generator.integers(4, size - 10))
    label[:, top : top + 6] = 2
    label[:, (rows - y) ** 2 + (columns - x) ** 2 < 81] = 1
    image[label == 1] += 0.6
    image[label == 2] += 0.3
    return Case(name, np.clip(image, 0, 1).astype(np.float32), label, (5.0, 2.0, 2.0))


def randomize_lora(model: torch.nn.Module, std: float = 0.1) -> None:
    """Give LoRA's B, which starts at zero, values."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=std)


@pytest.fixture
def narrow_models(monkeypatch):
    """Three of the bases whose memory is estimated, in order of size, with two narrow blocks each."""
    blocks = {"num_hidden_layers": 2, "num_attention_heads": 4, "global_attn_indexes": [1]}
    widths = {"ViT-B": 256, "SlimSAM-50": 128, "SlimSAM-77": 64}
    models = {name: blocks | {"hidden_size": width, "mlp_dim": 2 * width} for name, width in widths.items()}
    monkeypatch.setattr("samed_hf.diagnostics.memory.MODELS", models)
    return models
