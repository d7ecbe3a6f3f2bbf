"""`samed-hf train --dry_run`: the plan, the parameters and the memory of a run, told before anything long starts."""

from __future__ import annotations

import copy
import logging
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from transformers.utils import logging as transformers_logging

from ..data.dataset import CaseDataset
from ..data.processor import make_processor, slice_side
from ..diagnostics.memory import StepSettings, TrainingMemory, estimate_training, make_meta_model, read_base_config
from ..inference.batching import free_memory
from ..model.image_processing_samed import SamedImageProcessor
from ..model.precision import computes_bfloat16
from ..model.random_sam import make_random_sam
from ..volumes._checks import NotFiniteError
from .arguments import SamedTrainingArguments
from .checkpointing.checkpoints import find_checkpoint
from .data import read_training_data
from .distributed.logging import get_logger
from .run import TrainingPlan, describe_run
from .setup import check_base, make_accelerator

__all__ = ["log_plan"]

logger = get_logger(__name__)

_READ = 3  # cases of whole scans that are read to reckon how many slices all have
_GIGA = 1e9


def log_plan(args: SamedTrainingArguments) -> None:
    """Log what a run with these settings would do and need; nothing is trained, downloaded or left on disk.

    Raises:
        ValueError, FileNotFoundError: bad settings, data or base model, as the run itself would refuse them.
    """
    args = copy.copy(args)
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="samed-hf-dry-run-") as folder:
        for line in _plan(args, Path(folder)):
            logger.log(
                logging.WARNING if line.startswith("warning") else logging.INFO, line.removeprefix("warning     ")
            )


def _plan(args: SamedTrainingArguments, folder: Path) -> list[str]:
    cpu = not torch.accelerator.is_available()
    num_processes = PartialState(cpu=cpu).num_processes
    data = _read_data(args, folder)
    processor = make_processor(args, data, args.image_size)
    side = slice_side(data, processor) if args.uses_random_sam and args.image_size is None else None
    args.fill_defaults(num_processes, side)
    if args.resume_from_checkpoint is not None:
        find_checkpoint(Path(args.output_dir), args.resume_from_checkpoint)
    accelerator = make_accelerator(args, cpu)
    if args.uses_random_sam:
        base = read_base_config(str(make_random_sam(folder / "base", image_size=args.image_size)))
    else:
        check_base(args)
        base = read_base_config(args.model_name_or_path, revision=args.model_revision, token=args.hub_token)
    num_slices, counted = _count_slices(data, processor)
    plan = TrainingPlan.of(args, num_slices, num_processes)
    mixed = accelerator.mixed_precision in ("bf16", "fp16")
    settings = StepSettings(
        image_size=args.image_size,
        num_labels=len(data.id2label),
        rank=args.rank,
        variant=args.variant,
        batch_size=args.per_device_train_batch_size,
        mixed_precision=mixed and (accelerator.device.type != "cpu" or accelerator.mixed_precision == "bf16"),
        frozen_bfloat16=args.frozen_dtype == "bfloat16",
        gradient_checkpointing=args.gradient_checkpointing,
        optimizer=args.optimizer,
        ema=args.ema_decay is not None,
        fused=accelerator.device.type != "cpu",
        num_processes=num_processes,
    )
    model = make_meta_model(base, settings)
    model.config.id2label = dict(data.id2label)
    lines = [
        describe_run(args, plan, data, make_processor(args, data, args.image_size), model, num_slices, accelerator)
    ]
    if counted < len(data.train):
        lines.append(
            f"note        slices and steps are about so many: {counted} of {len(data.train)} cases were read to count"
        )
    lines += _memory(base, settings, accelerator.device, _precision(accelerator))
    return [*lines, "dry run     nothing was trained or written"] if accelerator.is_main_process else []


def _read_data(args: SamedTrainingArguments, folder: Path) -> CaseDataset:
    """The data, divided; the phantom is made aside where the run has none yet."""
    if args.uses_phantom and not (Path(args.output_dir) / "phantom").is_dir():
        elsewhere = copy.copy(args)
        elsewhere.output_dir = str(folder)
        return read_training_data(elsewhere)
    return read_training_data(args)


def _count_slices(data: CaseDataset, processor: SamedImageProcessor) -> tuple[int, int]:
    """How many slices are trained on, and by how many cases that was reckoned."""
    listed = [len(slices) for name in data.train if (slices := getattr(data.sources[name], "slices", None))]
    if len(listed) == len(data.train):  # their slices are files of their own
        return sum(listed), len(listed)
    spread = data.train[:: -(-len(data.train) // _READ)]
    counts = []
    for name in spread:
        with suppress(NotFiniteError):  # such a case is left out of a training
            counts.append(len(data.read_raw(name, processor).label))
    return round(sum(counts) / max(1, len(counts)) * len(data.train)), len(counts)


def _precision(accelerator: Accelerator) -> str | None:
    """The run's mixed precision, or else that which its device computes natively; `None` where there is none."""
    if accelerator.mixed_precision == "bf16" or computes_bfloat16(accelerator.device):
        return "bf16"
    return None if accelerator.device.type == "cpu" else "fp16"


def _memory(base: dict, settings: StepSettings, device: torch.device, precision: str | None) -> list[str]:
    memory, free, num_processes = estimate_training(base, settings), free_memory(device), settings.num_processes
    on_one = num_processes if device.type == "cpu" else 1  # processes that share what is free
    lines = [
        f"memory      {memory.describe(settings.batch_size)}" + (", in each process" if num_processes > 1 else ""),
        f"device      {device} has {_gigabytes(free)} GB free"
        + (f", for {num_processes} processes" if on_one > 1 else ""),
    ]
    if on_one * memory.total > free:
        lines.append(
            f"warning     {_gigabytes(on_one * memory.total)} GB are more than the {_gigabytes(free)} GB that are free"
        )
        lines += _remedies(base, settings, free / on_one, memory, precision)
    return lines


def _remedies(
    base: dict, settings: StepSettings, free: float, memory: TrainingMemory, precision: str | None
) -> list[str]:
    """Flags that need less, one after the other, each with those before it, until it fits."""
    half = -(-settings.batch_size // 2)
    steps = [
        (f"--mixed_precision {precision}", {"mixed_precision": True}, precision and not settings.mixed_precision),
        (
            "--frozen_dtype bfloat16",
            {"frozen_bfloat16": True},
            precision == "bf16" and not settings.frozen_bfloat16,
        ),
        ("--gradient_checkpointing", {"gradient_checkpointing": True}, not settings.gradient_checkpointing),
        ("--optimizer adamw_8bit", {"optimizer": "adamw_8bit"}, settings.fused and settings.optimizer == "adamw"),
        (
            f"--per_device_train_batch_size {half} with twice the --gradient_accumulation_steps",
            {"batch_size": half},
            half < settings.batch_size,
        ),
        (
            f"--per_device_train_batch_size 1 with {settings.batch_size} times the --gradient_accumulation_steps",
            {"batch_size": 1},
            half > 1,
        ),
    ]
    lines, least = [], memory.total
    for flag, change, applies in steps:
        if not applies:
            continue
        settings = replace(settings, **change)
        need = estimate_training(base, settings).total
        if need < least:
            least = need
            beside = "" if not lines else "beside these, "
            lines.append(f"try         {beside}{flag}: about {_gigabytes(need)} GB")
        if least <= free:
            return lines
    return [*lines, "try         a smaller --image_size, or a smaller base model: all of these together aren't enough"]


def _gigabytes(count: float) -> str:
    return f"{count / _GIGA:.2f}"
