"""Training a SAMed adapter with Accelerate: from a folder of slices to an adapter."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from .checkpoints import find_checkpoint, load_checkpoint, register_adapter_hooks, save_checkpoint
from .data.slices import EpochBatchSampler, SliceDataset
from .inference import predict_slices
from .losses import segmentation_loss
from .metrics import binary_dice
from .modeling_samed import SamedForSemanticSegmentation
from .schedules import warmup_polynomial
from .training_arguments import TrainingArguments
from .training_progress import Progress, read_log
from .training_setup import TrainingRun, set_up_run
from .transforms import SAMED_AUGMENTATION, default_augmentation

__all__ = ["train"]

_WATCHED = 12
_FUSED = ("cpu", "cuda", "mps", "xpu")  # where PyTorch has AdamW in one kernel
_SHARED = ("seed", "rank", "variant", "image_size", "augmentation", "learning_rate", "weight_decay", "lr_power")
_SHARED += ("per_device_train_batch_size", "gradient_accumulation_steps", "mixed_precision", "num_folds", "fold")
_SHARED += ("preprocessing", "intensity_window", "orientation", "plane", "context_slices")


def train(args: TrainingArguments, on_push: Callable[[TrainingRun, Path], None] | None = None) -> TrainingRun:
    """Train an adapter and save it in `args.output_dir`, with `training_log.csv` and checkpoints beside it.

    Args:
        args: the settings.
        on_push: called on the main process every `push_every` steps with the run and a folder that holds the adapter.

    The processes are still together when it returns: `run.accelerator.end_training()` closes trackers and parts them.

    Raises:
        ValueError, FileNotFoundError: bad settings or data, before anything is trained; or a loss that isn't finite.
    """
    run = set_up_run(args)
    run.say(run.describe())
    started = time.monotonic()
    _loop(run, on_push)
    run.seconds = time.monotonic() - started
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        run.model.save_pretrained(run.output_dir, image_processor=run.processor)
    run.accelerator.wait_for_everyone()
    if args.frozen_dtype == "bfloat16":
        # Scored as anyone will load it, with the base model's own weights.
        run.model = SamedForSemanticSegmentation.from_pretrained(run.output_dir).to(run.accelerator.device)
    return run


def _loop(run: TrainingRun, on_push: Callable[[TrainingRun, Path], None] | None) -> None:
    args, accelerator, plan = run.args, run.accelerator, run.plan
    trained = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained,
        lr=args.learning_rate,
        betas=(0.9, 0.999),
        weight_decay=args.weight_decay,
        fused=accelerator.device.type in _FUSED,
    )
    # Not prepared by Accelerate, which would step it once for every process: the schedule counts optimizer steps.
    schedule = LambdaLR(
        optimizer,
        lambda step: warmup_polynomial(step, warmup_steps=plan.warmup, horizon=plan.horizon, power=args.lr_power),
    )
    model, optimizer = accelerator.prepare(run.model, optimizer)
    accelerator.register_for_checkpointing(schedule)
    register_adapter_hooks(accelerator, model)
    first, last_checkpoint = _resume(run)
    if accelerator.log_with:
        accelerator.init_trackers("samed_hf", config={k: v for k, v in args.to_dict().items() if v is not None})
    every = args.checkpointing_steps if args.checkpointing_steps is not None else max(1, plan.batches_per_epoch)
    validate_every = args.eval_steps or max(1, plan.steps // 4)
    batches = iter(_loader(run, first))
    run.model.train()
    with Progress(run, first) as progress:
        for step in range(first + 1, plan.steps + 1):
            row = {"step": step, "learning_rate": schedule.get_last_lr()[0]}
            row |= _step(run, model, optimizer, batches, trained, step, last_checkpoint)
            schedule.step()
            row["epoch"] = step * plan.accumulation / plan.batches_per_epoch
            if run.data.validation and (step % validate_every == 0 or step == plan.steps):
                row["validation_dice"] = _validate(run)
            progress.add(row)
            if on_push and args.push_every and step % args.push_every == 0 and step < plan.steps:
                _push(run, on_push)
            if every and step % every == 0 and step < plan.steps:
                state = {"num_processes": accelerator.num_processes, "settings": _shared_settings(run)}
                last_checkpoint = save_checkpoint(
                    accelerator, run.output_dir, step, state, args.checkpoints_total_limit
                )
    run.model.eval()


def _push(run: TrainingRun, on_push: Callable[[TrainingRun, Path], None]) -> None:
    """Hand the adapter, as it is now, to `on_push`."""
    if run.accelerator.is_main_process:
        with tempfile.TemporaryDirectory() as folder:
            run.model.save_pretrained(folder, image_processor=run.processor)
            on_push(run, Path(folder))
    run.accelerator.wait_for_everyone()


def _resume(run: TrainingRun) -> tuple[int, Path | None]:
    """Continue from a checkpoint where one is asked for; returns the steps already done and the checkpoint."""
    if run.args.resume_from_checkpoint is None:
        if run.accelerator.is_main_process:
            run.output_dir.mkdir(parents=True, exist_ok=True)
        run.accelerator.wait_for_everyone()
        return 0, None
    folder = find_checkpoint(run.output_dir, run.args.resume_from_checkpoint)
    step = int(load_checkpoint(run.accelerator, folder, _shared_settings(run))["step"])
    if step >= run.plan.steps:
        raise ValueError(
            f"resume_from_checkpoint {str(folder)!r} has {step} steps done, but the run has {run.plan.steps}: give the "
            "settings of the interrupted run, or more epochs."
        )
    run.log = read_log(run.output_dir / "training_log.csv", step)
    run.say(f"resume      {folder}, {step} steps done")
    return step, folder


def _shared_settings(run: TrainingRun) -> dict[str, Any]:
    """What a run that continues another must have in common with it."""
    return {name: getattr(run.args, name) for name in _SHARED} | {"training slices": run.num_slices}


def _loader(run: TrainingRun, first: int) -> DataLoader:
    args, accelerator, plan = run.args, run.accelerator, run.plan
    default = default_augmentation(run.data.id2label.values(), left_right=run.processor.axis_order[2] == 0)
    augmentation = {"default": default, "samed": SAMED_AUGMENTATION, "none": None}[args.augmentation]
    dataset = SliceDataset(run.store, run.data.train, augmentation, args.seed)
    sampler = EpochBatchSampler(
        len(dataset),
        args.per_device_train_batch_size,
        plan.steps * plan.accumulation,
        seed=args.seed,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        start=first * plan.accumulation,
    )
    cuda = accelerator.device.type == "cuda"
    return DataLoader(dataset, batch_sampler=sampler, num_workers=args.dataloader_num_workers, pin_memory=cuda)


def _step(
    run: TrainingRun,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[dict[str, torch.Tensor]],
    trained: list[torch.nn.Parameter],
    step: int,
    last_checkpoint: Path | None,
) -> dict[str, float]:
    """One optimizer step; returns the means of its losses over batches and processes, and the gradient's norm."""
    accelerator, args = run.accelerator, run.args
    sums = torch.zeros(3, device=accelerator.device)
    norm = torch.zeros(())
    for _ in range(args.gradient_accumulation_steps):
        batch = {key: value.to(accelerator.device, non_blocking=True) for key, value in next(batches).items()}
        with accelerator.accumulate(model):
            logits = model(pixel_values=batch["pixel_values"]).logits
            parts = segmentation_loss(
                logits, batch["labels"], run.model.config.dice_weight, across_processes=accelerator.num_processes > 1
            )
            sums += torch.stack([part.detach() for part in parts])
            accelerator.backward(parts.loss)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(trained, args.max_grad_norm or math.inf)
                means = accelerator.reduce(sums / args.gradient_accumulation_steps, reduction="mean").tolist()
                _stop_unless_finite(means[0], norm, accelerator, step, last_checkpoint)
            optimizer.step()
            optimizer.zero_grad()
    return dict(zip(("loss", "cross_entropy", "dice"), means, strict=True)) | {"gradient_norm": float(norm)}


def _stop_unless_finite(
    loss: float, norm: torch.Tensor, accelerator: Accelerator, step: int, last_checkpoint: Path | None
) -> None:
    # With fp16, an infinite gradient is the loss scaler's business: it skips the step and scales less.
    finite = math.isfinite(loss) and (accelerator.scaler is not None or math.isfinite(float(norm)))
    if not finite:
        kept = f"the last good checkpoint is {last_checkpoint}" if last_checkpoint else "there is no checkpoint yet"
        raise ValueError(
            f"The training stopped at step {step}: the loss is {loss}, the gradient's norm {float(norm)}; {kept}. Try "
            "a lower --learning_rate, --max_grad_norm 1, or --mixed_precision no."
        )


def _watched(run: TrainingRun) -> list[str]:
    """The validation cases looked at during the training: at most twelve, spread over all; the end scores all."""
    cases = run.data.validation
    count = min(len(cases), _WATCHED)
    return [cases[index * len(cases) // count] for index in range(count)]


def _precision(run: TrainingRun) -> AbstractContextManager:
    """What the model needs around it outside of Accelerate's own wrapper."""
    return run.accelerator.autocast() if run.args.frozen_dtype == "bfloat16" else nullcontext()


def _validate(run: TrainingRun) -> float:
    """Mean Dice over the cases watched and their labels, the cases divided over the processes."""
    accelerator = run.accelerator
    run.model.eval()
    dice = []
    for name in _watched(run)[accelerator.process_index :: accelerator.num_processes]:
        case = run.store.case(name)
        with _precision(run):
            prediction = predict_slices(run.model, case.image, run.processor)
        for label in range(1, run.model.config.num_labels):
            masks = prediction == label, case.label == label
            if masks[0].any() or masks[1].any():
                dice.append(binary_dice(*masks))
    run.model.train()
    dice = gather_object(dice)
    return sum(dice) / len(dice) if dice else 0.0
