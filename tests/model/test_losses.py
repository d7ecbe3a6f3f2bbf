import math

import pytest
import torch
import torch.nn.functional as F

from samed_hf.model.losses import IGNORED, dice_loss, segmentation_loss


def test_dice_by_hand():
    # Two classes, probabilities 0.75 / 0.25 at both pixels; labels 0 and 1.
    logits = torch.tensor([math.log(3.0), 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    background = 1 - 2 * 0.75 / (2 * 0.75**2 + 1)
    organ = 1 - 2 * 0.25 / (2 * 0.25**2 + 1)
    assert dice_loss(logits, labels).item() == pytest.approx((background + organ) / 2, abs=1e-5)


def test_the_loss_of_a_perfect_prediction_and_of_an_absent_class_is_zero():
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


def test_dice_of_each_class_by_hand():
    logits = torch.tensor([math.log(3.0), 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 1, 2).clone().requires_grad_()
    loss = segmentation_loss(logits, torch.tensor([[[0, 1]]]))
    expected = [1 - 2 * 0.75 / (2 * 0.75**2 + 1), 1 - 2 * 0.25 / (2 * 0.25**2 + 1)]
    assert loss.dice_per_class.tolist() == pytest.approx(expected, abs=1e-5)
    assert (loss.dice_per_class.dtype, loss.dice_per_class.requires_grad) == (torch.float32, False)
    assert loss.dice_per_class.mean().item() == pytest.approx(loss.dice.item(), rel=1e-6)


def test_ignored_samples_change_neither_loss_nor_gradient():
    logits = torch.randn(3, 4, 8, 8, requires_grad=True)
    labels = torch.randint(0, 4, (3, 8, 8))
    labels[2] = IGNORED
    loss, without = segmentation_loss(logits, labels), segmentation_loss(logits[:2], labels[:2])
    assert loss.loss.item() == pytest.approx(without.loss.item(), rel=1e-6)
    assert torch.allclose(loss.dice_per_class, without.dice_per_class)
    (gradient,) = torch.autograd.grad(loss.loss, logits)
    (expected,) = torch.autograd.grad(without.loss, logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-9)
    assert not gradient[2].any()


def test_ignored_pixels_are_left_out_of_the_dice():
    logits, labels = torch.randn(1, 3, 1, 6), torch.tensor([[[0, 1, 2, 1, IGNORED, IGNORED]]])
    expected = dice_loss(logits[..., :4], labels[..., :4])
    assert dice_loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_an_error(label):
    with pytest.raises((RuntimeError, IndexError)):
        dice_loss(torch.randn(1, 3, 2, 2), torch.full((1, 2, 2), label))


@pytest.mark.parametrize("ignored", [-100, 255])
def test_ignored_labels(ignored):
    logits, labels = torch.randn(2, 3, 1, 6), torch.randint(0, 3, (2, 1, 6))
    labels[..., 4:] = ignored
    loss, without = segmentation_loss(logits, labels), segmentation_loss(logits[..., :4], labels[..., :4])
    for part in ("loss", "cross_entropy", "dice"):
        assert getattr(loss, part).item() == pytest.approx(getattr(without, part).item(), rel=1e-5)
    assert dice_loss(logits, labels).item() == pytest.approx(without.dice.item(), rel=1e-5)


def test_255_is_a_label_where_it_is_a_class():
    logits, labels = torch.randn(1, 256, 2, 2), torch.full((1, 2, 2), 255)
    expected = F.cross_entropy(logits, labels).item()
    assert segmentation_loss(logits, labels).cross_entropy.item() == pytest.approx(expected)
    assert segmentation_loss(logits[:, :255], labels).cross_entropy.item() == 0


@pytest.mark.parametrize("ignored", [-100, 255])
def test_the_loss_of_no_pixel_is_zero(ignored):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((2, 4, 4), ignored))
    assert [part.item() for part in loss[:3]] == [0.0, 0.0, 0.0]
    loss.loss.backward()
    assert not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint16, torch.bool])
def test_integers_of_any_dtype(dtype):
    logits, labels = torch.randn(1, 3, 4, 4), torch.randint(0, 2, (1, 4, 4))
    assert segmentation_loss(logits, labels.to(dtype)).loss == segmentation_loss(logits, labels).loss


def test_labels_that_are_no_integers():
    with pytest.raises(ValueError, match=r"labels have the dtype torch.float32"):
        segmentation_loss(torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4))
