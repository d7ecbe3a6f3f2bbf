"""States without pickles: what is loaded equals what was saved, after JSON and safetensors."""

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from samed_hf.training.checkpointing.serialization import (
    flatten_state,
    load_optimizer,
    random_states,
    set_random_states,
    unflatten_state,
)


def stored(state):
    """A state as a checkpoint returns it."""
    tensors, values = flatten_state(state)
    return unflatten_state(load(save(tensors)) | json.loads(json.dumps(values)))


def test_nested_states_with_shared_tensors_as_bitsandbytes_has_them():
    table = torch.arange(4, dtype=torch.uint8)
    state = {0: {"step": 3, "quantized": {"state1": torch.ones(2, 3, dtype=torch.uint8), "qmap1": table}}}
    state[1] = {"step": 3, "quantized": {"state1": torch.zeros(2, dtype=torch.uint8), "qmap1": table}}
    found = stored({"optimizer": state})["optimizer"]
    assert set(found) == {"0", "1"}
    for index, values in state.items():
        assert found[str(index)]["step"] == 3
        for name, tensor in values["quantized"].items():
            assert torch.equal(found[str(index)]["quantized"][name], tensor)


OPTIMIZERS = {
    "fused": lambda weights: torch.optim.AdamW(weights, lr=0.1, fused=True),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.1),
    "adam": lambda weights: torch.optim.Adam(weights, lr=0.1, fused=True),
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.001, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_continues_bit_for_bit(kind):
    def steps(model, optimizer, numbers):
        for number in numbers:
            model(torch.full((1, 3), float(number))).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    torch.manual_seed(0)
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    optimizers = [OPTIMIZERS[kind](model.parameters()) for model in models]
    steps(models[0], optimizers[0], range(4))
    models[1].load_state_dict(models[0].state_dict())
    load_optimizer(optimizers[1], stored(optimizers[0].state_dict()["state"]))
    for model, optimizer in zip(models, optimizers, strict=True):
        steps(model, optimizer, range(4, 8))
    assert torch.equal(models[0].weight, models[1].weight)
    assert torch.equal(models[0].bias, models[1].bias)


def test_an_optimizer_without_a_step_has_an_empty_state():
    optimizer = torch.optim.AdamW(nn.Linear(3, 2).parameters())
    assert stored({"optimizer": optimizer.state_dict()["state"]}) == {}
    load_optimizer(optimizer, {})
    assert not optimizer.state


def test_random_generators_continue():
    def draw():
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()]

    draw()  # an odd number of normal values: the second of a pair is part of the state
    states, device = json.loads(json.dumps(random_states(torch.device("cpu")))), torch.device("cpu")
    expected = draw()
    draw()
    set_random_states(states, device)
    assert draw() == expected


def test_a_loss_scaler_is_json():
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    other = torch.amp.GradScaler("cpu")
    other.load_state_dict(json.loads(json.dumps(scaler.state_dict())))
    assert other.get_scale() == 512.0


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_moment_of_another_shape_is_refused(kind):
    model = nn.Linear(3, 2)
    optimizer = OPTIMIZERS[kind](model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = stored(optimizer.state_dict()["state"])
    moment = "momentum_buffer" if kind == "sgd" else "exp_avg"
    with pytest.raises(ValueError, match="weight 0"):
        load_optimizer(optimizer, {"0": state["0"] | {moment: torch.zeros(1)}})
