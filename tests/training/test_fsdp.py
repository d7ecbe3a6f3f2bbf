"""FSDP2 by itself on two gloo processes: a divided model trained, saved, loaded and averaged."""

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from samed_hf.training.checkpointing.serialization import flatten_state, load_optimizer, unflatten_state
from samed_hf.training.distributed.fsdp import adapter_weights, is_sharded, shard_state_dict
from samed_hf.training.ema import ExponentialMovingAverage


class Layer(nn.Module):
    """A frozen weight with LoRA beside it, five rows over two processes."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(5, 5, bias=False).requires_grad_(False)
        self.lora_A = nn.Linear(5, 2, bias=False)
        self.lora_B = nn.Linear(2, 5, bias=False)

    def forward(self, inputs):
        return self.base(inputs) + self.lora_B(self.lora_A(inputs))


def make_models():
    """A model, and the same one divided over the processes."""
    torch.manual_seed(0)
    plain = nn.Sequential(Layer(), Layer())
    parts = copy.deepcopy(plain)
    for layer in parts:
        fully_shard(layer)
    fully_shard(parts)
    return plain, parts


def check_training(rank):
    """Each process's loss is of its own sample; the gradient is that of the mean."""
    plain, parts = make_models()
    assert is_sharded(parts)
    samples = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    parts(samples[rank : rank + 1]).square().sum().backward()
    plain(samples).square().sum().div(2).backward()
    for mine, other in zip(parts.parameters(), plain.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if other.grad is not None:
            torch.testing.assert_close(mine.grad.full_tensor(), other.grad)


def check_saving_and_loading(rank):
    plain, parts = make_models()
    expected = {name: weight for name, weight in plain.state_dict().items() if "lora_" in name}
    weights = adapter_weights(parts)
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())
    assert not any(isinstance(weight, DTensor) for weight in weights.values())
    doubled = {name: 2 * weight for name, weight in weights.items()}
    parts.load_state_dict(shard_state_dict(parts, doubled), strict=False)
    assert all(torch.equal(weight, doubled[name]) for name, weight in adapter_weights(parts).items())


def check_averages(rank):
    plain, parts = make_models()
    averages = [
        ExponentialMovingAverage([p for p in model.parameters() if p.requires_grad], 0.9) for model in (plain, parts)
    ]
    for average in averages:
        for weight in average.parameters:
            weight.data.mul_(3)
        average.update()
    plain_state, parts_state = (flatten_state(average.state_dict()) for average in averages)
    assert plain_state[1] == parts_state[1] == {"updates": 1}
    assert all(torch.equal(parts_state[0][name], value) for name, value in plain_state[0].items())
    for weight in averages[1].parameters:
        weight.data.zero_()
    averages[1].load_state_dict(unflatten_state(plain_state[0] | plain_state[1]))
    with averages[1].applied():
        for number, weight in enumerate(averages[1].parameters):
            assert torch.equal(weight.full_tensor(), plain_state[0][f"averages/{number}"])
    assert not averages[1].parameters[0].full_tensor().any()


def check_the_optimizer(rank):
    """One that is saved after two steps and loaded by another one does the third step alike."""
    models = [make_models()[1] for _ in range(2)]
    optimizers = [torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1) for model in models]

    def step(model, optimizer, number):
        samples = torch.randn(2, 5, generator=torch.Generator().manual_seed(number))
        model(samples[rank : rank + 1]).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    for number in range(2):
        step(models[0], optimizers[0], number)
    tensors, values = flatten_state(optimizers[0].state_dict()["state"])
    assert tensors["0/exp_avg"].shape == (2, 5)  # whole
    models[1].load_state_dict(shard_state_dict(models[1], adapter_weights(models[0])), strict=False)
    load_optimizer(optimizers[1], unflatten_state(tensors | values))
    assert isinstance(next(iter(optimizers[1].state.values()))["exp_avg"], DTensor)
    for model, optimizer in zip(models, optimizers, strict=True):
        step(model, optimizer, 2)
    one, two = (adapter_weights(model) for model in models)
    assert all(torch.equal(one[name], two[name]) for name in one)


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    for check in (check_training, check_saving_and_loading, check_averages, check_the_optimizer):
        check(rank)
    distributed.barrier()
    (folder / f"done-{rank}").touch()
    # Gloo's threads now and then abort a process that takes its group down; that is no part of what is tested.
    os._exit(0)


@pytest.mark.slow
def test_a_sharded_model(tmp_path):
    torch.multiprocessing.spawn(work, (tmp_path,), nprocs=2)
    assert sorted(path.name for path in tmp_path.glob("done-*")) == ["done-0", "done-1"]


def test_an_unsharded_model_is_unchanged():
    model = nn.Sequential(Layer())
    assert not is_sharded(model)
    assert adapter_weights(model) is None
    weights = model.state_dict()
    assert shard_state_dict(model, weights) is weights
