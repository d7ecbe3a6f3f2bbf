"""The memory of training and prediction: the one estimator of doctor, validate, `--dry_run` and docs/memory.md.

A training step is run on fake tensors, which have sizes and no content, and the bytes alive at the worst moment are
counted; nothing is computed and no weight is allocated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..inference.batching import slice_bytes
from ..model.configuration_samed import SamedConfig
from ..model.lora import cast_frozen, samed_lora_config
from ..model.losses import segmentation_loss
from ..model.modeling_samed import SamedForSemanticSegmentation
from .fused_attention import use_fused_attention
from .live_bytes import LiveBytes

__all__ = [
    "MemoryEstimate",
    "StepSettings",
    "TrainingMemory",
    "estimate_training",
    "make_meta_model",
    "read_base_config",
]

_FLOAT = 4
_SMALL, _BLOCK = 4096, 256  # bitsandbytes: smaller tensors keep moments of 32 bits; a scale for each block of the rest


@dataclass(frozen=True)
class StepSettings:
    """Settings on which the memory of a training step depends, besides the base model.

    Attributes:
        image_size: side of the model's input in pixels.
        num_labels: number of labels, background included.
        rank, variant: of the adapter.
        batch_size: slices in a batch.
        mixed_precision: whether activations have 16 bits, bf16 or fp16 alike.
        frozen_bfloat16: whether the encoder's frozen weights are kept in bfloat16.
        gradient_checkpointing: whether the encoder's activations are recomputed.
        optimizer: "adamw" or "adamw_8bit".
        ema: whether an average of the trained weights is kept.
        fused: attention by one fused kernel, as on accelerators; otherwise in tiles, as on a processor.
        num_processes: number of processes of the training.
    """

    image_size: int = 512
    num_labels: int = 9
    rank: int = 4
    variant: str = "samed"
    batch_size: int = 1
    mixed_precision: bool = False
    frozen_bfloat16: bool = False
    gradient_checkpointing: bool = False
    optimizer: str = "adamw"
    ema: bool = False
    fused: bool = True
    num_processes: int = 1


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of the tensors in a training step, each part at its peak.

    Not counted are the libraries and the accelerator's context (about half a gigabyte each), the reserves of allocators
    and the work spaces of kernels.

    Attributes:
        parameters, trained: number of the model's weights, and of those that are trained.
        weights: bytes of all weights, each in its own data type.
        optimizer: bytes of AdamW's two moments, and of the average, if there is one.
        step: bytes of activations and gradients at the moment when they are most.
    """

    parameters: int
    trained: int
    weights: int
    optimizer: int
    step: int

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return self.weights + self.optimizer + self.step

    def describe(self, batch_size: int) -> str:
        """The total and its parts in words, in GB (10⁹ bytes)."""
        total, weights, optimizer, step = (
            f"{count / 1e9:.2f}" for count in (self.total, self.weights, self.optimizer, self.step)
        )
        return (
            f"about {total} GB: {weights} of weights, {optimizer} of the optimizer, {step} of activations and "
            f"gradients of {batch_size} slices; computed, not measured: libraries and reserves come on top"
        )


class MemoryEstimate:
    """The memory of one base model for batches of any size.

    Args:
        base: content of the base model's config.json; see [`read_base_config`].
        settings: of the training; its batch size and gradient checkpointing are replaced.
    """

    def __init__(self, base: Mapping[str, Any], settings: StepSettings) -> None:
        self.base, self.settings = base, settings

    def training(self, batch_size: int, *, gradient_checkpointing: bool = False) -> TrainingMemory:
        """The memory of a training step; see [`estimate_training`]."""
        settings = replace(self.settings, batch_size=batch_size, gradient_checkpointing=gradient_checkpointing)
        return estimate_training(self.base, settings)

    def prediction(self, batch_size: int) -> int:
        """The bytes of predicting a batch, in float32 and without the scan.

        A slice counts as much as where `samed-hf predict` chooses its batch size; see
        [`~samed_hf.inference.batching.slice_bytes`].
        """
        side, num_labels = self.settings.image_size, self.settings.num_labels
        config = SamedConfig.from_dict(dict(self.base), image_size=side, num_labels=num_labels)
        weights = _FLOAT * self.training(1).parameters
        return weights + batch_size * slice_bytes(config, (side, side), torch.float32)


def read_base_config(model_name_or_path: str | None, **options: Any) -> dict[str, Any]:
    """Read a base model's config.json.

    Args:
        model_name_or_path: directory or Hub id of a plain SAM; `None` gives the configuration of
            facebook/sam-vit-base, SAM's default.
        **options: `revision` and `token`, as for transformers' loading.

    Raises:
        FileNotFoundError: no such model.
        ValueError: the model is no SAM.
    """
    if model_name_or_path is None:
        return {"model_type": "sam"}
    try:
        content, _ = SamedConfig.get_config_dict(model_name_or_path, **options)
        SamedConfig.from_dict(dict(content), id2label={0: "background", 1: "label"})
    except OSError as error:
        raise FileNotFoundError(
            f"model_name_or_path {model_name_or_path!r} can't be loaded: expected a directory or Hub id of a plain "
            f"SAM, e.g. facebook/sam-vit-base. ({str(error).splitlines()[0]})"
        ) from error
    return content


def estimate_training(base: Mapping[str, Any], settings: StepSettings) -> TrainingMemory:
    """Estimate the memory of a training step by running one on fake tensors; takes seconds, once for each settings.

    Args:
        base: content of the base model's config.json; see [`read_base_config`].
        settings: of the training.
    """
    return _estimate_once(json.dumps(base, sort_keys=True), settings)


@lru_cache(maxsize=256)
def _estimate_once(base: str, settings: StepSettings) -> TrainingMemory:
    # A separate thread: attention on a CPU keeps a buffer for each thread, which must not hold fake tensors later.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_estimate, json.loads(base), settings).result()


def make_meta_model(base: Mapping[str, Any], settings: StepSettings) -> SamedForSemanticSegmentation:
    """Build the model and its adapter for these settings on the meta device."""
    config = SamedConfig.from_dict(dict(base), image_size=settings.image_size, num_labels=settings.num_labels)
    with torch.device("meta"):
        model = SamedForSemanticSegmentation(config)
        model.add_adapter(samed_lora_config(settings.rank, variant=settings.variant))
    if settings.frozen_bfloat16:
        cast_frozen(model, torch.bfloat16)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model


def _estimate(base: dict[str, Any], settings: StepSettings) -> TrainingMemory:
    model = make_meta_model(base, settings)
    # PEFT keeps two copies of fully trained modules: the original and the trained one.
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    count = sum(parameter.numel() for parameter in trained)
    optimizer = sum(_moments(parameter.numel(), settings.optimizer) for parameter in trained)
    step = _step(model, settings)
    if settings.num_processes > 1:
        step += _FLOAT * count  # DistributedDataParallel's buckets of gradients
    return TrainingMemory(
        parameters=sum(parameter.numel() for parameter in parameters),
        trained=count,
        weights=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        optimizer=optimizer + (_FLOAT * count if settings.ema else 0),
        step=step,
    )


def _moments(count: int, optimizer: str) -> int:
    if optimizer == "adamw" or count < _SMALL:
        return 2 * _FLOAT * count
    return 2 * (count + _FLOAT * -(-count // _BLOCK))


def _step(model: SamedForSemanticSegmentation, settings: StepSettings) -> int:
    """Bytes of activations and gradients at the peak of a step."""
    side, batch_size = settings.image_size, settings.batch_size
    with FakeTensorMode():
        _make_fake(model)
        model.train()
        if settings.fused:
            use_fused_attention(model)
        with LiveBytes() as live:
            pixels = torch.empty(batch_size, 3, side, side)
            labels = torch.empty(batch_size, side // 4, side // 4, dtype=torch.long)
            # The CPU's autocast replaces an accelerator's: the casts differ little, and fp16 is as large as bf16.
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.mixed_precision):
                logits = model(pixels).logits
            segmentation_loss(logits.float(), labels, model.config.dice_weight).loss.backward()
    return live.peak


def _make_fake(model: nn.Module) -> None:
    """Replace the weights by fake tensors of the CPU, so that the model runs as it does there."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                empty = torch.empty(weight.shape, dtype=weight.dtype)
                module._parameters[name] = nn.Parameter(empty, requires_grad=weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
