"""The device, the data type and the addresses with which a machine computes."""

from __future__ import annotations

import platform

import torch
from torch import nn
from transformers.utils import logging

__all__ = ["align_weights", "computes_bfloat16", "default_device", "resolve_dtype"]

logger = logging.get_logger(__name__)

_ALIGNMENT = 64  # bytes; that of torch's own memory on a CPU
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def computes_bfloat16(device: torch.device | str | None = None) -> bool:
    """Whether the device has instructions for bfloat16 products; emulated ones are slower than float32.

    The device is by default the accelerator if there is one, else the CPU. Apple's GPUs don't report it: `False`.
    """
    kind = torch.device(default_device() if device is None else device).type
    if kind in ("cuda", "xpu"):
        return getattr(torch, kind).is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        # oneDNN reports support for any AVX-512, and emulates it.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device | str | None = None) -> torch.dtype | None:
    """The data type of a name: "auto" is bfloat16 if [`computes_bfloat16`], else float32, and is logged once.

    `None`, the checkpoint's own, stays `None`.
    """
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        native = computes_bfloat16(device)
        reason = "computes bfloat16 natively" if native else "has no bfloat16 instructions"
        dtype = "bfloat16" if native else "float32"
        kind = torch.device(device or default_device()).type
        logger.warning_once(f"dtype auto: {dtype}, since this {kind} {reason}.")
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}: expected auto, {', '.join(_DTYPES)} or a torch.dtype.")
    return _DTYPES[dtype]


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def align_weights(model: nn.Module) -> None:
    """Copy the weights that are at unaligned addresses of a CPU's memory, in place.

    Weights mapped from their file may be. Matrix products use other kernels for them, with other rounding: a reloaded
    model would differ from the saved one in the last bits.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNMENT:
            tensor.data = tensor.data.clone()
