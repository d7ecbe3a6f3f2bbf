"""The memory that training and prediction need, told by the model itself: run on shapes alone, nothing computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ..model.configuration_samed import SamedConfig
from ..model.lora import samed_lora_config
from ..model.modeling_samed import SamedForSemanticSegmentation
from .memory import LiveBytes

__all__ = ["MemoryEstimate", "estimate_memory"]

_FLOAT = 4
_MOMENTS = 2  # of AdamW, for each number that is trained


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of all tensors that are alive at once, in float32, with attention computed by its plain formula.

    What isn't in it: the accelerator's context, what its allocator keeps in reserve, and libraries' work spaces. Fused
    attention and mixed precision need less.

    Attributes:
        image_size: side of the model's input in pixels.
        parameters, trained: how many numbers the model has, and how many of them are trained.
        fixed: bytes of weights, gradients and AdamW's two moments.
        per_slice: bytes that each slice of a training batch adds.
        per_slice_checkpointed: the same with gradient checkpointing.
        per_slice_prediction: bytes that each slice of a batch adds at prediction.
    """

    image_size: int
    parameters: int
    trained: int
    fixed: int
    per_slice: int
    per_slice_checkpointed: int
    per_slice_prediction: int

    def training(self, batch_size: int, *, gradient_checkpointing: bool = False) -> int:
        """Bytes to train with so many slices at once."""
        return self.fixed + batch_size * (self.per_slice_checkpointed if gradient_checkpointing else self.per_slice)

    def prediction(self, batch_size: int) -> int:
        """Bytes to predict so many slices at once, the scan itself not counted."""
        return self.parameters * _FLOAT + batch_size * self.per_slice_prediction


def estimate_memory(base: dict[str, Any], *, image_size: int, num_labels: int, rank: int = 4) -> MemoryEstimate:
    """Let the model tell its memory, by running it on tensors without content; a few seconds, once for each size.

    Args:
        base: content of the base model's config.json; see [`~samed_hf.diagnostics.memory.read_base_config`].
        image_size: side of the model's input in pixels.
        num_labels: how many labels there are, the background counted.
        rank: of the LoRA matrices.
    """
    return _estimate(json.dumps(base, sort_keys=True), image_size, num_labels, rank)


@lru_cache(maxsize=16)
def _estimate(base: str, image_size: int, num_labels: int, rank: int) -> MemoryEstimate:
    config = SamedConfig.from_dict(json.loads(base), image_size=image_size, num_labels=num_labels)
    with torch.device("meta"):
        model = SamedForSemanticSegmentation(config)
        model.add_adapter(samed_lora_config(rank))
    # PEFT keeps the parts that train whole twice: as they were, and as they are trained.
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    per_slice = _added_by_a_slice(lambda batch_size: _train_once(model, batch_size))
    prediction = _added_by_a_slice(lambda batch_size: _predict_once(model, batch_size))
    model.activation_checkpointing_enable()
    checkpointed = _added_by_a_slice(lambda batch_size: _train_once(model, batch_size))
    fixed = (parameters + (1 + _MOMENTS) * trained) * _FLOAT
    return MemoryEstimate(image_size, parameters, trained, fixed, per_slice, checkpointed, prediction)


def _added_by_a_slice(run: Callable[[int], None]) -> int:
    """How much more a batch of two needs at its peak than one of one."""
    peaks = []
    for batch_size in (1, 2):
        with LiveBytes() as live:
            run(batch_size)
        peaks.append(live.peak)
    return peaks[1] - peaks[0]


def _train_once(model: SamedForSemanticSegmentation, batch_size: int) -> None:
    model.train()
    side = model.config.image_size
    pixels = torch.empty(batch_size, 3, side, side, device="meta")
    labels = torch.empty(batch_size, side // 4, side // 4, dtype=torch.long, device="meta")
    model(pixels, labels=labels).loss.backward()
    model.zero_grad(set_to_none=True)


def _predict_once(model: SamedForSemanticSegmentation, batch_size: int) -> None:
    model.eval()
    side = model.config.image_size
    with torch.inference_mode():
        logits = model(torch.empty(batch_size, 3, side, side, device="meta")).logits
        torch.nn.functional.interpolate(logits, size=(side, side), mode="bilinear").softmax(dim=1)
