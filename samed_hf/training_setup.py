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

from .adapter import samed_lora_config
from .checkpoints import find_checkpoint
from .configuration_samed import SamedConfig
from .data.prepare import CT_WINDOW, prepare_phantom
from .data.synapse import SynapseData
from .image_processing_samed import SamedImageProcessor
from .modeling_samed import SamedForSemanticSegmentation
from .presets import PRESETS
from .random_sam import make_random_sam
from .training_arguments import TrainingArguments

__all__ = ["TrainingPlan", "TrainingRun", "set_up_run", "split_cases"]


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
        data: the folder of slices and volumes.
        model: the model with its adapter, unwrapped.
        processor: zooms its input.
        train_cases, validation_cases: names of the cases trained on and held out.
        plan: batches and steps.
        log: one row for each optimizer step, on the main process.
        seconds: how long the training took.
    """

    args: TrainingArguments
    accelerator: Accelerator
    data: SynapseData
    model: SamedForSemanticSegmentation
    processor: SamedImageProcessor
    train_cases: list[str]
    validation_cases: list[str]
    plan: TrainingPlan
    log: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def output_dir(self) -> Path:
        """The run's folder."""
        return Path(self.args.output_dir)

    @property
    def slices(self) -> list[Path]:
        """The files of the slices trained on."""
        by_case = self.data.slices_by_case()
        return [self.data.slice_path(name) for case in self.train_cases for name in by_case[case]]

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
        data = "synthetic phantom patients" if args.uses_phantom else str(args.data_dir)
        base = (
            "a small SAM of RANDOM weights (no pretrained model given: a demonstration, not a medical result)"
            if args.uses_random_sam
            else args.model_name_or_path
        )
        batch = args.per_device_train_batch_size * self.accelerator.num_processes * plan.accumulation
        lines = [
            f"data        {data}: {len(self.train_cases)} cases to train on, {len(self.validation_cases)} held out for "
            f"validation, {len(self.data.test_cases)} to score",
            f"labels      {', '.join(list(self.model.config.id2label.values())[1:])}",
            f"base model  {base}",
            f"trains      {_count_trained(self.model)}",
            f"run         {plan.steps} steps of {batch} slices at {args.image_size} pixels on "
            f"{self.accelerator.device}, learning rate {args.learning_rate} after {plan.warmup} steps of warmup",
        ]
        if args.preset is not None:
            lines.append(f"preset      {args.preset}: {_settings_of(args)}")
            lines.append(f"deviates    {'; '.join(self.deviations) or 'in nothing from the paper'}")
        if not self.data.declares_labels:
            lines.append("note        no lists_Synapse/labels.json: the labels are taken for Synapse's eight")
        if self.args.mixed_precision == "fp16" and self.accelerator.device.type == "cpu":
            lines.append("note        fp16 has no effect on a CPU: this run computes in float32")
        if plan.accumulation > 1:
            lines.append(
                "note        the Dice loss sums over a batch: accumulated batches aren't equal to one larger batch"
            )
        return "\n".join(lines)


def set_up_run(args: TrainingArguments) -> TrainingRun:
    """Check settings and data and build the model; nothing is written before all that can be refused was looked at.

    Raises:
        ValueError, FileNotFoundError: bad settings, data or base model.
    """
    # Said outright, so that several processes without an accelerator find each other, however they were started.
    cpu = not torch.accelerator.is_available()
    args.fill_defaults(PartialState(cpu=cpu).num_processes)
    accelerator = _make_accelerator(args, cpu)
    _use_all_cores(accelerator)
    set_seed(args.seed)
    if not args.uses_random_sam:
        _check_base(args)
    if not args.uses_phantom:
        data = SynapseData(args.data_dir)
        split_cases(data, args.num_validation_cases)
        if accelerator.is_main_process:
            data.check_train()
            data.check_test()
    if args.resume_from_checkpoint is not None:
        find_checkpoint(Path(args.output_dir), args.resume_from_checkpoint)
    output_dir = Path(args.output_dir)
    with accelerator.main_process_first():
        if accelerator.is_local_main_process and args.resume_from_checkpoint is None:
            _move_earlier_run(output_dir, args.uses_random_sam)
        data = SynapseData(_ensure_phantom(output_dir / "phantom")) if args.uses_phantom else data
        base = args.model_name_or_path or _ensure_random_sam(output_dir / "base_model", args)
    train_cases, validation_cases = split_cases(data, args.num_validation_cases)
    model, processor = _make_model(args, base, data)
    by_case = data.slices_by_case()
    plan = TrainingPlan.of(args, sum(len(by_case[case]) for case in train_cases), accelerator.num_processes)
    # What was left to the run or to Accelerate is known now, and belongs to the settings that are saved.
    args.lr_warmup_steps, args.mixed_precision = plan.warmup, accelerator.mixed_precision
    return TrainingRun(args, accelerator, data, model, processor, train_cases, validation_cases, plan)


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


def _ensure_phantom(folder: Path) -> Path:
    """The synthetic patients, always the same ones; made where they are missing."""
    if not (folder / "lists_Synapse" / "train.txt").is_file():
        prepare_phantom(folder)
    return folder


def _ensure_random_sam(folder: Path, args: TrainingArguments) -> Path:
    """A small SAM of random weights: the run's own one when it is continued, else a new one."""
    if args.resume_from_checkpoint is None or not folder.is_dir():
        make_random_sam(folder, image_size=args.image_size, seed=args.seed)
    return folder


def _make_model(
    args: TrainingArguments, base: str | Path, data: SynapseData
) -> tuple[SamedForSemanticSegmentation, SamedImageProcessor]:
    model = SamedForSemanticSegmentation.from_pretrained(
        base, image_size=args.image_size, id2label=data.id2label, revision=args.model_revision, token=args.hub_token
    )
    if model._hf_peft_config_loaded:
        raise ValueError(f"model_name_or_path {str(base)!r} is an adapter: give the plain SAM it was trained on.")
    lora = samed_lora_config(args.rank, variant=args.variant)
    # The very commit trained on, so that the adapter never meets another one's weights.
    revision = resolve_revision(str(base), args.model_revision, token=args.hub_token)
    lora.revision = getattr(revision, "resolved", revision)
    model.add_adapter(lora)
    if args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    processor = SamedImageProcessor(args.image_size, CT_WINDOW, input_size=data.train_size())
    model.image_processor = processor
    return model, processor


def split_cases(data: SynapseData, num_validation: int | None) -> tuple[list[str], list[str]]:
    """Cases to train on, and cases held out to watch: spread evenly over the list, always the same.

    Args:
        data: the folder.
        num_validation: how many are held out; `None` for a tenth, and none of fewer than five.

    Raises:
        ValueError: no case, none left to train on, or one that is to be scored too.
    """
    cases = list(data.slices_by_case())
    shared = sorted(set(cases) & set(data.test_cases))
    if shared:
        raise ValueError(
            f"{data.root} lists {shared[0]} in train.txt and in test_vol.txt: expected each case in one of them, since "
            "scores of a case trained on say nothing; take it out of one."
        )
    if not cases:
        raise ValueError(f"{data.root} lists no training slice: expected at least one in train.txt.")
    count = num_validation if num_validation is not None else (max(1, len(cases) // 10) if len(cases) >= 5 else 0)
    if count >= len(cases):
        raise ValueError(
            f"num_validation_cases is {count}, but there are {len(cases)} training cases: leave some to train."
        )
    held_out = {cases[(2 * index + 1) * len(cases) // (2 * count)] for index in range(count)}
    return [case for case in cases if case not in held_out], sorted(held_out)


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
