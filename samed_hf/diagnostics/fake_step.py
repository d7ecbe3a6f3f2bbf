"""The bytes that tensors take while a model of fake tensors runs, with attention as on an accelerator if requested."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ..model.modeling_samed import SamedForSemanticSegmentation

__all__ = ["LiveBytes", "make_fake", "use_fused_attention"]

_ALIGNMENT = 8  # the kernel pads the keys of its bias to a multiple of this
_TINY_DROPOUT = 1e-9


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors created in the context: `now` alive, and at the `peak`.

    Tensors that exist before, and views of them such as a transposed weight, do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._add((args, kwargs), are_older=True)
        result = func(*args, **(kwargs or {}))
        self._add(result)
        return result

    def _add(self, tree: Any, are_older: bool = False) -> None:
        for tensor in tree_iter(tree):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if (key := storage._cdata) not in self._sizes:
                self._sizes[key] = 0 if are_older else storage.nbytes()
                self.now += self._sizes[key]
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


def make_fake(model: nn.Module) -> None:
    """Replace the weights by fake tensors of the CPU, so that the model runs as it does there."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                empty = torch.empty(weight.shape, dtype=weight.dtype)
                module._parameters[name] = nn.Parameter(empty, requires_grad=weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def use_fused_attention(model: SamedForSemanticSegmentation) -> None:
    """Make the encoder of a fake model in training mode allocate what it allocates on an accelerator."""
    for layer in model.sam.vision_encoder.layers:
        attention: Any = layer.attn
        # With dropout, the encoder doesn't use its CPU implementation; a rate this small drops no element.
        attention.dropout = _TINY_DROPOUT
        attention.forward = functools.partial(_forward_fused, attention.forward)


def _forward_fused(forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
    with _FusedKernel():
        return forward(*args, **options)


class _FusedKernel(TorchFunctionMode):
    """Replaces scaled dot-product attention by tensors of the sizes that PyTorch's memory-efficient kernel makes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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
