"""The memory of a training step against steps with real numbers, and by hand."""

from dataclasses import replace

import pytest
import torch

from samed_hf.diagnostics.memory import LiveBytes, StepSettings, estimate_training, make_meta_model, read_base_config
from samed_hf.diagnostics.memory_table import base_config, fitting_batches
from samed_hf.model import attention
from samed_hf.model.configuration_samed import SamedConfig
from samed_hf.model.lora import cast_frozen, samed_lora_config
from samed_hf.model.losses import segmentation_loss
from samed_hf.model.modeling_samed import SamedForSemanticSegmentation

SETTINGS = StepSettings(image_size=128, num_labels=3, fused=False)


@pytest.fixture(scope="module")
def base(tiny_sam):
    return read_base_config(str(tiny_sam))


def real_peak(base, settings):
    """Bytes alive at the worst moment of a real step on this processor."""
    torch.manual_seed(0)
    model = SamedForSemanticSegmentation(SamedConfig.from_dict(dict(base), image_size=128, num_labels=3))
    model.add_adapter(samed_lora_config(4))
    if settings.frozen_bfloat16:
        cast_frozen(model, torch.bfloat16)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable()
    model.train()
    attention._memory.kept = None
    with LiveBytes() as live:
        pixels = torch.rand(settings.batch_size, 3, 128, 128)
        labels = torch.zeros(settings.batch_size, 32, 32, dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.mixed_precision):
            logits = model(pixels).logits
        segmentation_loss(logits.float(), labels, 0.8).loss.backward()
    attention._memory.kept = None
    return live.peak


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": 3},
        {"gradient_checkpointing": True},
        {"mixed_precision": True},
        {"mixed_precision": True, "frozen_bfloat16": True, "gradient_checkpointing": True, "batch_size": 2},
    ],
    ids=str,
)
def test_a_real_step_takes_as_much(base, changes):
    settings = replace(SETTINGS, **changes)
    assert estimate_training(base, settings).step == pytest.approx(real_peak(base, settings), rel=0.02)


def test_older_tensors_and_their_views_dont_count():
    weight = torch.zeros(100, 10)
    with LiveBytes() as live:
        kept = weight.t()
        assert live.peak == 0
        product = kept.t() @ torch.ones(10, 5)
        assert (live.now, live.peak) == (4 * 500, 4 * (500 + 50))
        del product
    assert live.now == 0


def test_weights_and_moments_by_hand(base):
    memory = estimate_training(base, SETTINGS)
    model = make_meta_model(base, SETTINGS)
    trained = [one.numel() for one in model.parameters() if one.requires_grad]
    assert (memory.trained, memory.parameters) == (sum(trained), sum(one.numel() for one in model.parameters()))
    assert memory.weights == 4 * memory.parameters
    assert memory.optimizer == 8 * memory.trained
    assert memory.total == memory.weights + memory.optimizer + memory.step
    average = estimate_training(base, replace(SETTINGS, ema=True))
    assert average.optimizer == 12 * memory.trained
    together = estimate_training(base, replace(SETTINGS, num_processes=2))
    assert together.step == memory.step + 4 * memory.trained


def test_moments_of_eight_bits(base):
    memory = estimate_training(base, replace(SETTINGS, optimizer="adamw_8bit"))
    trained = [one.numel() for one in make_meta_model(base, SETTINGS).parameters() if one.requires_grad]
    small = sum(count for count in trained if count < 4096)
    blocks = sum(-(-count // 256) for count in trained if count >= 4096)
    assert memory.optimizer == 8 * small + 2 * (sum(trained) - small + 4 * blocks)


def test_every_saving_saves(base):
    # A batch large enough that activations outweigh the rest.
    plain = replace(SETTINGS, batch_size=8, fused=True)
    changes = [
        {"mixed_precision": True},
        {"frozen_bfloat16": True},
        {"gradient_checkpointing": True},
        {"batch_size": 4},
    ]
    totals = [estimate_training(base, plain).total]
    for change in changes:
        plain = replace(plain, **change)
        totals.append(estimate_training(base, plain).total)
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == len(totals)


def test_an_estimate_leaves_nothing_behind(base):
    attention._memory.kept = None
    state = torch.get_rng_state()
    estimate_training(base, SETTINGS)
    assert attention._memory.kept is None
    assert torch.equal(state, torch.get_rng_state())
    assert torch.ones(3).sum().item() == 3  # no mode is left


@pytest.mark.parametrize(("model", "count"), [("ViT-B", 86e6), ("ViT-L", 304e6), ("ViT-H", 632e6)])
def test_the_published_sizes_are_those(model, count):
    # The image encoders' sizes of Segment Anything, here without prompt encoder and decoder's copy.
    meta = make_meta_model(base_config(model), StepSettings(image_size=1024))
    encoder = [one.numel() for name, one in meta.named_parameters() if "vision_encoder" in name and "lora" not in name]
    assert sum(encoder) == pytest.approx(count, rel=0.06)


def test_what_fits_grows_with_what_is_free(monkeypatch):
    monkeypatch.setattr("samed_hf.diagnostics.memory_table._VISION", {"ViT-B": {}})
    free = {"little": 1e8, "some": 0.6e9, "much": 1e12}
    found = {device: row["ViT-B"] for device, row in fitting_batches(free, ["some"]).items()}
    assert found["little"] is None
    assert found["some"]["batch_size"] in (1, 4)
    assert found["some"]["bytes"] <= 0.6e9
    assert "--frozen_dtype bfloat16" in found["some"]["flags"]
    assert (found["much"]["batch_size"], found["much"]["flags"]) == (12, "")
    older = fitting_batches({"cuda:0": 1e9, "cpu": 1e9}, [])
    assert older["cuda:0"]["ViT-B"]["flags"] == "--mixed_precision fp16 --gradient_checkpointing"
    assert older["cpu"]["ViT-B"]["flags"] == "--gradient_checkpointing"
