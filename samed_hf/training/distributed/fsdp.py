"""Gathering and sharding of weights for FSDP2."""

from __future__ import annotations

import re

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["adapter_weights", "full_tensor", "is_sharded", "shard_like", "shard_state_dict"]

_ADAPTER = re.compile(r"\blora_|\bmodules_to_save\b")


def is_sharded(model: nn.Module) -> bool:
    """Return whether FSDP2 shards the model's weights."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def adapter_weights(model: nn.Module) -> dict[str, torch.Tensor] | None:
    """Gather a sharded adapter's weights on the CPU, as the `state_dict` of `save_pretrained`; every process must call.

    Returns `None`, its default, if the model isn't sharded.
    """
    if not is_sharded(model):
        return None
    # PEFT saves modules_to_save completely, including their frozen weights.
    return {name: full_tensor(weight).cpu() for name, weight in model.state_dict().items() if _ADAPTER.search(name)}


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a sharded tensor on every process, and return any other unchanged; every process must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(other: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Shard a tensor, the same on every process, as `other` is sharded."""
    if not isinstance(other, DTensor):
        return tensor
    tensor = tensor.to(other.device)
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)


def shard_state_dict(model: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Shard weights as the model's own are, for its `load_state_dict`."""
    own = next((weight for weight in model.parameters() if isinstance(weight, DTensor)), None)
    if own is None:
        return weights
    return {name: shard_like(own, weight) for name, weight in weights.items()}
