"""The optimizer that a run asks for, or a clear word why it can't be had."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from samed_hf.training.arguments import SamedTrainingArguments
from samed_hf.training.optimizers import check_optimizer, make_optimizer

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def arguments(**settings):
    args = SamedTrainingArguments(**settings)
    args = args.fill_defaults()
    return args


def test_adamw_has_the_runs_settings_and_one_kernel():
    optimizer = make_optimizer([nn.Parameter(torch.ones(3))], arguments(learning_rate=0.02, weight_decay=0.3), CPU)
    assert type(optimizer) is torch.optim.AdamW
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"], group["fused"]) == (0.02, 0.3, (0.9, 0.999), True)


def test_one_step_by_hand():
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = make_optimizer([weight], arguments(learning_rate=0.1, weight_decay=0.5), CPU)
    weight.grad = torch.tensor([4.0])
    optimizer.step()
    # decayed by 1 - 0.1 · 0.5, then moved by the rate, since the first step's moments cancel but for epsilon
    assert weight.item() == pytest.approx(2.0 * 0.95 - 0.1, abs=1e-6)


def two_steps(weight, optimizer, gradient):
    for _ in range(2):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
    return weight.item()


def test_sgd_by_hand():
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = make_optimizer([weight], arguments(optimizer="sgd", learning_rate=0.1, weight_decay=0.5), CPU)
    # gradient with the penalty: 4 + 0.5 · 2 = 5, the weight 1.5; then 4 + 0.5 · 1.5 + 0.9 · 5 = 9.25, the weight 0.575
    assert two_steps(weight, optimizer, 4.0) == pytest.approx(0.575, abs=1e-6)


def test_adam_has_the_penalty_in_the_gradient():
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = make_optimizer([weight], arguments(optimizer="adam", learning_rate=0.1, weight_decay=2.0), CPU)
    weight.grad = torch.tensor([-4.0])  # and 2 · 2 of the penalty: nothing is left
    optimizer.step()
    assert weight.item() == 2.0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.1),
        ({"optimizer": "adamw_8bit"}, 0.1),
        ({"optimizer": "sgd"}, 0.0001),
        ({"optimizer": "adam"}, 0.0001),
        ({"optimizer": "sgd", "preset": "samed"}, 0.0001),
        ({"optimizer": "sgd", "weight_decay": 0.0}, 0.0),
    ],
)
def test_the_weight_decay_is_that_of_the_optimizer(settings, expected):
    assert arguments(**settings).weight_decay == expected


def test_eight_bits_need_a_gpu():
    with pytest.raises(ValueError, match="adamw_8bit, but the run is on cpu"):
        make_optimizer([nn.Parameter(torch.ones(3))], arguments(optimizer="adamw_8bit"), CPU)


def test_eight_bits_need_bitsandbytes(monkeypatch):
    monkeypatch.setattr("samed_hf.training.optimizers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'samed_hf\[8bit\]'"):
        check_optimizer(arguments(optimizer="adamw_8bit"), CUDA)


def test_a_broken_bitsandbytes_is_an_error_in_one_line(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    (tmp_path / "bitsandbytes").mkdir()
    (tmp_path / "bitsandbytes" / "__init__.py").write_text("raise RuntimeError('libcudart\\nis missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"can't be loaded \(libcudart is missing\)"):
        check_optimizer(arguments(optimizer="adamw_8bit"), CUDA)


def test_eight_bits_get_the_same_settings(monkeypatch):
    class AdamW8bit(torch.optim.SGD):
        def __init__(self, parameters, lr, betas, weight_decay):
            super().__init__(parameters, lr=lr, weight_decay=weight_decay)
            self.betas = betas

    package, optim = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.optim")
    optim.AdamW8bit, package.optim = AdamW8bit, optim
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", optim)
    monkeypatch.setattr("samed_hf.training.optimizers.find_spec", lambda name: object())
    args = arguments(optimizer="adamw_8bit", learning_rate=0.02, weight_decay=0.3)
    optimizer = make_optimizer([nn.Parameter(torch.ones(3))], args, CUDA)
    assert isinstance(optimizer, AdamW8bit)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"], optimizer.betas) == (0.02, 0.3, (0.9, 0.999))
