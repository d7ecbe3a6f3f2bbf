"""The state of optimizers and random generators as tensors and JSON values, for checkpoints without pickles."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from ..distributed.fsdp import full_tensor, shard_like

__all__ = ["flatten_state", "load_optimizer", "random_states", "set_random_states", "unflatten_state"]

_SEPARATOR = "/"


def flatten_state(state: Mapping[Any, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Divide nested dictionaries into tensors on the CPU and other values, both by names such as "optimizer/0/step".

    Sharded tensors are gathered: every process must call.
    """
    leaves = dict(_leaves(state))
    tensors = {name: value for name, value in leaves.items() if isinstance(value, torch.Tensor)}
    # Copied, for safetensors refuses tensors that share memory.
    copies = {name: full_tensor(value).detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    return copies, {name: value for name, value in leaves.items() if name not in tensors}


def _leaves(state: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}{_SEPARATOR}")
        else:
            yield f"{prefix}{key}", value


def unflatten_state(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of [`flatten_state`]; every key is a string."""
    state: dict[str, Any] = {}
    for name, value in leaves.items():
        *parents, key = name.split(_SEPARATOR)
        node = state
        for parent in parents:
            node = node.setdefault(parent, {})
        node[key] = value
    return state


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Mapping[str, Any]]) -> None:
    """Load the "state" of an optimizer's `state_dict`, by the parameters' numbers; the options remain its own."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    inner = getattr(optimizer, "optimizer", optimizer)  # Accelerate wraps it
    own: dict[int, dict[str, Any]] = {}
    for index, values in state.items():
        parameter = parameters[int(index)]
        if isinstance(inner, torch.optim.Adam | torch.optim.SGD):  # AdamW is an Adam
            found, shape = {name: tuple(value.shape) for name, value in values.items()}, tuple(parameter.shape)
            adam = {"step": (), "exp_avg": shape, "exp_avg_sq": shape}
            if found != (adam if isinstance(inner, torch.optim.Adam) else {"momentum_buffer": shape}):
                raise ValueError(f"the optimizer's state of weight {index} is {found}, its shape is {shape}")
        own[int(index)] = {
            name: shard_like(parameter, value)
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape
            else value
            for name, value in values.items()
        }
    optimizer.load_state_dict({"state": own, "param_groups": optimizer.state_dict()["param_groups"]})


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of the random generators of this process, as JSON values."""
    name, keys, *rest = np.random.get_state()
    states = {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state().tolist(),
    }
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state().tolist()
    return states


def set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Restore [`random_states`] on a device of the same type."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(torch.tensor(states["torch"], dtype=torch.uint8))
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(torch.tensor(states[device.type], dtype=torch.uint8))
