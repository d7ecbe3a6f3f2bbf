"""One optimizer step: gradients are clipped, and the log holds means over accumulated batches."""

import pytest
import torch

from samed_hf.training import step as training_step
from samed_hf.training import train


def record_steps(monkeypatch) -> list[dict[str, torch.Tensor | float]]:
    """Record the norm of the gradient and the change of the weights in every optimizer step."""
    records = []
    update = training_step._update

    def recording(state, loss, norm, cases):
        gradients = [weight.grad for weight in state.trained if weight.grad is not None]
        records.append({"norm": norm, "clipped": float(torch.nn.utils.get_total_norm(gradients))})
        update(state, loss, norm, cases)

    monkeypatch.setattr(training_step, "_update", recording)
    return records


@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradients_are_clipped_to_max_grad_norm(settings, monkeypatch, accumulation):
    records = record_steps(monkeypatch)
    train(settings(max_train_steps=2, max_grad_norm=0.01, gradient_accumulation_steps=accumulation))
    assert len(records) == 2
    for record in records:
        assert record["norm"] > 0.02
        assert record["clipped"] == pytest.approx(0.01, rel=1e-3)


def test_without_a_limit_gradients_keep_their_norm(settings, monkeypatch):
    records = record_steps(monkeypatch)
    log = train(settings(max_train_steps=2)).log
    for record, row in zip(records, log, strict=True):
        assert record["clipped"] == pytest.approx(record["norm"], rel=1e-5)
        assert row["gradient_norm"] == record["norm"]


def test_the_log_holds_the_mean_loss_of_accumulated_batches(settings, monkeypatch):
    loss, parts = training_step.segmentation_loss, []

    def recording(*args, **kwargs):
        parts.append(loss(*args, **kwargs))
        return parts[-1]

    monkeypatch.setattr(training_step, "segmentation_loss", recording)
    log = train(settings(max_train_steps=2, gradient_accumulation_steps=3)).log
    assert len(parts) == 6
    for index, row in enumerate(log):
        batches = parts[3 * index : 3 * index + 3]
        for name in ("loss", "cross_entropy", "dice"):
            assert row[name] == pytest.approx(sum(getattr(part, name).item() for part in batches) / 3, rel=1e-6), name
        per_class = torch.stack([part.dice_per_class.detach() for part in batches]).mean(0)
        assert row["dice_per_class"] == pytest.approx(per_class.tolist(), rel=1e-6)
