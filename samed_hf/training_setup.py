"""What a training run starts from: data looked through, model with its adapter, the plan of its steps."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import ProjectConfiguration, set_seed
from tqdm import tqdm
from transformers import PreTrainedConfig
from transformers.utils.hub import resolve_revision

from .adapter import cast_frozen, samed_lora_config
from .checkpoints import find_checkpoint
from .configuration_samed import SamedConfig
from .data.cases import DataSet
from .data.store import CaseStore
from .image_processing_samed import SamedImageProcessor
from .launching import leave_cores_to_torch
from .modeling_samed import SamedForSemanticSegmentation
from .precision import computes_bfloat16
from .presets import PRESETS
from .random_sam import make_random_sam
from .training_arguments import TrainingArguments
from .training_data import make_processor, open_store, read_training_data, slice_side

__all__ = ["TrainingPlan", "TrainingRun", "set_up_run"]


@dataclass
class TrainingPlan:
    """How many batches and steps there are; a step is one of the optimizer.

    Attributes:
        batches_per_epoch: of one process.
        accumulation: batches of one process in a step.
        steps: of the whole run.
        horizon: steps over which the learning rate falls to zero after the warmup.
        warmup: steps over which it rises.
    """

    batches_per_epoch: int
    accumulation: int
    steps: int
    horizon: int
    warmup: int

    @classmethod
    def of(cls, args: TrainingArguments, num_slices: int, num_processes: int) -> TrainingPlan:
        """The plan of settings whose defaults are filled in."""
        batches = math.ceil(num_slices / (args.per_device_train_batch_size * num_processes))
        per_epoch = batches / args.gradient_accumulation_steps
        horizon = max(1, math.ceil(args.num_train_epochs * per_epoch))
        steps = max(1, math.ceil(args.stop_after_epochs * per_epoch))
        if args.max_train_steps is not None:
            steps = args.max_train_steps
            # A run cut short by max_train_steps decays over these steps, unless its epochs were asked for.
            horizon = max(steps, horizon) if args.asks_for_epochs else steps
        warmup = args.lr_warmup_steps if args.lr_warmup_steps is not None else min(250, max(1, steps // 40))
        return cls(batches, args.gradient_accumulation_steps, steps, horizon, warmup)


@dataclass
class TrainingRun:
    """What a training needs and leaves behind.

    Attributes:
        args: the settings, defaults filled in.
        accelerator: Accelerate's engine.
        data: the cases, divided into those to train on, to watch and to score.
        store: the same decoded, on disk.
        model: the model with its adapter, unwrapped.
        processor: cuts, scales and zooms its input.
        plan: batches and steps.
        log: one row for each optimizer step, on the main process.
        seconds: how long the training took.
    """

    args: TrainingArguments
    accelerator: Accelerator
    data: DataSet
    store: CaseStore
    model: SamedForSemanticSegmentation
    processor: SamedImageProcessor
    plan: TrainingPlan
    log: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def output_dir(self) -> Path:
        """The run's folder."""
        return Path(self.args.output_dir)

    @property
    def num_slices(self) -> int:
        """How many slices are trained on."""
        return sum(self.store.num_slices(name) for name in self.data.train)

    @property
    def deviations(self) -> list[str]:
        """Where the run leaves its preset, in words."""
        return self.args.deviations(self.accelerator.num_processes, input_size=self.processor.input_size)

    def say(self, text: str) -> None:
        """Print on the main process, above the progress bar."""
        if self.accelerator.is_main_process:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def describe(self) -> str:
        """What is about to happen, for a person to check before hours are spent."""
        args, plan = self.args, self.plan
        data = self.data
        split, scored = data.scored
        where = "synthetic phantom patients" if args.uses_phantom else f"{data.root}, {data.layout}"
        base = (
            "a small SAM of RANDOM weights (no pretrained model given: a demonstration, not a medical result)"
            if args.uses_random_sam
            else args.model_name_or_path
        )
        batch = args.per_device_train_batch_size * self.accelerator.num_processes * plan.accumulation
        lines = [
            f"data        {where}: {len(data.train)} cases to train on, {len(data.validation)} held out for "
            f"validation, {len(scored)} to score ({split})",
            f"slices      {self.num_slices} of {describe_cut(self.processor)}",
            f"labels      {', '.join(list(self.model.config.id2label.values())[1:])}",
            f"base model  {base}",
            f"trains      {_count_trained(self.model)}",
            f"run         {plan.steps} steps of {batch} slices at {args.image_size} pixels on "
            f"{self.accelerator.device}, learning rate {args.learning_rate} after {plan.warmup} steps of warmup",
        ]
        if args.preset is not None:
            lines.append(f"preset      {args.preset}: {_settings_of(args)}")
            lines.append(f"deviates    {'; '.join(self.deviations) or 'in nothing from the paper'}")
        lines += [f"note        {note}" for note in data.notes]
        if self.args.mixed_precision == "fp16" and self.accelerator.device.type == "cpu":
            lines.append("note        fp16 has no effect on a CPU: this run computes in float32")
        if self.args.mixed_precision == "bf16" and not computes_bfloat16(self.accelerator.device):
            lines.append(f"note        this {self.accelerator.device.type} emulates bfloat16: slower than float32")
        if plan.accumulation > 1:
            lines.append(
                "note        the Dice loss sums over a batch: accumulated batches aren't equal to one larger batch"
            )
        return "\n".join(lines)


def describe_cut(processor: SamedImageProcessor) -> str:
    """How scans become slices in [0, 1], for people."""
    orientation = processor.orientation
    plane = {2: "axial", 1: "coronal", 0: "sagittal"}[processor.axis_order[0]] if orientation else "third-axis"
    lies = f"{plane} slices in the orientation {orientation}" if orientation else "slices as the files have them"
    window = processor.intensity_window
    scaled = (
        "as they are"
        if processor.percentiles is None
        else "between the percentiles {} and {}".format(*(f"{number:g}" for number in processor.percentiles or (0, 0)))
    )
    if window is not None:
        scaled = f"in the window {window}"
    names = ", ".join(processor.channel_names or ["image"])
    channels = f"{names} with the neighbouring slices" if processor.context_slices else names
    return f"{lies}; {channels}, intensities {scaled}"


def set_up_run(args: TrainingArguments) -> TrainingRun:
    """Check settings and data and build the model; nothing is written before all that can be refused was looked at.

    Raises:
        ValueError, FileNotFoundError: bad settings, data or base model.
    """
    # Said outright, so that several processes without an accelerator find each other, however they were started.
    cpu = not torch.accelerator.is_available()
    num_processes = PartialState(cpu=cpu).num_processes
    output_dir = Path(args.output_dir)
    data, side = None, None
    if not args.uses_phantom:
        data = read_training_data(args)
        processor = make_processor(args, data)
        side = slice_side(data, processor) if args.uses_random_sam and args.image_size is None else None
    args.fill_defaults(num_processes, side)
    accelerator = _make_accelerator(args, cpu)
    leave_cores_to_torch()
    _use_all_cores(accelerator)
    set_seed(args.seed)
    if not args.uses_random_sam:
        _check_base(args)
    if args.resume_from_checkpoint is not None:
        find_checkpoint(output_dir, args.resume_from_checkpoint)
    with accelerator.main_process_first():
        first = accelerator.is_local_main_process
        store = None if data is None else _store(args, data, accelerator, first)
        if first and args.resume_from_checkpoint is None:
            _move_earlier_run(output_dir, args.uses_random_sam)
        if data is None:
            data = read_training_data(args)
            store = _store(args, data, accelerator, first)
        base = args.model_name_or_path or _ensure_random_sam(output_dir / "base_model", args)
    model = _make_model(args, base, store)
    num_slices = sum(store.num_slices(name) for name in data.train)
    plan = TrainingPlan.of(args, num_slices, accelerator.num_processes)
    # What was left to the run or to Accelerate is known now, and belongs to the settings that are saved.
    args.lr_warmup_steps, args.mixed_precision = plan.warmup, accelerator.mixed_precision
    return TrainingRun(args, accelerator, data, store, model, store.processor, plan)


def _store(args: TrainingArguments, data: DataSet, accelerator: Accelerator, decode: bool) -> CaseStore:
    def say(text: str) -> None:
        print(text, flush=True)

    return open_store(args, data, make_processor(args, data), decode=decode, say=say)


def _make_accelerator(args: TrainingArguments, cpu: bool) -> Accelerator:
    tracker = None if args.report_to == "none" else args.report_to
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=tracker,
        project_config=ProjectConfiguration(args.output_dir, logging_dir=str(Path(args.output_dir) / "runs")),
    )
    # Accelerate leaves out a tracker that isn't installed without a word.
    if tracker and not accelerator.log_with:
        raise ValueError(
            f"report_to is {tracker!r}, which isn't installed: pip install {tracker}, or --report_to none."
        )
    if args.frozen_dtype == "bfloat16" and accelerator.mixed_precision != "bf16":
        raise ValueError(
            f"frozen_dtype is bfloat16 and mixed_precision {accelerator.mixed_precision}: expected bf16 beside it, in "
            "which the frozen weights are used as bfloat16 anyway."
        )
    return accelerator


def _use_all_cores(accelerator: Accelerator) -> None:
    """Give a single process on the CPU all its cores: `accelerate launch` leaves it one thread if not told better."""
    if accelerator.device.type == "cpu" and accelerator.num_processes == 1 and torch.get_num_threads() == 1:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(available)


def _check_base(args: TrainingArguments) -> None:
    """Refuse a base model that can't be found or isn't a plain SAM; a folder's place is made absolute."""
    if Path(args.model_name_or_path).is_dir():
        # The adapter names it, and is to find it from wherever it is loaded.
        args.model_name_or_path = str(Path(args.model_name_or_path).resolve())
    try:
        content, _ = PreTrainedConfig.get_config_dict(
            args.model_name_or_path, revision=args.model_revision, token=args.hub_token
        )
        if not content:
            raise OSError("no config.json there")
        if content.get("model_type") == SamedConfig.model_type:
            raise ValueError(
                f"model_name_or_path {args.model_name_or_path!r} is a SAMed model: expected the plain SAM it was made "
                "from, e.g. facebook/sam-vit-base."
            )
        SamedConfig.from_dict(content, image_size=args.image_size)
    except OSError as error:
        raise FileNotFoundError(
            f"model_name_or_path {args.model_name_or_path!r} can't be loaded: expected a folder or Hub id of a plain "
            f"SAM, e.g. facebook/sam-vit-base. ({str(error).splitlines()[0]})"
        ) from error


# What a training leaves in its folder, apart from the phantom, which is always the same.
_PRODUCTS = (
    "checkpoint-*",
    "adapter_config.json",
    "adapter_model.safetensors",
    "config.json",
    "preprocessor_config.json",
    "README.md",
    "metrics.json",
    "metrics.csv",
    "overlay.png",
    "examples",
    "training_curve.png",
    "training_log.csv",
    "training_settings.json",
)


def _move_earlier_run(output_dir: Path, with_base: bool) -> None:
    """Keep what an earlier run left, together and out of the way: mixed with this one's it would tell lies."""
    patterns = (*_PRODUCTS, "base_model") if with_base else _PRODUCTS
    old = sorted({path for pattern in patterns for path in output_dir.glob(pattern)})
    if not old:
        return
    number = 1
    while (output_dir / f"earlier-{number}").exists():
        number += 1
    folder = output_dir / f"earlier-{number}"
    folder.mkdir()
    for path in old:
        path.rename(folder / path.name)
    print(f"note        what an earlier run left in {output_dir} was moved to {folder}", flush=True)


def _ensure_random_sam(folder: Path, args: TrainingArguments) -> Path:
    """A small SAM of random weights: the run's own one when it is continued, else a new one."""
    if args.resume_from_checkpoint is None or not folder.is_dir():
        make_random_sam(folder, image_size=args.image_size, seed=args.seed)
    return folder


def _make_model(args: TrainingArguments, base: str | Path, store: CaseStore) -> SamedForSemanticSegmentation:
    id2label = store.data.id2label
    model = SamedForSemanticSegmentation.from_pretrained(
        base, image_size=args.image_size, id2label=id2label, revision=args.model_revision, token=args.hub_token
    )
    if model._hf_peft_config_loaded:
        raise ValueError(f"model_name_or_path {str(base)!r} is an adapter: give the plain SAM it was trained on.")
    lora = samed_lora_config(args.rank, variant=args.variant)
    # The very commit trained on, so that the adapter never meets another one's weights.
    revision = resolve_revision(str(base), args.model_revision, token=args.hub_token)
    lora.revision = getattr(revision, "resolved", revision)
    model.add_adapter(lora)
    if args.frozen_dtype == "bfloat16":
        cast_frozen(model, torch.bfloat16)
    if args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    model.image_processor = store.processor
    return model


def _settings_of(args: TrainingArguments) -> str:
    names = [name for name in PRESETS[args.preset] if hasattr(args, name)]
    return ", ".join(f"{name} {getattr(args, name)}" for name in names if getattr(args, name) is not None)


def _count_trained(model: SamedForSemanticSegmentation) -> str:
    trained = {"LoRA": 0, "mask decoder": 0, "prompt embedding": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "LoRA" if "lora_" in name else "mask decoder" if "mask_decoder" in name else "prompt embedding"
            trained[part] += parameter.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    parts = ", ".join(f"{part} {count:,}" for part, count in trained.items())
    return f"{sum(trained.values()):,} of {total:,} parameters: {parts}"
