"""A hash of a base model's weights, to notice an adapter on other weights than those it was trained on."""

from __future__ import annotations

import hashlib
import re

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.distributed.tensor import DTensor

from .mask_decoder import LABEL_HEADS

__all__ = ["base_fingerprint"]

_SAMPLE = 256  # about as many values of each tensor are hashed
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
