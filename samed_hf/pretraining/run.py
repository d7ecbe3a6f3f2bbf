"""Pretraining of a small SAM on synthetic images, by transformers' Trainer."""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PrinterCallback, SamImageProcessorPil, SamModel, SamProcessor, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..training.checkpointing.run_directory import check_writable
from ..utils.settings import find_problems
from .arguments import PretrainingArguments
from .images import SyntheticImages
from .objective import PromptedSam
from .scores import measure_iou
from .small_sam import make_small_sam, resize_input, use_tiled_attention

__all__ = ["pretrain"]

logger = logging.getLogger(__name__)

_UNLOGGED = {"epoch", "total_flos", "train_samples_per_second", "train_steps_per_second"}
_VALIDATION_SEED = 2**31  # no training has it


def pretrain(args: PretrainingArguments) -> SamModel:
    """Pretrain a SAM on synthetic images and save it in `args.output_dir`, as transformers' `SamModel` loads it.

    Equal settings give equal models on equal machines, whether resumed or not.

    Raises:
        ValueError: bad settings.
        OSError: `output_dir` can't be written to.
    """
    problems = find_problems(args)
    if args.image_size % 16:
        problems.append(f"image_size is {args.image_size}: expected a multiple of 16, e.g. 128")
    if problems:
        raise ValueError("; ".join(problems) + ".")
    output = Path(args.output_dir)
    check_writable(output)
    checkpoint = get_last_checkpoint(str(output)) if args.resume and output.is_dir() else None
    if args.model_name_or_path is None:
        sam = make_small_sam(args.image_size, seed=args.seed)
    else:
        sam = resize_input(SamModel.from_pretrained(args.model_name_or_path), args.image_size)
    sam.shared_image_embedding.requires_grad_(False)
    # A copy, as Trainer's checkpoints can't share tensors.
    sam.prompt_encoder.shared_embedding = copy.deepcopy(sam.shared_image_embedding)
    use_tiled_attention(sam)
    model = PromptedSam(sam, contrast_weight=args.contrast_weight, image_weight=args.image_weight)
    trainer = _Pretrainer(model, args)
    trainer.train(checkpoint)
    if trainer.is_world_process_zero():
        sam.save_pretrained(output)
        _make_processor(args.image_size).save_pretrained(output)
        logger.info(f"wrote       {output / 'model.safetensors'}")
    return sam


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
        self._dense_steps, self._parts = args.dense_steps, defaultdict[str, list[float]](list)
        validation = images(args.num_validation_images, _VALIDATION_SEED, exact_boxes=True)
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
        values = (f"{name.removeprefix('eval_')} {value:.4g}" for name, value in logs.items() if name not in _UNLOGGED)
        if self.is_world_process_zero():
            logger.info(f"step {self.state.global_step}/{self.args.max_steps}  " + "  ".join(values))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        loader = DataLoader(cast(SyntheticImages, self.eval_dataset), batch_size=self.args.per_device_train_batch_size)
        batches = ({name: value.to(self.args.device) for name, value in batch.items()} for batch in loader)
        scores = measure_iou(cast(PromptedSam, self.model).sam, batches)
        metrics = {f"eval_iou_{name}": round(value, 4) for name, value in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
