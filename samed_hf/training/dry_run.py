"""`samed-hf train --dry_run`: the plan, the parameters and the memory of a run."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers.utils import logging as transformers_logging

from ..data import CaseDataset, make_processor
from ..diagnostics.memory import StepSettings, estimate_training, make_meta_model, read_base_config, suggest_base
from ..inference.batching import free_memory
from ..model import SamedImageProcessor, make_random_sam
from ..model.precision import computes_bfloat16
from ..volumes.file_checks import NotFiniteError
from .arguments import ResolvedTrainingArguments, SamedTrainingArguments
from .checkpointing.checkpoints import find_checkpoint
from .data import read_training_data
from .distributed.logging import get_logger
from .plan import TrainingPlan, describe_run
from .setup import start_run

__all__ = ["log_plan"]

logger = get_logger(__name__)

_MAX_READ = 3  # scans that are read to estimate the number of slices


def log_plan(settings: SamedTrainingArguments) -> None:
    """Log the plan of a run with these settings and the memory it needs; train, download and keep nothing."""
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="samed-hf-dry-run-") as directory:
        # A phantom that the run hasn't made yet is made in a temporary directory.
        makes_phantom = settings.uses_phantom and not (Path(settings.output_dir) / "phantom").is_dir()
        data = read_training_data(replace(settings, output_dir=directory) if makes_phantom else settings)
        args, accelerator = start_run(settings, data)
        if args.resume_from_checkpoint is not None:
            find_checkpoint(Path(args.output_dir), args.resume_from_checkpoint)
        source = args.model_name_or_path
        if args.uses_random_sam:
            source = str(make_random_sam(Path(directory) / "base", image_size=args.image_size))
        base = read_base_config(source, revision=args.model_revision, token=args.hub_token)
        processor = make_processor(args, data, args.image_size)
        num_slices, counted = _count_slices(data, processor)
        plan = TrainingPlan.of(args, num_slices, accelerator.num_processes)
        step = replace(_step_settings(args, data, accelerator), projected=processor.num_projected)
        model = make_meta_model(base, step)
        model.config.id2label = dict(data.id2label)
        logger.info(describe_run(args, plan, data, processor, model, num_slices, accelerator))
        if counted < len(data.train):
            logger.info(f"note        slices and steps are estimates from {counted} of {len(data.train)} cases")
        _log_memory(base, step, accelerator)
        logger.info("dry run     nothing was trained or written")


def _step_settings(args: ResolvedTrainingArguments, data: CaseDataset, accelerator: Accelerator) -> StepSettings:
    precision, on_cpu = accelerator.mixed_precision, accelerator.device.type == "cpu"
    return StepSettings(
        image_size=args.image_size,
        num_labels=len(data.id2label),
        rank=args.rank,
        variant=args.variant,
        lora_targets=args.lora_targets,
        encoder=args.encoder,
        batch_size=args.per_device_train_batch_size,
        mixed_precision=precision == "bf16" or (precision == "fp16" and not on_cpu),
        frozen_bfloat16=args.frozen_dtype == "bfloat16",
        gradient_checkpointing=args.gradient_checkpointing,
        optimizer=args.optimizer,
        ema=args.ema_decay is not None,
        fused=not on_cpu,
        num_processes=accelerator.num_processes,
        full_loss=args.loss_resolution == "full",
    )


def _count_slices(data: CaseDataset, processor: SamedImageProcessor) -> tuple[int, int]:
    """Return the number of training slices, and the number of cases it is estimated from."""
    listed = [len(slices) for name in data.train if (slices := getattr(data.sources[name], "slices", None))]
    if len(listed) == len(data.train):  # each slice is a file
        return sum(listed), len(listed)
    counts = []
    for name in data.train[:: -(-len(data.train) // _MAX_READ)]:
        with suppress(NotFiniteError):  # a training leaves such a case out
            counts.append(len(data.read_raw(name, processor).label))
    return round(sum(counts) / max(1, len(counts)) * len(data.train)), len(counts)


def _log_memory(base: dict[str, Any], step: StepSettings, accelerator: Accelerator) -> None:
    device, num_processes = accelerator.device, step.num_processes
    memory, free = estimate_training(base, step), free_memory(device)
    sharing = num_processes if device.type == "cpu" else 1  # processes that share the free memory
    logger.info(f"memory      {memory.describe(step.batch_size)}" + (", in each process" if num_processes > 1 else ""))
    shared = f", for {num_processes} processes" if sharing > 1 else ""
    logger.info(f"device      {device} has {free / 1e9:.2f} GB free{shared}")
    if sharing * memory.total > free:
        logger.warning(f"{sharing * memory.total / 1e9:.2f} GB are more than the {free / 1e9:.2f} GB that are free")
        precision = None if device.type == "cpu" else "fp16"
        if accelerator.mixed_precision == "bf16" or computes_bfloat16(device):
            precision = "bf16"
        _log_remedies(base, step, free / sharing, memory.total, precision)


def _log_remedies(base: dict[str, Any], step: StepSettings, free: float, required: int, precision: str | None) -> None:
    """Log flags that save memory, each estimated with those before it, until the run fits; then a smaller base model.

    `precision` is the mixed precision that the device supports best. A flag that is given already saves nothing.
    """
    half, batch, accumulation = (
        -(-step.batch_size // 2),
        "--per_device_train_batch_size",
        "--gradient_accumulation_steps",
    )
    may_cast, may_shrink = precision == "bf16" and step.encoder != "full", step.fused and step.optimizer == "adamw"
    remedies: dict[str, dict[str, Any]] = {
        f"--mixed_precision {precision}": {"mixed_precision": step.mixed_precision or bool(precision)},
        "--frozen_dtype bfloat16": {"frozen_bfloat16": step.frozen_bfloat16 or may_cast},
        "--gradient_checkpointing": {"gradient_checkpointing": True},
        "--optimizer adamw_8bit": {"optimizer": "adamw_8bit" if may_shrink else step.optimizer},
        f"{batch} {half} with twice the {accumulation}": {"batch_size": half},
        f"{batch} 1 with {step.batch_size} times the {accumulation}": {"batch_size": 1},
    }
    also, alternatives = "", [step]
    for flag, change in remedies.items():
        step = replace(step, **change)
        total = estimate_training(base, step).total
        if total < required:
            logger.info(f"try         {also}{flag}: about {total / 1e9:.2f} GB")
            required, also = total, "also "
        if required <= free:
            break
    else:
        alternatives.append(step)
    if suggested := suggest_base(base, alternatives, free):
        name, chosen, total = suggested
        how = "instead" if chosen is alternatives[0] else "also"
        logger.info(f"try         {how} --model_name_or_path {name}, a smaller base model: about {total / 1e9:.2f} GB")
    elif required > free:
        logger.info("try         a smaller --image_size or base model: all of these aren't enough")
