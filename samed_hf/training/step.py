"""One optimizer step of a training: its batches read, the loss, and the weights changed where all is finite."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from ..data.sampling import EpochBatchSampler, SliceDataset
from ..model.losses import segmentation_loss
from ..transforms.augmentation import SAMED_AUGMENTATION, default_augmentation
from .checkpointing.state import TrainingState
from .distributed.interruption import outlive_signals
from .monitoring.progress import used_memory
from .setup import TrainingRun

__all__ = ["Batch", "read_batches", "take_step"]


class Batch(NamedTuple):
    """Samples on the device.

    Attributes:
        pixels: of shape `(batch_size, 3, S, S)`, float32.
        labels: of shape `(batch_size, S / 4, S / 4)`, int64, or `IGNORED` in samples that only fill a batch.
        cases: whose slices they are.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    cases: list[str]


def read_batches(run: TrainingRun, first: int) -> Generator[Batch]:
    """The batches of this process from step `first` on."""
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
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=args.dataloader_num_workers,
        pin_memory=accelerator.device.type == "cuda",
        worker_init_fn=outlive_signals,
        # Its own random stream: torch's is left as it is where a run continues.
        generator=torch.Generator().manual_seed(args.seed),
    )
    for batch in loader:
        cases = [dataset.locate(index)[0] for index in batch["index"].tolist() if index >= 0]
        pixels, labels = (batch[key].to(accelerator.device, non_blocking=True) for key in ("pixel_values", "labels"))
        yield Batch(pixels, labels, cases)


def take_step(state: TrainingState, batches: Iterator[Batch]) -> dict[str, Any]:
    """One optimizer step; returns its row of the log, losses being means over batches and processes."""
    run, accelerator, args = state.run, state.run.accelerator, state.run.args
    started, count, cases = time.monotonic(), 0, []
    sums = torch.zeros(3 + run.model.config.num_labels, device=accelerator.device)
    for _ in range(args.gradient_accumulation_steps):
        batch = next(batches)
        cases += batch.cases
        with accelerator.accumulate(state.model):
            logits = state.model(pixel_values=batch.pixels).logits
            parts = segmentation_loss(
                logits,
                batch.labels,
                run.model.config.dice_weight,
                across_processes=accelerator.num_processes > 1,
            )
            sums += torch.stack([part.detach() for part in (*parts[:3], *parts.dice_per_class)])
            accelerator.backward(parts.loss)
            if accelerator.sync_gradients:
                norm = float(accelerator.clip_grad_norm_(state.trained, args.max_grad_norm or math.inf))
    count = accelerator.reduce(torch.tensor(len(cases), device=accelerator.device), reduction="sum").item()
    means = accelerator.reduce(sums / args.gradient_accumulation_steps, reduction="mean").tolist()
    row = {"step": state.step + 1, "learning_rate": state.schedule.get_last_lr()[0]}
    row |= dict(zip(("loss", "cross_entropy", "dice"), means, strict=False)) | {"dice_per_class": means[3:]}
    _update(state, means[0], norm, cases)
    return row | {
        "gradient_norm": norm,
        "skipped": state.guard.skipped,
        "samples_per_second": count / (time.monotonic() - started),
        "memory_bytes": used_memory(accelerator.device),
        "epoch": state.step * run.plan.accumulation / run.plan.batches_per_epoch,
    }


def _update(state: TrainingState, loss: float, norm: float, cases: list[str]) -> None:
    """Change the weights, unless loss or gradient isn't finite: then they, their moments and averages stay as they are.

    The schedule advances all the same. Its steps are places in the data and on the way to the end, so that the rate of
    a step is that of the plan whatever was skipped before it.
    """
    accelerator = state.run.accelerator
    if not (math.isfinite(loss) and math.isfinite(norm)):
        cases = gather_object(cases)
    scaler = accelerator.scaler
    if state.guard.accepts(state.step + 1, loss, norm, cases, scaled=scaler is not None):
        state.optimizer.step()
        if state.average is not None and not accelerator.optimizer_step_was_skipped:
            state.average.update()
    elif scaler is not None:
        scaler.update()
    state.optimizer.zero_grad()
    with warnings.catch_warnings():
        # Told where the very first step was skipped; that the schedule advances is meant.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        state.schedule.step()
    state.step += 1
