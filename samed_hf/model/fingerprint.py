"""Hashes of weights, to notice an adapter on another base model than its own, and results of another model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.distributed.tensor import DTensor

from .mask_decoder import LABEL_HEADS

__all__ = ["base_fingerprint", "model_fingerprint"]

_SAMPLE = 256  # about as many values of each tensor are hashed
_WHOLE = 2**20  # values of the largest tensor that is hashed whole for a model: all of an adapter's are smaller
_DTYPES = (torch.float64, torch.float32, torch.bfloat16)  # rounded to bfloat16, the values are the same
_PEFT = re.compile(r"\.(base_layer|original_module)\b")
# Resized to the image size, or fresh for the labels.
_NOT_BASE = re.compile(rf"pos_embed|rel_pos_[hw]|mask_decoder\.({'|'.join(LABEL_HEADS)})\.")


def base_fingerprint(model: nn.Module) -> str | None:
    """Hash a sample of a SAM's weights without its adapters; a millisecond for each ten tensors.

    A plain SAM and the SAMed models made from it have the same hash: with or without adapters, with fused or separate
    projections, in float32 or bfloat16, for any image size and labels.

    Returns:
        `"sha256:…"`, or `None` if the base's weights can't be told: in float16 or quantized, offloaded or on the meta
        device, sharded, or with an adapter merged into them.
    """
    digest = hashlib.sha256()
    if any(isinstance(module, BaseTunerLayer) and module.merged for module in model.modules()):
        return None
    for name, weight in sorted(_base_weights(model).items()):
        if weight.dtype not in _DTYPES or weight.is_meta or isinstance(weight, DTensor):
            return None
        sample = weight.detach().flatten()[:: max(1, weight.numel() // _SAMPLE)].to("cpu", torch.bfloat16)
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(sample.contiguous().view(torch.int16).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def model_fingerprint(model: nn.Module, about: Mapping[str, Any]) -> str:
    """Hash all weights of a model, of those of the base a sample, and what else its results depend on, as JSON."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for name, weight in sorted([*model.named_parameters(), *model.named_buffers()], key=lambda pair: pair[0]):
        if ".original_module." in name:  # an adapter replaces it, and its label heads are random
            continue
        step = 1 if weight.numel() <= _WHOLE else weight.numel() // _SAMPLE
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        if not weight.is_meta:
            sample = weight.detach().reshape(-1)[::step].cpu().contiguous()
            digest.update(sample.view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def _base_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of image encoder, prompt encoder and mask decoder by their names in a SAM without adapters."""
    adapted = [
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer) or hasattr(module, "original_module")
    ]
    weights: dict[str, torch.Tensor] = {}
    for name, weight in model.named_parameters():
        part = re.search(r"(vision_encoder|prompt_encoder|mask_decoder)\..*", name)
        if part is None or (name.startswith(tuple(adapted)) and not _PEFT.search(name)):
            continue
        own = _PEFT.sub("", part[0])
        if _NOT_BASE.search(own):
            continue
        if ".qkv." in own:
            weights |= {own.replace("qkv", f"{p}_proj"): one for p, one in zip("qkv", weight.chunk(3), strict=True)}
        else:
            weights[own] = weight
    return weights
