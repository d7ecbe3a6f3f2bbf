"""Runs with other trained parts, optimizers and loss weights than the paper's: what changes, and resuming."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from samed_hf import SamedForSemanticSegmentation
from samed_hf.diagnostics.memory import StepSettings, estimate_training, read_base_config
from samed_hf.training.loop import train
from samed_hf.training.setup import set_up_run
from samed_hf.training.step import read_batches

from .conftest import reset_accelerate

RECIPES = {
    "targets": {"lora_targets": "o,k,mlp"},
    "frozen": {"encoder": "frozen"},
    "frozen_s": {"encoder": "frozen", "variant": "samed_s", "optimizer": "adam"},
    "full": {"encoder": "full", "optimizer": "sgd", "learning_rate": 0.01, "ema_decay": 0.9},
    "sgd": {"optimizer": "sgd", "dice_weight": 0.5, "loss_resolution": "full"},
}


def finish(args):
    reset_accelerate()
    run = train(args)
    return run, load_file(run.output_dir / "adapter_model.safetensors")


@pytest.mark.parametrize(
    "name", ["frozen", *(pytest.param(one, marks=pytest.mark.slow) for one in RECIPES if one != "frozen")]
)
def test_a_resumed_run_equals_a_whole_one(settings, name):
    args = settings(max_train_steps=4, checkpointing_steps=2, save_best=False, watched_slices=0, **RECIPES[name])
    run, whole = finish(args)
    before = SamedForSemanticSegmentation.from_pretrained(run.output_dir)
    (run.output_dir / "adapter_model.safetensors").unlink()
    again, resumed = finish(replace(args, resume_from_checkpoint="latest"))
    assert [row["step"] for row in again.log] == [1, 2, 3, 4]
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    written = json.loads((run.output_dir / "training_settings.json").read_text())
    assert {key: written[key] for key in ("encoder", "optimizer", "dice_weight")} == {
        "encoder": args.encoder,
        "optimizer": args.optimizer,
        "dice_weight": args.dice_weight,
    }
    assert written["lora_targets"] == {"targets": "k,o,mlp", "sgd": "q,v"}.get(name)
    assert before.config.dice_weight == args.dice_weight
    assert before.config.loss_resolution == (args.loss_resolution or "low") == written["loss_resolution"]
    other = {"encoder": "lora"} if args.encoder != "lora" else {"dice_weight": 0.7, "lora_targets": "k"}
    with pytest.raises(ValueError, match="written with other settings"):
        finish(replace(args, resume_from_checkpoint="latest", **other))


def test_the_logged_parts_are_unweighted(settings):
    for weight in (0.0, 0.3, 1.0):
        run, _ = finish(settings(max_train_steps=1, dice_weight=weight, watched_slices=0))
        row = run.log[0]
        assert row["loss"] == pytest.approx((1 - weight) * row["cross_entropy"] + weight * row["dice"], rel=1e-6)
        assert (row["cross_entropy"] > 0.1, row["dice"] > 0.1) == (True, True)


def test_the_loss_at_the_inputs_resolution(settings):
    """The first loss of a run is that of the model on the same batch, whose labels aren't reduced."""
    args = settings(max_train_steps=1, loss_resolution="full", watched_slices=0)
    reset_accelerate()
    run = set_up_run(args)
    pixels, labels, _ = next(read_batches(run, 0))
    assert labels.shape[1:] == pixels.shape[2:] == (64, 64)
    with torch.no_grad():
        expected = run.model.train()(pixels, labels=labels)
    row = train(args).log[0]
    assert row["loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    assert "recipe      not the paper's: loss_resolution full instead of low\n" in run.describe()


@pytest.mark.parametrize("encoder", ["frozen", "full"])
def test_the_plan_counts_what_is_trained(settings, encoder):
    args = settings(max_train_steps=1, encoder=encoder, gradient_checkpointing=True, watched_slices=0)
    run, saved = finish(args)
    own = SamedForSemanticSegmentation.from_pretrained(args.model_name_or_path, image_size=64, num_labels=3)
    trained = sum(one.numel() for name, one in own.named_parameters() if one.requires_grad and "vision" not in name)
    # Without an adapter all of the model is trained but for what never gets a gradient.
    counts = {"frozen": trained, "full": sum(one.numel() for one in own.parameters() if one.requires_grad)}
    text = run.describe()
    assert f"trains      {counts[encoder]:,} of {own.num_parameters():,} parameters: mask decoder" in text
    assert ("image encoder" in text.partition("parameters:")[2].partition("\n")[0]) == (encoder == "full")
    assert ("recipe      not the paper's: encoder " + encoder + " instead of lora\n") in text
    assert ("gradient_checkpointing has no effect" in text) == (encoder == "frozen")
    assert any("vision_encoder" in name for name in saved) == (encoder == "full")


@pytest.mark.slow
def test_the_trained_parts_determine_the_memory(tiny_sam):
    base, step = read_base_config(str(tiny_sam)), StepSettings(image_size=64, num_labels=3, batch_size=8)
    frozen, lora, full = (estimate_training(base, replace(step, encoder=mode)) for mode in ("frozen", "lora", "full"))
    assert frozen.step < lora.step < full.step
    assert (frozen.trained, lora.trained) == (
        full.trained - count_encoder(tiny_sam),
        frozen.trained + 4 * 2 * 2 * 4 * 32,
    )
    assert full.optimizer == 8 * full.trained


@pytest.mark.slow
def test_the_optimizer_and_checkpointing_determine_the_memory(tiny_sam):
    base, step = read_base_config(str(tiny_sam)), StepSettings(image_size=64, num_labels=3, encoder="frozen")
    plain = estimate_training(base, step)
    for optimizer, size in (("adamw", 8), ("adam", 8), ("sgd", 4)):
        assert estimate_training(base, replace(step, optimizer=optimizer)).optimizer == size * plain.trained
    assert estimate_training(base, replace(step, gradient_checkpointing=True)) == plain


def count_encoder(base):
    model = SamedForSemanticSegmentation.from_pretrained(base, image_size=64)
    return sum(one.numel() for one in model.sam.vision_encoder.parameters())
