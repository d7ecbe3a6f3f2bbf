"""The plan of a training run: its numbers of batches and steps, and its description."""

from __future__ import annotations

import math
from dataclasses import dataclass

from accelerate import Accelerator

from ..data import CaseDataset
from ..model import SamedForSemanticSegmentation, SamedImageProcessor
from ..model.precision import computes_bfloat16
from ..reporting.formatting import plural
from ..utils.packaged import SMALL_SAM
from .arguments import ResolvedTrainingArguments
from .presets import PRESETS

__all__ = ["TrainingPlan", "describe_run"]

_RECIPE = ("rank", "lora_targets", "encoder", "optimizer", "weight_decay", "dice_weight", "loss_resolution")


@dataclass
class TrainingPlan:
    """Numbers of batches and optimizer steps."""

    batches_per_epoch: int  # of one process
    accumulation: int  # batches of one process in a step
    steps: int
    horizon: int  # steps over which the learning rate falls to zero after the warmup
    warmup: int  # steps over which the learning rate rises
    eval_steps: int  # steps between validations

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
        eval_steps = args.eval_steps or max(1, steps // 4)
        return cls(batches, args.gradient_accumulation_steps, steps, horizon, warmup, eval_steps)


def describe_run(
    args: ResolvedTrainingArguments,
    plan: TrainingPlan,
    data: CaseDataset,
    processor: SamedImageProcessor,
    model: SamedForSemanticSegmentation,
    num_slices: int,
    accelerator: Accelerator,
) -> str:
    """Describe a run of `num_slices` training slices in lines of text; the model may be on the meta device."""
    source = "synthetic phantom patients" if args.uses_phantom else f"{data.root}, {data.layout}"
    named = {
        "random": "a small SAM of RANDOM weights (a demonstration, not a medical result)",
        SMALL_SAM: f"{SMALL_SAM}, which has learnt from synthetic images",
    }
    batch = args.per_device_train_batch_size * accelerator.num_processes * plan.accumulation
    lines = [
        f"data        {source}: {len(data.train)} cases to train on, {len(data.validation)} held out for validation"
        + (f", {len(data.test)} for test" if data.test else ""),
        *([f"files       {data.explanation}"] if data.explanation else []),
        f"slices      {num_slices} of {_describe_slices(processor)}",
        f"labels      {', '.join(list(model.config.id2label.values())[1:])}",
        f"base model  {named.get(args.model_name_or_path, args.model_name_or_path)}",
        f"trains      {_describe_parameters(model)}",
        f"run         {plan.steps} steps of {batch} slices at {args.image_size} pixels on "
        f"{accelerator.device}, learning rate {args.learning_rate} after {plural(plan.warmup, 'step')} of warmup",
    ]
    validations = f"at each of {math.ceil(plan.steps / plan.eval_steps)} validations"
    seen = f"{len(data.selection)} of {len(data.validation)} validation cases {validations}"
    lines.append(f"validates   {seen if data.selection else 'no case: there is no best adapter and no early stopping'}")
    paper, own = PRESETS["samed"], {name: getattr(args, name) for name in _RECIPE}
    if changed := [
        f"{name} {own[name]} instead of {paper[name]}" for name in own if own[name] not in (None, paper[name])
    ]:
        lines.append(f"recipe      not the paper's: {'; '.join(changed)}")
    if args.preset is not None:
        settings = {name: getattr(args, name, None) for name in PRESETS[args.preset]}
        used = ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)
        deviates = args.deviations(accelerator.num_processes, input_size=processor.input_size)
        lines.append(f"preset      {args.preset}: {used}")
        lines.append(f"deviates    {'; '.join(deviates) or 'in nothing from the paper'}")
    notes, kind = [*data.notes, *_encoder_notes(args, model)], accelerator.device.type
    if args.mixed_precision == "fp16" and kind == "cpu":
        notes.append("fp16 has no effect on a CPU: this run computes in float32")
    if args.mixed_precision == "bf16" and not computes_bfloat16(accelerator.device):
        notes.append(f"this {kind} emulates bfloat16: slower than float32")
    if plan.accumulation > 1:
        notes.append("the Dice loss sums over a batch: accumulated batches aren't equal to one larger batch")
    return "\n".join([*lines, *(f"note        {note}" for note in notes)])


def _encoder_notes(args: ResolvedTrainingArguments, model: SamedForSemanticSegmentation) -> list[str]:
    notes, trained = [], {name: one.numel() for name, one in model.named_parameters() if one.requires_grad}
    if args.encoder == "full":
        encoder = sum(count for name, count in trained.items() if "vision_encoder." in name)
        notes.append(
            f"the whole image encoder is trained and saved with the adapter: its file grows by {4e-6 * encoder:,.0f} MB"
        )
    if not any("lora_" in name for name in trained):
        notes.append("there is no LoRA: rank has no effect")
    if args.gradient_checkpointing and not any("vision_enc" in name or "channel_proj" in name for name in trained):
        notes.append("gradient_checkpointing has no effect: a frozen image encoder keeps no activations")
    return notes


def _describe_slices(processor: SamedImageProcessor) -> str:
    """Describe how scans are divided into slices and scaled to [0, 1]."""
    slices = "slices as the files have them"
    if processor.orientation:
        plane = {2: "axial", 1: "coronal", 0: "sagittal"}[processor.axis_order[0]]
        slices = f"{plane} slices in the orientation {processor.orientation}"
    scaled = "as they are"
    if processor.intensity_window is not None:
        scaled = f"in the window {processor.intensity_window}"
    elif processor.percentiles is not None:
        scaled = "between the percentiles {:g} and {:g}".format(*processor.percentiles)
    names = processor.channel_names or ["image"]
    channels = ", ".join(names if processor.channels is None else [names[index] for index in processor.channels])
    if processor.num_projected:
        channels += " projected to three channels"
    if processor.context_slices:
        channels += " with the neighbouring slices"
    return f"{slices}; {channels}, intensities {scaled}"


def _describe_parameters(model: SamedForSemanticSegmentation) -> str:
    """The trained parameters of each part; a module trained whole counts once, though PEFT keeps the original too."""
    trained = {"LoRA": 0, "mask decoder": 0, "prompt embedding": 0}
    parts = {"lora_": "LoRA", "vision_encoder": "image encoder", "mask_decoder": "mask decoder"}
    parts |= {"channel_projection": "channel projection", "": "prompt embedding"}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = next(part for key, part in parts.items() if key in name)
            trained[part] = trained.get(part, 0) + parameter.numel()
    counted = ", ".join(f"{part} {count:,}" for part, count in trained.items() if count)
    total = sum(one.numel() for name, one in model.named_parameters() if ".original_module." not in name)
    return f"{sum(trained.values()):,} of {total:,} parameters: {counted}"
