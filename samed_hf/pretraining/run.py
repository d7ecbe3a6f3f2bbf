"""Pretraining of a small SAM on synthetic images, by transformers' Trainer."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import (
    PrinterCallback,
    SamImageProcessorPil,
    SamModel,
    SamProcessor,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainingArguments,
    set_seed,
)

from ..training.checkpointing.checkpoints import find_checkpoint, list_checkpoints, write_manifest
from ..training.checkpointing.run_directory import archive_directories, check_writable, on_main_rank
from ..training.distributed.interruption import Interruption
from ..training.distributed.logging import get_logger
from ..training.setup import check_plain_sam
from ..utils.atomic import atomic_update, write_text
from ..utils.settings import field_names, find_problems
from .arguments import PretrainingArguments
from .images import SyntheticImages
from .objective import PromptedSam
from .scores import measure_iou
from .small_sam import make_small_sam, resize_input, use_tiled_attention

__all__ = ["VALIDATION_SEED", "pretrain"]

logger = get_logger(__name__)

_PATCH = 16  # pixels; masks have 4 x 4 for each
_PRODUCTS, _SETTINGS = ("config.json", "model.safetensors", "processor_config.json"), "pretraining_settings.json"
VALIDATION_SEED = 2**31
"""Seed of the images that the IoU is measured on; no training has it."""


def pretrain(args: PretrainingArguments) -> SamModel:
    """Pretrain a SAM on synthetic images and save it in `args.output_dir`, as transformers' `SamModel` loads it.

    Equal settings give equal models on equal machines, whether resumed or not. Files of an earlier run in `output_dir`
    are moved to `earlier-N`, unless they are resumed. SIGTERM and SIGINT end the run after a step and a checkpoint.

    Raises:
        ValueError: bad settings, no plain SAM with patches of 16 pixels, or a checkpoint of other settings.
        OSError: `output_dir` can't be written to, or `model_name_or_path` can't be read.
    """
    problems = find_problems(args)
    if args.image_size % _PATCH:
        problems.append(f"image_size is {args.image_size}: expected a multiple of 16, e.g. 128")
    if args.mixed_precision == "fp16" and not torch.accelerator.is_available():
        problems.append("mixed_precision is 'fp16', which needs a GPU: expected 'no' or 'bf16'")
    if problems:
        raise ValueError("; ".join(problems) + ".")
    output = Path(args.output_dir)
    check_writable(output)
    sam = _load_base(args) if args.model_name_or_path else make_small_sam(args.image_size, seed=args.seed)
    sam.shared_image_embedding.requires_grad_(False)
    # A copy, as Trainer's checkpoints can't share tensors.
    sam.prompt_encoder.shared_embedding = copy.deepcopy(sam.shared_image_embedding)
    use_tiled_attention(sam)
    set_seed(args.seed)  # of the layer that PromptedSam adds
    model = PromptedSam(sam, contrast_weight=args.contrast_weight, image_weight=args.image_weight)
    trainer = _Pretrainer(model, args)
    checkpoint = on_main_rank(trainer.accelerator, lambda: _prepare(args, trainer.settings))
    with Interruption(trainer.accelerator) as interruption:
        trainer.add_callback(_StopAfterSignal(interruption))
        seconds = trainer.train(checkpoint and str(checkpoint)).metrics["train_runtime"]
    step = trainer.state.global_step
    if step < args.max_train_steps:
        logger.info(f"stopped     after step {step} of {args.max_train_steps}. To resume, give --resume as well.")
        raise interruption.end()
    logger.info(f"trained     {step - (_steps(checkpoint) if checkpoint else 0)} steps in {seconds:.0f} s")
    if trainer.is_world_process_zero():
        with atomic_update(output) as temporary:
            sam.save_pretrained(temporary)
            _make_processor(args.image_size).save_pretrained(temporary)
        logger.info(f"wrote       {output / 'model.safetensors'}")
    return sam


def _load_base(args: PretrainingArguments) -> SamModel:
    """Load the SAM to go on from, for the image size of the settings."""
    base = str(args.model_name_or_path)
    check_plain_sam(base, args.image_size, {})
    loaded: Any = SamModel.from_pretrained(base, output_loading_info=True)
    sam, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"model_name_or_path {base!r} lacks weights of a plain SAM, such as {missing[0]}.")
    if (patch := sam.config.vision_config.patch_size) != _PATCH:
        raise ValueError(f"model_name_or_path {base!r} has patches of {patch} pixels: expected {_PATCH}.")
    return resize_input(sam, args.image_size)


def _prepare(args: PretrainingArguments, settings: dict[str, Any]) -> Path | None:
    """Find the checkpoint to resume, check that it has these settings, and move the files that the run doesn't use."""
    output, step = Path(args.output_dir), 0
    checkpoint = find_checkpoint(output, "latest") if args.resume else None
    if checkpoint is not None:
        step, earlier = _steps(checkpoint), json.loads((checkpoint / _SETTINGS).read_text("utf-8"))
        if wrong := [
            f"{name} {earlier[name]}, not {value}" for name, value in settings.items() if earlier[name] != value
        ]:
            raise ValueError(
                f"{checkpoint} is of a pretraining with other settings ({'; '.join(wrong)}): give the same ones, or "
                "another --output_dir."
            )
        logger.info(f"resume      {checkpoint}, {step} steps done")
    elif args.resume:
        logger.info(f"resume      {output} has no complete checkpoint yet: from the first step")
    unused = [path for path in list_checkpoints(output) if _steps(path) > step]
    if checkpoint is None:
        unused += [path for name in _PRODUCTS if (path := output / name).exists()]
    if unused:
        logger.info(f"note        files of an earlier run were moved to {archive_directories(output, unused)}")
    return checkpoint


def _steps(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


def _make_processor(image_size: int) -> SamProcessor:
    """Prompts and images as the model knows them, without normalisation."""
    sides = {"height": image_size, "width": image_size}
    masks = {name: side // 4 for name, side in sides.items()}
    images = SamImageProcessorPil(
        do_normalize=False,
        size={"longest_edge": image_size},
        pad_size=sides,
        mask_size={"longest_edge": image_size // 4},
        mask_pad_size=masks,
    )
    return SamProcessor(images)


class _StopAfterSignal(TrainerCallback):
    """Writes a checkpoint and ends the training after a signal."""

    def __init__(self, interruption: Interruption) -> None:
        self.interruption = interruption

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        if self.interruption.requested:
            control.should_save = control.should_training_stop = True


class _Pretrainer(Trainer):
    """Trainer that draws images in order, measures IoU, and logs the parts of the loss."""

    def __init__(self, model: PromptedSam, args: PretrainingArguments) -> None:
        settings = TrainingArguments(
            output_dir=args.output_dir,
            max_steps=args.max_train_steps,
            per_device_train_batch_size=args.per_device_train_batch_size,
            learning_rate=args.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=args.lr_warmup_steps,
            weight_decay=args.weight_decay,
            adam_beta2=0.98,
            max_grad_norm=args.max_grad_norm,
            eval_strategy="steps",
            eval_steps=args.eval_steps,
            save_steps=args.checkpointing_steps,
            save_total_limit=2,
            logging_steps=50,
            bf16=args.mixed_precision == "bf16",
            fp16=args.mixed_precision == "fp16",
            dataloader_num_workers=args.dataloader_num_workers,
            seed=args.seed,
            report_to="none",
            remove_unused_columns=False,
            disable_tqdm=True,
            use_cpu=not torch.accelerator.is_available(),
        )
        mask_size = args.image_size // 4

        def images(length: int, seed: int, **options: Any) -> SyntheticImages:
            return SyntheticImages(length, args.image_size, mask_size, args.num_prompts, seed, **options)

        count = args.max_train_steps * args.per_device_train_batch_size * settings.world_size
        self.settings = {name: getattr(args, name) for name in field_names(args, "resume")}
        self.settings["num_processes"] = settings.world_size
        self._dense_steps, self._parts = args.dense_steps, defaultdict[str, list[float]](list)
        validation = images(args.num_validation_images, VALIDATION_SEED, exact_boxes=True)
        super().__init__(model, settings, train_dataset=images(count, args.seed), eval_dataset=validation)
        self.remove_callback(PrinterCallback)  # `log` has its own lines

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> SequentialSampler:
        return SequentialSampler(cast(SyntheticImages, self.train_dataset))

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        outputs = model(**inputs, with_prompts=self.state.global_step >= self._dense_steps)
        for name, value in outputs["parts"].items():
            self._parts[name].append(value)
        return outputs["loss"]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs |= {name: round(sum(values) / len(values), 4) for name, values in self._parts.items()}
            self._parts.clear()
        super().log(logs, *args, **kwargs)
        values = [f"{name.removeprefix('eval_')} {value:.4g}" for name, value in logs.items() if name != "epoch"]
        if "train_runtime" not in logs:  # the summary at the end
            logger.info(f"step {self.state.global_step}/{self.args.max_steps}  " + "  ".join(values))

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super()._save_checkpoint(*args, **kwargs)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():  # a checkpoint without a manifest is incomplete
            directory = Path(str(self.args.output_dir), f"checkpoint-{self.state.global_step}")
            write_text(directory / _SETTINGS, json.dumps(self.settings, indent=2) + "\n")
            write_manifest(directory)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        loader = DataLoader(cast(SyntheticImages, self.eval_dataset), batch_size=self.args.per_device_train_batch_size)
        batches = ({name: value.to(self.args.device) for name, value in batch.items()} for batch in loader)
        scores = measure_iou(cast(PromptedSam, self.model).sam, batches)
        metrics = {f"eval_iou_{name}": round(value, 4) for name, value in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
