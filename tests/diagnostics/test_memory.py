"""The estimated memory of a training step, compared with real steps and with hand-computed values."""

import re
import shlex
from dataclasses import replace

import pytest
import torch

from samed_hf.cli import main
from samed_hf.diagnostics.fake_step import LiveBytes
from samed_hf.diagnostics.memory import (
    MemoryEstimate,
    StepSettings,
    base_config,
    estimate_training,
    fitting_batches,
    make_meta_model,
    read_base_config,
    suggest_base,
)
from samed_hf.model import attention
from samed_hf.model.configuration_samed import SamedConfig
from samed_hf.model.lora import cast_frozen, samed_lora_config
from samed_hf.model.losses import segmentation_loss
from samed_hf.model.modeling_samed import SamedForSemanticSegmentation

from ..data_folders import make_scans, write_nnunet

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


@pytest.mark.slow
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
def test_the_estimate_equals_a_real_step(base, changes):
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


def test_live_bytes_by_hand():
    with LiveBytes() as live:
        one = torch.empty(1000, device="meta")
        two = one + 1
        view = two.view(10, 100)
        assert live.now == live.peak == 8000
        del two
        assert live.now == 8000  # the view keeps the storage alive
        del view
        assert live.now == 4000
        three = torch.empty(500, device="meta")
        assert (live.now, live.peak) == (6000, 8000)
        del three, one
    assert (live.now, live.peak) == (0, 8000)


@pytest.mark.slow
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
    distributed = estimate_training(base, replace(SETTINGS, num_processes=2))
    assert distributed.step == memory.step + 4 * memory.trained


@pytest.mark.slow
def test_moments_of_eight_bits(base):
    memory = estimate_training(base, replace(SETTINGS, optimizer="adamw_8bit"))
    trained = [one.numel() for one in make_meta_model(base, SETTINGS).parameters() if one.requires_grad]
    small = sum(count for count in trained if count < 4096)
    blocks = sum(-(-count // 256) for count in trained if count >= 4096)
    assert memory.optimizer == 8 * small + 2 * (sum(trained) - small + 4 * blocks)


@pytest.mark.slow
def test_every_memory_flag_reduces_the_estimate(base):
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


@pytest.mark.slow
def test_an_estimate_changes_no_global_state(base):
    attention._memory.kept = None
    state = torch.get_rng_state()
    estimate_training(base, SETTINGS)
    assert attention._memory.kept is None
    assert torch.equal(state, torch.get_rng_state())
    assert torch.ones(3).sum().item() == 3  # no dispatch mode is active


@pytest.mark.parametrize(
    ("model", "count"),
    [("SlimSAM-77", 5.7e6), ("SlimSAM-50", 24e6), ("ViT-B", 86e6), ("ViT-L", 304e6), ("ViT-H", 632e6)],
)
def test_the_published_sizes_are_those(model, count):
    # The image encoders' sizes of Segment Anything, here without prompt encoder and decoder's copy.
    meta = make_meta_model(base_config(model), StepSettings(image_size=1024))
    encoder = [one.numel() for name, one in meta.named_parameters() if "vision_encoder" in name and "lora" not in name]
    assert sum(encoder) == pytest.approx(count, rel=0.06)


@pytest.mark.slow
def test_what_fits_grows_with_what_is_free(monkeypatch):
    small = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "global_attn_indexes": [1]}
    monkeypatch.setattr("samed_hf.diagnostics.memory.MODELS", {"small": small})
    checkpointing = StepSettings(gradient_checkpointing=True, batch_size=4)
    half = replace(checkpointing, mixed_precision=True)
    total = estimate_training(base_config("small"), replace(half, frozen_bfloat16=True)).total
    free = {"none": 1e7, "slim": total, "all": 1e12}
    found = {device: row["small"] for device, row in fitting_batches(free, ["slim"]).items()}
    slim = "--mixed_precision bf16 --frozen_dtype bfloat16 --gradient_checkpointing"
    assert found["none"] is None
    assert found["slim"] == {"batch_size": 4, "flags": slim, "bytes": total}
    assert (found["all"]["batch_size"], found["all"]["flags"]) == (12, "")
    for device, flags, settings in (
        ("cuda:0", "--mixed_precision fp16 --gradient_checkpointing", half),
        ("cpu", "--gradient_checkpointing", checkpointing),
    ):
        total = estimate_training(base_config("small"), settings).total
        fit = fitting_batches({device: total}, [])[device]["small"]
        assert fit == {"batch_size": 4, "flags": flags, "bytes": total}


@pytest.mark.slow
def test_the_largest_smaller_base_that_fits_is_suggested(narrow_models):
    step = StepSettings(image_size=64, fused=False)
    base, *small = (base_config(name) for name in narrow_models)
    most, medium, least = (estimate_training(one, step).total for one in (base, *small))
    assert most > medium > least
    assert suggest_base(base, [step], most) == ("nielsr/slimsam-50-uniform", step, medium)  # never the base itself
    assert suggest_base(base, [step], medium - 1) == ("nielsr/slimsam-77-uniform", step, least)
    packaged = estimate_training(read_base_config("samed_hf/small"), step).total
    assert packaged < least
    assert suggest_base(base, [step], least - 1) == ("samed_hf/small", step, packaged)
    assert suggest_base(small[1], [step], most) == ("samed_hf/small", step, packaged)
    assert suggest_base(base, [step], packaged - 1) is None
    assert suggest_base(read_base_config("samed_hf/small"), [step], most) is None


def test_the_base_is_sam_vit_base_unless_another_is_named(tiny_sam, tmp_path):
    model = make_meta_model(read_base_config(None), StepSettings(image_size=128))
    assert 85e6 < sum(one.numel() for one in model.parameters()) < 105e6
    with pytest.raises(FileNotFoundError, match="model_name_or_path"):
        read_base_config(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="model_type"):
        read_base_config(str(tmp_path))


@pytest.mark.slow
def test_the_estimates_of_one_model(base):
    memory = MemoryEstimate(base, SETTINGS)
    assert memory.training(3) == estimate_training(base, replace(SETTINGS, batch_size=3))
    checkpointed = memory.training(3, gradient_checkpointing=True)
    assert checkpointed == estimate_training(base, replace(SETTINGS, batch_size=3, gradient_checkpointing=True))
    assert checkpointed.total < memory.training(3).total
    one, two, three = (memory.prediction(size) for size in (1, 2, 3))
    assert three - two == two - one > 0
    assert one - (two - one) == 4 * memory.training(1).parameters


@pytest.mark.slow
def test_validate_and_dry_run_print_the_same_memory(tiny_sam, tmp_path, capsys):
    """For the command that validate suggests."""
    data = write_nnunet(tmp_path / "data", make_scans(6, (30, 34, 5)))
    output = ["--output", str(tmp_path / "out"), "--model_name_or_path", str(tiny_sam)]
    assert main(["validate", str(data), *output]) in (0, 1)
    printed = capsys.readouterr().out
    command = shlex.split(re.search(r"^samed-hf train .*$", printed, re.M)[0])
    assert main([*command[1:], "--dry_run", "--report_to", "none"]) == 0
    numbers = re.compile(r"about [\d.]+ GB: .* slices")
    assert numbers.search(capsys.readouterr().out)[0] == numbers.search(printed)[0]
