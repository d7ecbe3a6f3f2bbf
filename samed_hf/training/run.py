"""A training run: its plan, its state and its description."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..data.cache import CaseStore
from ..data.dataset import CaseDataset
from ..model.image_processing_samed import SamedImageProcessor
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..model.precision import computes_bfloat16
from ..utils.atomic import write_text
from .arguments import ResolvedTrainingArguments
from .checkpointing.provenance import compare_provenance
from .presets import PRESETS

__all__ = ["TrainingPlan", "TrainingRun", "describe_run"]


@dataclass
class TrainingPlan:
    """Numbers of batches and optimizer steps.

    Attributes:
        batches_per_epoch: batches of one process in an epoch.
        accumulation: batches of one process in a step.
        steps: steps of the run.
        horizon: steps over which the learning rate falls to zero after the warmup.
        warmup: steps over which the learning rate rises.
    """

    batches_per_epoch: int
    accumulation: int
    steps: int
    horizon: int
    warmup: int

    @classmethod
    def of(cls, args: ResolvedTrainingArguments, num_slices: int, num_processes: int) -> TrainingPlan:
        """Compute the plan from the settings and the number of training slices."""
        batches = math.ceil(num_slices / (args.per_device_train_batch_size * num_processes))
        per_epoch = batches / args.gradient_accumulation_steps
        horizon = max(1, math.ceil(args.num_train_epochs * per_epoch))
        steps = max(1, math.ceil(args.stop_after_epochs * per_epoch))
        if args.max_train_steps is not None:
            steps = args.max_train_steps
            # The rate decays over max_train_steps, unless num_train_epochs is given.
            horizon = max(steps, horizon) if args.asks_for_epochs else steps
        warmup = args.lr_warmup_steps if args.lr_warmup_steps is not None else min(250, max(1, steps // 40))
        return cls(batches, args.gradient_accumulation_steps, steps, horizon, warmup)


@dataclass
class TrainingRun:
    """Inputs and results of a training.

    Attributes:
        args: the settings.
        accelerator: Accelerate's engine.
        data: the cases, divided into training, validation and test.
        store: the decoded cases on disk.
        model: the model with its adapter, unwrapped.
        processor: image processor of the model.
        plan: numbers of batches and steps.
        log: one row for each optimizer step, on the main process.
        seconds: duration of the training.
        record: versions, machine, code, data and base model, on the main process.
    """

    args: ResolvedTrainingArguments
    accelerator: Accelerator
    data: CaseDataset
    store: CaseStore
    model: SamedForSemanticSegmentation
    processor: SamedImageProcessor
    plan: TrainingPlan
    log: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def output_dir(self) -> Path:
        """The output directory of the run."""
        return Path(self.args.output_dir)

    @property
    def num_slices(self) -> int:
        """Number of training slices."""
        return sum(map(self.store.num_slices, self.data.train))

    @property
    def deviations(self) -> list[str]:
        """Deviations from the preset, one phrase each."""
        return self.args.deviations(self.accelerator.num_processes, input_size=self.processor.input_size)

    def describe(self) -> str:
        """Describe the run in lines of text, with differences from the run whose settings file was given."""
        saved, now = self.args.saved_run, self.accelerator.num_processes
        differences = compare_provenance(saved.get("run", {}), self.record)
        if saved.get("num_processes") not in (None, now):
            differences.insert(0, f"{now} processes instead of {saved['num_processes']}")
        description = describe_run(
            self.args, self.plan, self.data, self.processor, self.model, self.num_slices, self.accelerator
        )
        return "\n".join([description, *(f"differs     from the run of its config: {item}" for item in differences)])

    def write_settings(self, directory: Path) -> None:
        """Write `training_settings.json`: the settings by name, the cases, and under "run" the data and provenance.

        `samed-hf train --config` with this file trains the same adapter.
        """
        args, source = self.args, self.data.about
        settings = args.to_dict() | {"num_processes": self.accelerator.num_processes}
        if args.max_train_steps is not None and not args.asks_for_epochs:
            settings["num_train_epochs"] = None  # a number would change the horizon of the decay
        if args.preset:
            settings["deviations"] = self.deviations
        settings["cases"] = {split: getattr(self.data, split) for split in ("train", "validation", "test")}
        about = {
            "data": source.get("name"),
            "synthetic": bool(source.get("synthetic")),
            "random_base": args.uses_random_sam,
            "layout": self.data.layout,
            "train_cases": len(self.data.train),
            "validation_cases": len(self.data.validation),
            "test_cases": len(self.data.test),
            "optimizer_steps": self.log[-1]["step"] if self.log else 0,
            "seconds": round(self.seconds, 1),
        }
        settings["run"] = {key: value for key, value in about.items() if value is not None} | self.record
        write_text(directory / "training_settings.json", json.dumps(settings, indent=2) + "\n")


def describe_run(
    args: ResolvedTrainingArguments,
    plan: TrainingPlan,
    data: CaseDataset,
    processor: SamedImageProcessor,
    model: SamedForSemanticSegmentation,
    num_slices: int,
    accelerator: Accelerator,
) -> str:
    """Describe a run in lines of text.

    Args:
        args: the settings.
        plan: numbers of batches and steps.
        data: the cases.
        processor: image processor of the run.
        model: with its adapter; may be on the meta device.
        num_slices: number of training slices.
        accelerator: Accelerate's engine.
    """
    split, scored = data.evaluation_split
    source = "synthetic phantom patients" if args.uses_phantom else f"{data.root}, {data.layout}"
    base = (
        "a small SAM of RANDOM weights (no pretrained model given: a demonstration, not a medical result)"
        if args.uses_random_sam
        else args.model_name_or_path
    )
    batch = args.per_device_train_batch_size * accelerator.num_processes * plan.accumulation
    lines = [
        f"data        {source}: {len(data.train)} cases to train on, {len(data.validation)} held out for "
        f"validation, {len(scored)} to score ({split})",
        f"slices      {num_slices} of {describe_slices(processor)}",
        f"labels      {', '.join(list(model.config.id2label.values())[1:])}",
        f"base model  {base}",
        f"trains      {_describe_parameters(model)}",
        f"run         {plan.steps} steps of {batch} slices at {args.image_size} pixels on "
        f"{accelerator.device}, learning rate {args.learning_rate} after {plan.warmup} steps of warmup",
    ]
    if args.preset is not None:
        deviates = args.deviations(accelerator.num_processes, input_size=processor.input_size)
        lines.append(f"preset      {args.preset}: {_preset_settings(args, args.preset)}")
        lines.append(f"deviates    {'; '.join(deviates) or 'in nothing from the paper'}")
    return "\n".join([*lines, *(f"note        {note}" for note in [*data.notes, *_notes(args, plan, accelerator)])])


def _notes(args: ResolvedTrainingArguments, plan: TrainingPlan, accelerator: Accelerator) -> list[str]:
    notes, kind = [], accelerator.device.type
    if args.mixed_precision == "fp16" and kind == "cpu":
        notes.append("fp16 has no effect on a CPU: this run computes in float32")
    if args.mixed_precision == "bf16" and not computes_bfloat16(accelerator.device):
        notes.append(f"this {kind} emulates bfloat16: slower than float32")
    if plan.accumulation > 1:
        notes.append("the Dice loss sums over a batch: accumulated batches aren't equal to one larger batch")
    return notes


def describe_slices(processor: SamedImageProcessor) -> str:
    """Describe how scans are divided into slices and scaled to [0, 1]."""
    orientation = processor.orientation
    plane = {2: "axial", 1: "coronal", 0: "sagittal"}[processor.axis_order[0]] if orientation else "third-axis"
    slices = f"{plane} slices in the orientation {orientation}" if orientation else "slices as the files have them"
    scaled = "as they are"
    if processor.intensity_window is not None:
        scaled = f"in the window {processor.intensity_window}"
    elif processor.percentiles is not None:
        scaled = "between the percentiles {:g} and {:g}".format(*processor.percentiles)
    names = ", ".join(processor.channel_names or ["image"])
    channels = f"{names} with the neighbouring slices" if processor.context_slices else names
    return f"{slices}; {channels}, intensities {scaled}"


def _preset_settings(args: ResolvedTrainingArguments, preset: str) -> str:
    names = [name for name in PRESETS[preset] if hasattr(args, name)]
    return ", ".join(f"{name} {getattr(args, name)}" for name in names if getattr(args, name) is not None)


def _describe_parameters(model: SamedForSemanticSegmentation) -> str:
    trained = {"LoRA": 0, "mask decoder": 0, "prompt embedding": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "LoRA" if "lora_" in name else "mask decoder" if "mask_decoder" in name else "prompt embedding"
            trained[part] += parameter.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    parts = ", ".join(f"{part} {count:,}" for part, count in trained.items())
    return f"{sum(trained.values()):,} of {total:,} parameters: {parts}"
