"""The sizes of the tensors that a fused attention kernel allocates, for estimates of an accelerator's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from ..model.modeling_samed import SamedForSemanticSegmentation

__all__ = ["use_fused_attention"]

_ALIGNMENT = 8  # the kernel pads the keys of its bias to a multiple of this
_TINY_DROPOUT = 1e-9


def use_fused_attention(model: SamedForSemanticSegmentation) -> None:
    """Make the image encoder of a model of fake tensors allocate what it allocates on an accelerator.

    Args:
        model: in training mode, with fake tensors as weights; its results have no content.
    """
    for layer in model.sam.vision_encoder.layers:
        attention: Any = layer.attn
        # With dropout, the encoder doesn't use its CPU implementation; a rate this small drops no element.
        attention.dropout = _TINY_DROPOUT
        attention.forward = _with_fused_kernel(attention.forward)


def _with_fused_kernel(forward: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **options: Any) -> Any:
        with _FusedKernel():
            return forward(*args, **options)

    return wrapped


class _FusedKernel(TorchFunctionMode):
    """Replaces scaled dot-product attention by tensors of the sizes that PyTorch's memory-efficient kernel makes."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value, *rest = args
        bias = rest[0] if rest else kwargs.get("attn_mask")
        tensors = [query, key, value] if bias is None else [query, key, value, bias]
        if torch.is_autocast_enabled("cpu"):
            tensors = [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors]
        if bias is not None and (padding := -tensors[3].shape[-1] % _ALIGNMENT):
            tensors[3] = F.pad(tensors[3], (0, padding))
        return _KernelSizes.apply(*tensors)


class _KernelSizes(torch.autograd.Function):
    """Allocates and keeps the result and one sum for each row, never the attention weights."""

    @staticmethod
    def forward(ctx: Any, *tensors: torch.Tensor) -> torch.Tensor:
        query, value = tensors[0], tensors[2]
        context = query.new_empty(*query.shape[:-1], value.shape[-1])
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(*tensors, context, sums)
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        *tensors, _, _ = ctx.saved_tensors
        return tuple(torch.empty_like(tensor) for tensor in tensors)
