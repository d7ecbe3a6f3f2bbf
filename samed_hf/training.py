"""Training a SAMed adapter with Accelerate: from a folder of slices to an adapter, scored and pictured."""

from __future__ import annotations

import csv
import math
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, gather_object, set_seed
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from .adapter import samed_lora_config
from .checkpoints import find_checkpoint, load_checkpoint, register_adapter_hooks, save_checkpoint
from .data.prepare import CT_WINDOW, prepare_phantom
from .data.slices import EpochBatchSampler, SliceDataset
from .data.synapse import SynapseData, read_slice
from .image_processing_samed import SamedImageProcessor
from .inference import predict_slices
from .losses import segmentation_loss
from .modeling_samed import SamedForSemanticSegmentation
from .random_sam import make_random_sam
from .schedules import warmup_polynomial
from .training_arguments import TrainingArguments
from .transforms import SAMED_AUGMENTATION, Augmentation

__all__ = ["TrainingRun", "train"]

_AUGMENTATIONS = {"default": Augmentation(), "samed": SAMED_AUGMENTATION, "none": None}
_LOG_FIELDS = ("step", "epoch", "learning_rate", "loss", "cross_entropy", "dice", "gradient_norm", "validation_dice")


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
    log: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def output_dir(self) -> Path:
        """The run's folder."""
        return Path(self.args.output_dir)

    def say(self, text: str) -> None:
        """Print on the main process, above the progress bar."""
        if self.accelerator.is_main_process:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()


def train(args: TrainingArguments) -> TrainingRun:
    """Train an adapter and save it in `args.output_dir`, with `training_log.csv` and checkpoints beside it.

    Raises:
        ValueError, FileNotFoundError: bad settings or data, before anything is trained; or a loss that isn't finite.
    """
    args.fill_defaults()
    output_dir = Path(args.output_dir)
    accelerator = _make_accelerator(args)
    set_seed(args.seed)
    with accelerator.main_process_first():
        output_dir.mkdir(parents=True, exist_ok=True)
        data = SynapseData(args.data_dir or _ensure_phantom(output_dir / "phantom"))
        base = args.model_name_or_path or _ensure_random_sam(output_dir / "base_model", args)
    model, processor = _make_model(args, base, data)
    train_cases, validation_cases = _split_cases(data, args.num_validation_cases)
    run = TrainingRun(args, accelerator, data, model, processor, train_cases, validation_cases)
    run.say(_describe(run))
    started = time.monotonic()
    _loop(run)
    run.seconds = time.monotonic() - started
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        model.save_pretrained(output_dir, image_processor=processor)
    accelerator.wait_for_everyone()
    return run


def _make_accelerator(args: TrainingArguments) -> Accelerator:
    tracker = None if args.report_to == "none" else args.report_to
    accelerator = Accelerator(
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


def _ensure_phantom(folder: Path) -> Path:
    """The synthetic patients, always the same ones; made where they are missing."""
    if not (folder / "lists_Synapse" / "train.txt").is_file():
        shutil.rmtree(folder, ignore_errors=True)
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
    model = SamedForSemanticSegmentation.from_pretrained(base, image_size=args.image_size, id2label=data.id2label)
    if model._hf_peft_config_loaded:
        raise ValueError(f"model_name_or_path {str(base)!r} is an adapter: give the plain SAM it was trained on.")
    model.add_adapter(samed_lora_config(args.rank, variant=args.variant))
    if args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    processor = SamedImageProcessor(args.image_size, CT_WINDOW, input_size=_training_size(data))
    model.image_processor = processor
    return model, processor


def _training_size(data: SynapseData) -> int | None:
    """The side of the training slices where all cases share one, so that scans to predict pass the same zoom."""
    shapes = {read_slice(data.slice_path(names[0]))[0].shape for names in data.slices_by_case().values()}
    height, width = next(iter(shapes), (0, 1))
    return height if len(shapes) == 1 and height == width else None


def _split_cases(data: SynapseData, num_validation: int | None) -> tuple[list[str], list[str]]:
    """Cases to train on, and cases held out to watch: spread evenly over the list, always the same."""
    cases = list(data.slices_by_case())
    if not cases:
        raise ValueError(f"{data.root} lists no training slice: expected at least one in train.txt.")
    count = num_validation if num_validation is not None else (max(1, len(cases) // 10) if len(cases) >= 5 else 0)
    if count >= len(cases):
        raise ValueError(
            f"num_validation_cases is {count}, but there are {len(cases)} training cases: leave some to train."
        )
    held_out = {cases[(2 * index + 1) * len(cases) // (2 * count)] for index in range(count)}
    return [case for case in cases if case not in held_out], sorted(held_out)


@dataclass
class _Plan:
    """How many batches and steps there are; a step is one of the optimizer."""

    batches_per_epoch: int
    accumulation: int
    steps: int
    horizon: int
    warmup: int

    @classmethod
    def of(cls, args: TrainingArguments, num_slices: int, num_processes: int) -> _Plan:
        batches = math.ceil(num_slices / (args.per_device_train_batch_size * num_processes))
        per_epoch = batches / args.gradient_accumulation_steps
        horizon = max(1, math.ceil(args.num_train_epochs * per_epoch))
        steps = max(1, math.ceil(args.stop_after_epochs * per_epoch))
        if args.max_train_steps is not None:
            steps = args.max_train_steps
            horizon = max(steps, horizon) if args.uses_phantom is False else steps
        warmup = args.lr_warmup_steps if args.lr_warmup_steps is not None else min(250, max(1, steps // 10))
        return cls(batches, args.gradient_accumulation_steps, steps, horizon, warmup)


def _describe(run: TrainingRun) -> str:
    """What is about to happen, for a person to check before hours are spent."""
    args, model = run.args, run.model
    plan = _plan(run)
    trained = {"LoRA": 0, "mask decoder": 0, "prompt embedding": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "LoRA" if "lora_" in name else "mask decoder" if "mask_decoder" in name else "prompt embedding"
            trained[part] += parameter.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    data = "synthetic phantom patients" if args.uses_phantom else str(args.data_dir)
    base = (
        "a small SAM of RANDOM weights (no pretrained model given: a demonstration, not a medical result)"
        if args.uses_random_sam
        else args.model_name_or_path
    )
    batch = args.per_device_train_batch_size * run.accelerator.num_processes * args.gradient_accumulation_steps
    lines = [
        f"data        {data}: {len(run.train_cases)} cases to train on, {len(run.validation_cases)} held out for "
        f"validation, {len(run.data.test_cases)} to score",
        f"labels      {', '.join(list(model.config.id2label.values())[1:])}",
        f"base model  {base}",
        f"trains      {sum(trained.values()):,} of {total:,} parameters: "
        + ", ".join(f"{part} {count:,}" for part, count in trained.items()),
        f"run         {plan.steps} steps of {batch} slices at {args.image_size} pixels on {run.accelerator.device}, "
        f"learning rate {args.learning_rate} after {plan.warmup} steps of warmup",
    ]
    if args.gradient_accumulation_steps > 1:
        lines.append(
            "note        the Dice loss sums over a batch: accumulated batches aren't equal to one larger batch"
        )
    return "\n".join(lines)


def _plan(run: TrainingRun) -> _Plan:
    slices = sum(len(run.data.slices_by_case()[case]) for case in run.train_cases)
    return _Plan.of(run.args, slices, run.accelerator.num_processes)


def _loop(run: TrainingRun) -> None:
    args, accelerator, plan = run.args, run.accelerator, _plan(run)
    trained = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, betas=(0.9, 0.999), weight_decay=args.weight_decay)
    # Not prepared by Accelerate, which would step it once for every process: the schedule counts optimizer steps.
    schedule = LambdaLR(
        optimizer,
        lambda step: warmup_polynomial(step, warmup_steps=plan.warmup, horizon=plan.horizon, power=args.lr_power),
    )
    model, optimizer = accelerator.prepare(run.model, optimizer)
    accelerator.register_for_checkpointing(schedule)
    register_adapter_hooks(accelerator, model)
    if accelerator.log_with:
        accelerator.init_trackers("samed_hf", config={k: v for k, v in args.to_dict().items() if v is not None})
    first = _resume(run)
    last_checkpoint = find_checkpoint(run.output_dir, "latest") if first else None
    every = args.checkpointing_steps if args.checkpointing_steps is not None else max(1, plan.batches_per_epoch)
    validate_every = args.eval_steps or max(1, plan.steps // 4)
    batches = iter(_loader(run, plan, first))
    run.model.train()
    with _Progress(run, plan, first) as progress:
        for step in range(first + 1, plan.steps + 1):
            row = {"step": step, "learning_rate": schedule.get_last_lr()[0]}
            row |= _step(run, model, optimizer, batches, trained, step, last_checkpoint)
            schedule.step()
            row["epoch"] = step * plan.accumulation / plan.batches_per_epoch
            if run.validation_cases and (step % validate_every == 0 or step == plan.steps):
                row["validation_dice"] = _validate(run)
            progress.add(row)
            if every and step % every == 0 and step < plan.steps:
                state = {"num_processes": accelerator.num_processes}
                last_checkpoint = save_checkpoint(
                    accelerator, run.output_dir, step, state, args.checkpoints_total_limit
                )
    accelerator.end_training()
    run.model.eval()


def _resume(run: TrainingRun) -> int:
    """Continue from a checkpoint where one is asked for; returns the steps already done."""
    if run.args.resume_from_checkpoint is None:
        with run.accelerator.main_process_first():
            if run.accelerator.is_main_process:
                _move_old_checkpoints(run)
        return 0
    folder = find_checkpoint(run.output_dir, run.args.resume_from_checkpoint)
    step = int(load_checkpoint(run.accelerator, folder)["step"])
    run.log = _read_log(run.output_dir / "training_log.csv", step)
    run.say(f"resume      {folder}, {step} steps done")
    return step


def _move_old_checkpoints(run: TrainingRun) -> None:
    """An earlier run's checkpoints are kept, but out of the way of this one's."""
    old = sorted(run.output_dir.glob("checkpoint-*"))
    if not old:
        return
    number = 1
    while (run.output_dir / f"earlier-{number}").exists():
        number += 1
    folder = run.output_dir / f"earlier-{number}"
    folder.mkdir()
    for path in old:
        path.rename(folder / path.name)
    run.say(f"note        {len(old)} checkpoints of an earlier run moved to {folder}")


def _loader(run: TrainingRun, plan: _Plan, first: int) -> DataLoader:
    args, accelerator = run.args, run.accelerator
    cases = run.data.slices_by_case()
    paths = [run.data.slice_path(name) for case in run.train_cases for name in cases[case]]
    augmentation = _AUGMENTATIONS[args.augmentation]
    dataset = SliceDataset(paths, run.processor, run.model.config.num_labels, augmentation, args.seed)
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


def _validate(run: TrainingRun) -> float:
    """Mean Dice over the held-out cases and their labels, the cases divided over the processes."""
    accelerator = run.accelerator
    run.model.eval()
    dice = []
    for name in run.validation_cases[accelerator.process_index :: accelerator.num_processes]:
        case = run.data.read_train_case(name)
        prediction = predict_slices(run.model, case.image, run.processor)
        labels = range(1, run.model.config.num_labels)
        dice += [
            2.0 * ((prediction == i) & (case.label == i)).sum() / total
            for i in labels
            if (total := (prediction == i).sum() + (case.label == i).sum())
        ]
    run.model.train()
    dice = gather_object([float(value) for value in dice])
    return sum(dice) / len(dice) if dice else 0.0


class _Progress:
    """Writes the log, feeds the trackers, and shows a bar in a terminal or a line now and then in a file."""

    def __init__(self, run: TrainingRun, plan: _Plan, first: int) -> None:
        self.run, self.plan = run, plan
        self.path = run.output_dir / "training_log.csv"
        self.is_main = run.accelerator.is_main_process
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=plan.steps, initial=first, unit="step", ncols=100, disable=not (self.is_main and self.terminal)
        )
        self.started, self.first = time.monotonic(), first

    def __enter__(self) -> _Progress:
        if self.is_main:
            self.file = self.path.open("w", newline="", encoding="utf-8")
            self.writer = csv.DictWriter(self.file, _LOG_FIELDS, restval="")
            self.writer.writeheader()
            self.writer.writerows(self.run.log)
        return self

    def add(self, row: dict[str, Any]) -> None:
        self.run.accelerator.log({key: value for key, value in row.items() if key != "step"}, step=row["step"])
        if not self.is_main:
            return
        self.run.log.append(row)
        self.writer.writerow(row)
        self.file.flush()
        self.bar.set_postfix_str(f"loss {row['loss']:.4f}, lr {row['learning_rate']:.2e}", refresh=False)
        self.bar.update()
        every = max(1, self.plan.steps // 20)
        if "validation_dice" in row or (not self.terminal and (row["step"] % every == 0 or row["step"] == 1)):
            self.run.say(self._line(row))

    def _line(self, row: dict[str, Any]) -> str:
        done = row["step"] - self.first
        left = (time.monotonic() - self.started) / done * (self.plan.steps - row["step"])
        validation = f", validation DSC {row['validation_dice']:.4f}" if "validation_dice" in row else ""
        return (
            f"step {row['step']:>5}/{self.plan.steps}  epoch {row['epoch']:.2f}  loss {row['loss']:.4f} (cross-entropy "
            f"{row['cross_entropy']:.4f}, Dice {row['dice']:.4f})  lr {row['learning_rate']:.2e}{validation}, "
            f"{left:.0f} s left"
        )

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.is_main:
            self.file.close()


def _read_log(path: Path, last_step: int) -> list[dict[str, Any]]:
    """The rows of an interrupted run up to the step it continues from."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [row | {"step": int(row["step"])} for row in rows if row.get("step", math.inf) <= last_step]
