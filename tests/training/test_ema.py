import json

import pytest
import torch
from torch import nn

from samed_hf.training.checkpointing.serialization import flatten_state, unflatten_state
from samed_hf.training.ema import ExponentialMovingAverage


def weights(*values, dtype=torch.float32):
    return [nn.Parameter(torch.tensor([value], dtype=dtype)) for value in values]


def test_by_hand():
    (weight,) = weights(0.0)
    average = ExponentialMovingAverage([weight], decay=0.5)
    expected, shares = 0.0, []
    for update, value in enumerate((1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0), 1):
        weight.data.fill_(value)
        average.update()
        share = min(0.5, (1 + update) / (10 + update))
        shares.append(share)
        expected = share * expected + (1 - share) * value
    with average.applied():
        assert weight.item() == pytest.approx(expected, rel=1e-6)
    assert shares[0] == 2 / 11
    assert shares[-1] == 0.5  # the decay asked for, from the eighth update on


def test_weights_that_stay_are_their_own_average():
    weight = nn.Parameter(torch.randn(50))
    average = ExponentialMovingAverage([weight], decay=0.999)
    for _ in range(20):
        average.update()
    before = weight.detach().clone()
    with average.applied():
        assert torch.allclose(weight, before, rtol=1e-6)


def test_the_weights_come_back_bit_for_bit_even_after_an_error():
    given = weights(1.0, 2.0)
    average = ExponentialMovingAverage(given, decay=0.9)
    for weight in given:
        weight.data.mul_(1 / 3)
    average.update()
    before = [weight.detach().clone() for weight in given]

    def break_off():
        with average.applied():
            assert not torch.equal(given[0], before[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert all(torch.equal(weight, old) for weight, old in zip(given, before, strict=True))
    assert all(weight.requires_grad for weight in given)


def test_the_optimizer_continues_with_the_trained_weights():
    def train(averaged):
        torch.manual_seed(0)
        model, pixels = nn.Linear(4, 2), torch.randn(8, 4)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        average = ExponentialMovingAverage(list(model.parameters()), decay=0.9)
        for _ in range(5):
            model(pixels).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if averaged:
                average.update()
                with average.applied():
                    model(pixels)
        return model.weight.detach()

    assert torch.equal(train(averaged=True), train(averaged=False))


def test_averages_of_half_precision_are_kept_in_float32():
    (weight,) = weights(1.0, dtype=torch.bfloat16)
    average = ExponentialMovingAverage([weight], decay=0.999)
    weight.data.fill_(1.0078125)  # the next number in bfloat16
    average.update()
    kept = average.state_dict()["averages"]["0"]
    assert kept.dtype == torch.float32
    assert 1.0 < kept.item() < 1.0078125
    with average.applied():
        assert weight.dtype == torch.bfloat16


def test_a_continued_run_averages_on(tmp_path):
    values = torch.rand(6, generator=torch.Generator().manual_seed(0)).tolist()
    (weight,) = weights(0.0)
    whole, first = ExponentialMovingAverage([weight], 0.9), ExponentialMovingAverage([weight], 0.9)
    for value in values:
        weight.data.fill_(value)
        whole.update()
        if first.updates < 3:
            first.update()
    tensors, numbers = flatten_state(first.state_dict())
    second = ExponentialMovingAverage([weight], 0.9)
    second.load_state_dict(unflatten_state(tensors | json.loads(json.dumps(numbers))))
    for value in values[3:]:
        weight.data.fill_(value)
        second.update()
    assert torch.equal(second.state_dict()["averages"]["0"], whole.state_dict()["averages"]["0"])
    assert second.updates == 6


def test_averages_of_other_weights_are_refused():
    with pytest.raises(ValueError, match="The averages are of 1 weights of other shapes than the 2 trained here"):
        ExponentialMovingAverage(weights(1.0, 2.0), 0.9).load_state_dict(
            ExponentialMovingAverage(weights(1.0), 0.9).state_dict()
        )


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_out_of_its_range(decay):
    with pytest.raises(ValueError, match=r"expected a share in \[0, 1\)"):
        ExponentialMovingAverage([], decay)
