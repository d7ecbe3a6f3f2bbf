"""Time to load and switch adapters, and from a new process to its first prediction."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import SamModel

from samed_hf import SamedForSemanticSegmentation

from .plain import IMAGE_SIZE, load_plain, make_pair
from .timing import time_in_turn

__all__ = ["measure_loading"]


def measure_loading(*, rounds: int = 3) -> dict[str, Any]:
    """Measure seconds to load base and adapter, to switch adapters, and to the first prediction of a new process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, ours = make_pair()
        base = SamModel(plain.config)
        own = {key: value for key, value in ours.sam.state_dict().items() if key in base.state_dict()}
        base.load_state_dict(own, strict=False)
        base.save_pretrained(folder / "base")
        trained = {key: value.detach() for key, value in plain.named_parameters() if value.requires_grad}
        save_file(trained, folder / "trained.safetensors")
        del plain, base
        ours.peft_config["default"].base_model_name_or_path = str(folder / "base")
        ours.save_pretrained(folder / "adapter")
        loading = time_in_turn(
            {
                "plain": lambda: load_plain(folder / "base", folder / "trained.safetensors"),
                "ours": lambda: SamedForSemanticSegmentation.from_pretrained(folder / "adapter"),
            },
            rounds=rounds,
        )
        model = SamedForSemanticSegmentation.from_pretrained(folder / "adapter")
        model.load_adapter(folder / "adapter", "second")
        names = iter(["default", "second"] * 100)
        switching = time_in_turn({"ours": lambda: model.set_adapter(next(names))}, rounds=21)
        cold = {kind: _cold_start(kind, folder) for kind in ("plain", "ours")}
    return {"load": loading, "switch": switching["ours"], "cold_start": cold}


def _cold_start(kind: str, folder: Path, rounds: int = 3) -> float:
    command = [sys.executable, "-m", "benchmarks.loading", kind, str(folder), str(torch.get_num_threads())]
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[1])
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[rounds // 2]


def _predict_once(kind: str, folder: Path) -> None:
    if kind == "plain":
        model = load_plain(folder / "base", folder / "trained.safetensors")
    else:
        model = SamedForSemanticSegmentation.from_pretrained(folder / "adapter")
    with torch.inference_mode():
        model(torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("plain", "ours"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("threads", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    _predict_once(arguments.kind, arguments.folder)
