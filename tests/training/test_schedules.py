import json
from pathlib import Path

import pytest
import torch

from samed_hf.training.schedules import warmup_polynomial

GOLDEN = Path(__file__).parents[1] / "golden" / "samed" / "training.json"


def rates_of_the_papers_loop(steps, base_lr, warmup, max_iterations, power):
    """The rate of each step: the first is base / warmup, the next is set after the optimizer's step."""
    rate, rates = base_lr / warmup, []
    for iteration in range(steps):
        rates.append(rate)
        if iteration < warmup:
            rate = base_lr * ((iteration + 1) / warmup)
        else:
            rate = base_lr * (1.0 - (iteration - warmup) / max_iterations) ** power
    return rates


def test_samed_by_hand():
    def rate(step):
        return 0.005 * warmup_polynomial(step, warmup_steps=250, horizon=37000)

    assert rate(0) == rate(1) == pytest.approx(0.005 / 250)
    assert rate(2) == pytest.approx(0.005 * 2 / 250)
    assert rate(125) == pytest.approx(0.0025)
    assert rate(250) == rate(251) == pytest.approx(0.005)
    assert rate(252) == pytest.approx(0.005 * (1 - 1 / 37000) ** 0.9)
    assert rate(251 + 18500) == pytest.approx(0.005 * 0.5**0.9)
    assert rate(251 + 37000) == 0.0


@pytest.mark.parametrize("power", [0.9, 7.0])
def test_every_step_is_that_of_the_papers_loop(power):
    expected = rates_of_the_papers_loop(1250, 0.005, 250, 1000, power)
    rates = [0.005 * warmup_polynomial(step, warmup_steps=250, horizon=1000, power=power) for step in range(1250)]
    assert rates == pytest.approx(expected, rel=1e-12)


def test_the_reference_run_used_these_rates():
    golden = json.loads(GOLDEN.read_text())
    warmup, horizon = golden["warmup_period"], golden["max_iterations"]
    assert len(golden["steps"]) > warmup + 2
    for step, row in enumerate(golden["steps"]):
        rate = golden["base_lr"] * warmup_polynomial(step, warmup_steps=warmup, horizon=horizon)
        assert rate == pytest.approx(row["lr_used"], rel=1e-12), step


def test_torchs_scheduler_hands_the_rates_to_the_optimizer():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_polynomial(step, warmup_steps=2, horizon=4, power=1.0)
    )
    used = []
    for _ in range(8):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert used == pytest.approx([0.25, 0.25, 0.5, 0.5, 0.375, 0.25, 0.125, 0.0])


def test_no_warmup_starts_at_the_full_rate():
    rates = [warmup_polynomial(step, warmup_steps=0, horizon=4, power=1.0) for step in range(6)]
    assert rates == pytest.approx([1.0, 1.0, 0.75, 0.5, 0.25, 0.0])


@pytest.mark.parametrize(("warmup", "horizon"), [(0, 1), (1, 1), (7, 30), (30, 7)])
def test_it_rises_then_falls_and_stays_at_zero(warmup, horizon):
    rates = [warmup_polynomial(step, warmup_steps=warmup, horizon=horizon) for step in range(warmup + horizon + 10)]
    assert max(rates) == 1.0
    top = rates.index(1.0)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-9:] == [0.0] * 9
    assert rates[-10] > 0.0
