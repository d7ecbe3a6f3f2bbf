"""Training as a whole: the same seed gives the same run, broken or not, in one process or two."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from samed_hf import SamedForSemanticSegmentation
from samed_hf.data.layouts import read_data
from samed_hf.data.splits import hold_out
from samed_hf.training import loop as training
from samed_hf.training.arguments import SamedTrainingArguments
from samed_hf.training.loop import train
from samed_hf.training.plan import TrainingPlan
from samed_hf.training.schedules import warmup_polynomial

from ..conftest import TINY_SIZE
from .conftest import reset_accelerate


def adapter_of(folder):
    return load_file(folder / "adapter_model.safetensors")


def assert_same(adapter, other):
    assert list(adapter) == list(other)
    for name, tensor in adapter.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.slow
def test_a_seed_gives_the_same_run_and_another_seed_another(settings, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(settings(output_dir=str(tmp_path / name), seed=seed))
    assert_same(adapter_of(tmp_path / "a"), adapter_of(tmp_path / "b"))
    differs = {k for k, v in adapter_of(tmp_path / "a").items() if not torch.equal(v, adapter_of(tmp_path / "c")[k])}
    assert any("lora_B" in key for key in differs)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"gradient_accumulation_steps": 2, "mixed_precision": "bf16"}])
def test_an_interrupted_and_resumed_run_gives_the_same_adapter(settings, tmp_path, monkeypatch, changes):
    whole, broken = settings(output_dir=str(tmp_path / "whole"), **changes), tmp_path / "broken"
    train(whole)
    changes |= {"output_dir": str(broken), "checkpointing_steps": 2}
    step = training.take_step

    def break_off(state, batches):
        if state.step == 5:
            raise KeyboardInterrupt
        return step(state, batches)

    monkeypatch.setattr(training, "take_step", break_off)
    with pytest.raises(KeyboardInterrupt):
        train(settings(**changes))
    monkeypatch.undo()
    assert not (broken / "adapter_model.safetensors").exists()
    torch.manual_seed(123)
    run = train(settings(resume_from_checkpoint="latest", **changes))
    assert_same(adapter_of(tmp_path / "whole"), adapter_of(broken))
    assert [row["step"] for row in run.log] == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in broken.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.slow
def test_two_processes_train_as_one_does_on_the_same_batches(settings, tmp_path):
    train(settings(output_dir=str(tmp_path / "1"), num_validation_cases=2))
    args = settings(output_dir=str(tmp_path / "2"), num_validation_cases=2, per_device_train_batch_size=2)
    flags = [f"--{key}={value}" for key, value in args.to_dict().items() if value not in (None, False)]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2"]
    result = subprocess.run(
        [*launch, "examples/train_synapse.py", *flags],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    logs = [list(csv.DictReader((tmp_path / name / "training_log.csv").open())) for name in ("1", "2")]
    rates = [0.005 * warmup_polynomial(step, warmup_steps=2, horizon=6) for step in range(6)]
    for log in logs:
        assert [float(row["learning_rate"]) for row in log] == rates
    # Rounding differs, and AdamW makes more of it with every step.
    for row, other in zip(*logs, strict=True):
        for key in ("loss", "cross_entropy", "dice"):
            assert float(row[key]) == pytest.approx(float(other[key]), rel=1e-4), key
    assert float(logs[0][0]["gradient_norm"]) == pytest.approx(float(logs[1][0]["gradient_norm"]), rel=1e-4)
    assert set(adapter_of(tmp_path / "2")) == set(adapter_of(tmp_path / "1"))
    scores = json.loads((tmp_path / "2" / "metrics.json").read_text())
    assert list(scores["per_case"]) == ["case0006", "case0007"]


def test_training_lowers_the_loss_and_the_saved_adapter_is_the_trained_model(settings, tmp_path):
    run = train(settings(max_train_steps=40, checkpointing_steps=25, num_validation_cases=1, eval_steps=20))
    loss = [row["loss"] for row in run.log]
    assert sum(loss[-5:]) < 0.85 * sum(loss[:5])
    assert [row["step"] for row in run.log if "validation_dice" in row] == [20, 40]
    assert run.data.validation == ["case0003"]
    assert "case0003" not in run.data.train
    pixels = torch.rand(1, 3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(0))
    loaded = SamedForSemanticSegmentation.from_pretrained(tmp_path / "run")
    with torch.no_grad():
        assert torch.equal(loaded(pixels).logits, run.model(pixels).logits)
    assert loaded.image_processor.input_size == 48


def test_gradient_checkpointing_changes_nothing(settings, tmp_path):
    for name in ("plain", "checkpointing"):
        changes = {"gradient_checkpointing": name == "checkpointing", "max_train_steps": 2}
        train(settings(output_dir=str(tmp_path / name), **changes))
    recomputed = adapter_of(tmp_path / "checkpointing")
    for name, tensor in adapter_of(tmp_path / "plain").items():
        torch.testing.assert_close(recomputed[name], tensor, rtol=0, atol=1e-6)


def test_weights_that_are_no_number_stop_the_run_and_leave_the_last_good_checkpoint(settings, tmp_path, monkeypatch):
    step = training.take_step

    def poison(state, batches):
        if state.step == 4:
            state.run.model.sam.prompt_encoder.no_mask_embed.modules_to_save["default"].weight.data.fill_(math.nan)
        return step(state, batches)

    monkeypatch.setattr(training, "take_step", poison)
    with pytest.raises(
        ValueError, match=r"stopped at step 6: the loss is nan.*case0.*max_skipped_steps is 1.*learning"
    ):
        train(settings(checkpointing_steps=4, max_skipped_steps=1))
    assert not (tmp_path / "run" / "adapter_model.safetensors").exists()
    finite = adapter_of(tmp_path / "run" / "checkpoint-4")
    assert all(tensor.isfinite().all() for tensor in finite.values())


@pytest.mark.slow
def test_a_new_run_archives_the_checkpoints_of_an_old_one(settings, tmp_path):
    for _ in range(2):
        train(settings(checkpointing_steps=4))
    assert sorted(path.name for path in (tmp_path / "run").glob("*/checkpoint-*")) == ["checkpoint-4"]
    assert (tmp_path / "run" / "earlier-1" / "checkpoint-4" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "run" / "checkpoint-4").is_dir()


def test_a_new_run_mixes_nothing_with_an_old_one(settings, tmp_path):
    train(settings())
    for name in ("metrics.json", "overlay.png", "README.md"):
        (tmp_path / "run" / name).write_text("of the old run")
    (tmp_path / "run" / "notes.txt").write_text("the user's own")
    before = (tmp_path / "run" / "adapter_model.safetensors").read_bytes()
    train(settings(seed=1))
    earlier = tmp_path / "run" / "earlier-1"
    assert (earlier / "metrics.json").read_text() == "of the old run"
    assert (earlier / "adapter_model.safetensors").read_bytes() == before
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert (tmp_path / "run" / "notes.txt").is_file()


def test_a_checkpoint_of_other_settings_is_refused(settings, tmp_path):
    train(settings(checkpointing_steps=4))
    for changes, message in (({"seed": 5}, "seed 0 then, 5 now"), ({"rank": 3}, "rank 4 then, 3 now")):
        with pytest.raises(ValueError, match=message):
            train(settings(resume_from_checkpoint="latest", checkpointing_steps=4, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resume_from_checkpoint": "nowhere"}, "'nowhere' is no complete checkpoint"),
        ({"num_validation_cases": 6}, "num_validation_cases is 6, but there are 6 training cases"),
        ({"data_dir": "nowhere"}, "data_dir 'nowhere' doesn't exist"),
        ({"report_to": "comet_ml"}, "report_to is 'comet_ml', which isn't installed"),
        ({"model_name_or_path": "nowhere/at-all"}, "model_name_or_path 'nowhere/at-all' can't be loaded"),
    ],
)
def test_bad_settings_leave_no_output(settings, tmp_path, changes, message):
    with pytest.raises((ValueError, OSError), match=message):
        train(settings(**changes))
    assert not (tmp_path / "run").exists()


def test_bad_values_are_named_all_at_once():
    with pytest.raises(ValueError, match="rank is 0") as error:
        SamedTrainingArguments(
            rank=0, seed=-1, variant="lora", image_size=100, plane="oblique", dataset_name="a/b", data_dir="."
        )
    for name in (
        "seed is -1",
        "variant is 'lora'",
        "image_size is 100",
        "plane is 'oblique'",
        "data_dir and dataset_name",
    ):
        assert name in str(error.value)


def test_the_papers_plan():
    args = SamedTrainingArguments(model_name_or_path="facebook/sam-vit-base", data_dir="synapse")
    args = args.fill_defaults()
    assert (args.image_size, args.rank, args.per_device_train_batch_size) == (512, 4, 12)
    plan = TrainingPlan.of(args, num_slices=2211, num_processes=2)
    assert plan == TrainingPlan(
        batches_per_epoch=93, accumulation=1, steps=160 * 93, horizon=200 * 93, warmup=250, eval_steps=40 * 93
    )


def test_the_rate_decays_over_max_train_steps_unless_epochs_are_given():
    for epochs, horizon in ((None, 50), (10, 10 * 25)):
        args = SamedTrainingArguments(data_dir="d", max_train_steps=50, num_train_epochs=epochs)
        args = args.fill_defaults()
        plan = TrainingPlan.of(args, num_slices=100, num_processes=1)
        assert (plan.steps, plan.horizon, plan.warmup) == (50, horizon, 1)


def test_cases_are_held_out_evenly_and_never_by_slice(tiny_data):
    data = read_data(tiny_data)
    for count, expected in ((0, []), (1, ["case0003"]), (2, ["case0001", "case0004"]), (None, ["case0003"])):
        trained, held_out = hold_out(data.train, count)
        assert held_out == expected
        assert sorted(trained + held_out) == data.train


@pytest.mark.slow
def test_frozen_weights_in_bfloat16_change_nothing_in_mixed_precision(settings, tmp_path):
    changes = {"mixed_precision": "bf16", "max_train_steps": 3, "num_validation_cases": 1, "eval_steps": 2}
    train(settings(output_dir=str(tmp_path / "float32"), **changes))
    reset_accelerate()
    run = train(settings(output_dir=str(tmp_path / "bfloat16"), frozen_dtype="bfloat16", **changes))
    first, second = (adapter_of(tmp_path / name) for name in ("float32", "bfloat16"))
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor), name
    assert run.model.dtype == torch.float32  # scored with the base model's own weights


def test_frozen_weights_in_bfloat16_require_mixed_precision(settings):
    with pytest.raises(ValueError, match="frozen_dtype is bfloat16 and mixed_precision no"):
        train(settings(frozen_dtype="bfloat16"))
