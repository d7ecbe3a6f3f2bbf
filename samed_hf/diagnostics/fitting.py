"""The largest batch of each of SAM's sizes that fits into a device's memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from .memory import StepSettings, estimate_training

__all__ = ["MODELS", "base_config", "fitting_batches"]

_CHECKPOINTING = StepSettings(gradient_checkpointing=True)
_HALF = replace(_CHECKPOINTING, mixed_precision=True)
# The flags that save most of what a device can do.
_PLAIN = ("", StepSettings())
_ON_PROCESSOR = ("--gradient_checkpointing", _CHECKPOINTING)
_WITHOUT_BFLOAT16 = ("--mixed_precision fp16 --gradient_checkpointing", _HALF)
_WITH_BFLOAT16 = (
    "--mixed_precision bf16 --frozen_dtype bfloat16 --gradient_checkpointing",
    replace(_HALF, frozen_bfloat16=True),
)
_BATCH_SIZES = (12, 4, 1)

MODELS: dict[str, dict[str, Any]] = {
    "ViT-B": {},  # transformers' default
    "ViT-L": {"hidden_size": 1024, "num_hidden_layers": 24, "global_attn_indexes": [5, 11, 17, 23]},
    "ViT-H": {"hidden_size": 1280, "num_hidden_layers": 32, "global_attn_indexes": [7, 15, 23, 31]},
}
"""What the image encoders of the published SAMs change in transformers' default."""


def base_config(model: str) -> dict[str, Any]:
    """The config.json of a published SAM, as far as it differs from the default.

    Args:
        model: "ViT-B", "ViT-L" or "ViT-H".
    """
    vision = dict(MODELS[model])
    if vision:
        vision |= {"num_attention_heads": 16, "mlp_dim": 4 * vision["hidden_size"]}
    return {"model_type": "sam", "vision_config": vision}


def fitting_batches(
    free: Mapping[str, float], bfloat16: Collection[str]
) -> dict[str, dict[str, dict[str, Any] | None]]:
    """For each device and model the largest usual batch that fits, with the fewest flags.

    Attention counts as on accelerators, which is an upper bound for a processor.

    Args:
        free: bytes available for tensors, by the device's name.
        bfloat16: names of the devices that compute it natively.

    Returns:
        "batch_size", "flags" and "bytes" by device and model; `None` if not one slice fits.
    """
    largest: dict[str, dict[str, dict[str, Any] | None]] = {}
    for device, available in free.items():
        slim = _WITH_BFLOAT16 if device in bfloat16 else _ON_PROCESSOR if device == "cpu" else _WITHOUT_BFLOAT16
        largest[device] = {model: _largest(base_config(model), (_PLAIN, slim), available) for model in MODELS}
    return largest


def _largest(
    base: dict[str, Any], options: Collection[tuple[str, StepSettings]], available: float
) -> dict[str, Any] | None:
    for batch_size in _BATCH_SIZES:
        for flags, settings in options:
            total = estimate_training(base, replace(settings, batch_size=batch_size)).total
            if total <= available:
                return {"batch_size": batch_size, "flags": flags, "bytes": total}
    return None
