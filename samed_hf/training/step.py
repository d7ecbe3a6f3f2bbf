"""One optimizer step: batches, loss, gradient, and the update of the weights if both are finite."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Generator, Iterator
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from ..data import CaseStore, EpochBatchSampler, SliceDataset
from ..model import segmentation_loss
from ..transforms.augmentation import SAMED_AUGMENTATION, Augmentation, default_augmentation
from .checkpointing.state import TrainingState
from .distributed.interruption import outlive_signals
from .monitoring.progress import used_memory
from .setup import TrainingRun

__all__ = ["Batch", "choose_augmentation", "read_batches", "take_step"]


Batch = tuple[torch.Tensor, torch.Tensor, list[str]]
"""Pixels of shape `(batch_size, 3, S, S)`, float32, labels of shape `(batch_size, S / 4, S / 4)`, or for a
loss at full resolution `(batch_size, S, S)`, int64, on the device, and the case of each slice. Samples that only fill a
batch have the label `IGNORED` and no case."""


def choose_augmentation(name: str, store: CaseStore) -> Augmentation | None:
    """The augmentation of the setting `augmentation`, for the labels and the slices of a data set."""
    default = default_augmentation(store.data.id2label.values(), left_right=store.processor.axis_order[2] == 0)
    return {"default": default, "samed": SAMED_AUGMENTATION, "none": None}[name]


def read_batches(run: TrainingRun, first: int) -> Generator[Batch]:
    """Yield the batches of this process from step `first` on."""
    args, accelerator, plan = run.args, run.accelerator, run.plan
    augmentation, stride = choose_augmentation(args.augmentation, run.store), 1 if args.loss_resolution == "full" else 4
    dataset = SliceDataset(run.store, run.data.train, augmentation, args.seed, stride)
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
        # A generator of its own, so that torch's global state is the same in a resumed run.
        generator=torch.Generator().manual_seed(args.seed),
    )
    for batch in loader:
        cases = [dataset.locate(index)[0] for index in batch["index"].tolist() if index >= 0]
        pixels, labels = (batch[key].to(accelerator.device, non_blocking=True) for key in ("pixel_values", "labels"))
        yield pixels, labels, cases


def take_step(state: TrainingState, batches: Iterator[Batch]) -> dict[str, Any]:
    """Do one optimizer step and return its log row; the losses are means over accumulated batches and processes."""
    run, accelerator, args = state.run, state.run.accelerator, state.run.args
    started, cases = time.monotonic(), list[str]()
    sums = torch.zeros(3 + run.model.config.num_labels, device=accelerator.device)
    for _ in range(args.gradient_accumulation_steps):
        pixels, labels, names = next(batches)
        cases += names
        with accelerator.accumulate(state.model):
            logits = state.model(pixel_values=pixels).logits
            gathers = accelerator.num_processes > 1
            parts = segmentation_loss(logits, labels, run.model.config.dice_weight, across_processes=gathers)
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
    """Update the weights, their moments and averages if loss and gradient are finite.

    The schedule always advances, so that the learning rate of a step does not depend on earlier skipped steps.
    """
    accelerator, scaler = state.run.accelerator, state.run.accelerator.scaler
    if not (math.isfinite(loss) and math.isfinite(norm)):
        cases = gather_object(cases)
    if state.guard.accepts(state.step + 1, loss, norm, cases, scaled=scaler is not None):
        state.optimizer.step()
        if state.average is not None and not accelerator.optimizer_step_was_skipped:
            state.average.update()
    elif scaler is not None:
        scaler.update()
    state.optimizer.zero_grad()
    with warnings.catch_warnings():
        # Raised if the first step was skipped; the schedule advances on purpose.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        state.schedule.step()
    state.step += 1
