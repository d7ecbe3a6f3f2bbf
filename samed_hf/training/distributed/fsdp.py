"""Weights that FSDP2 divides over the processes: gathered for a file or a model of one process alone, and divided."""

from __future__ import annotations

import re

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["adapter_weights", "full_tensor", "is_sharded", "shard_like", "shard_state_dict"]

_ADAPTER = re.compile(r"\blora_|\bmodules_to_save\b")


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 has divided the model's weights over the processes."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def adapter_weights(model: nn.Module) -> dict[str, torch.Tensor] | None:
    """The adapter's weights of a divided model by name, whole, on every process's CPU; every process must call.

    Returns:
        What `save_pretrained` takes as `state_dict`; `None`, its default, for a model that isn't divided.
    """
    if not is_sharded(model):
        return None
    # PEFT writes all of a module it trains whole, down to weights of it that are frozen.
    return {name: full_tensor(weight).cpu() for name, weight in model.state_dict().items() if _ADAPTER.search(name)}


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A divided tensor, whole, on every process, all of which must call; another one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(other: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """A whole tensor, the same on every process, divided as `other` is, if it is."""
    if not isinstance(other, DTensor):
        return tensor
    tensor = tensor.to(other.device)
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)


def shard_state_dict(model: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Whole weights as the model's `load_state_dict` takes them: divided over the processes if its own are."""
    own = next((weight for weight in model.parameters() if isinstance(weight, DTensor)), None)
    if own is None:
        return weights
    return {name: shard_like(own, weight) for name, weight in weights.items()}
