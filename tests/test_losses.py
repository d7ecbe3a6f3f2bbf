import math

import pytest
import torch
import torch.nn.functional as F

from samed_hf.losses import dice_loss, segmentation_loss


def test_dice_by_hand():
    # Two classes, probabilities 0.75 / 0.25 at both pixels; labels 0 and 1.
    logits = torch.tensor([math.log(3.0), 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    background = 1 - 2 * 0.75 / (2 * 0.75**2 + 1)
    organ = 1 - 2 * 0.25 / (2 * 0.25**2 + 1)
    assert dice_loss(logits, labels).item() == pytest.approx((background + organ) / 2, abs=1e-5)


def test_a_perfect_prediction_costs_nothing_and_an_absent_class_neither():
    labels = torch.randint(0, 2, (2, 8, 8))
    logits = 100.0 * F.one_hot(labels, 3).movedim(-1, 1).float()
    loss = segmentation_loss(logits, labels)
    assert loss.dice.item() == pytest.approx(0.0, abs=1e-6)
    assert loss.loss.item() == pytest.approx(0.0, abs=1e-6)


def test_weights_of_the_two_parts():
    logits, labels = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
    loss = segmentation_loss(logits, labels, dice_weight=0.8)
    assert loss.cross_entropy.item() == pytest.approx(F.cross_entropy(logits, labels).item())
    assert loss.loss.item() == pytest.approx(0.2 * loss.cross_entropy.item() + 0.8 * loss.dice.item(), rel=1e-6)


def test_sums_run_over_the_batch_before_the_division():
    logits, labels = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    labels[1] = 0
    whole = dice_loss(logits, labels)
    parts = (dice_loss(logits[:1], labels[:1]) + dice_loss(logits[1:], labels[1:])) / 2
    assert abs(whole - parts) > 1e-3
    # Side by side in one image, the two are the same batch.
    wide = dice_loss(torch.cat(list(logits), dim=-1)[None], torch.cat(list(labels), dim=-1)[None])
    assert torch.allclose(whole, wide)


def test_half_precision_logits_give_a_float32_loss():
    loss = segmentation_loss(torch.randn(1, 3, 4, 4).bfloat16(), torch.randint(0, 3, (1, 4, 4)))
    assert loss.loss.dtype == torch.float32


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"labels have the shape \(1, 8, 8\): expected \(1, 4, 4\)"):
        segmentation_loss(torch.randn(1, 3, 4, 4), torch.zeros(1, 8, 8, dtype=torch.long))
