"""The loss of SAMed: 0.2 · cross-entropy + 0.8 · Dice (arXiv 2304.13785, section 3.4)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import distributed

__all__ = ["IGNORED", "SegmentationLoss", "dice_loss", "segmentation_loss"]

IGNORED = -100
"""Label of pixels that the loss ignores, as in samples that only fill a batch; so is 255 if it is no class."""
_SMOOTH = 1e-5


class SegmentationLoss(NamedTuple):
    """The loss and its parts, scalars in float32, and the detached Dice loss of each class, `(num_labels,)`.

    For a class absent from the batch's labels, the latter shows only how much of it was predicted.
    """

    loss: torch.Tensor
    cross_entropy: torch.Tensor
    dice: torch.Tensor
    dice_per_class: torch.Tensor


def dice_loss(logits: torch.Tensor, labels: torch.Tensor, *, across_processes: bool = False) -> torch.Tensor:
    """Soft Dice loss of the softmax, its denominator squared (arXiv 2304.13785, section 3.4; arXiv 1606.04797).

    `1 - mean_c (2 Σ p_c t_c + s) / (Σ p_c² + Σ t_c² + s)` with `s = 1e-5`. The sums run over the pixels of the whole
    batch, so it isn't a mean over samples. The result is a float32 scalar in [0, 1].

    Args:
        logits: of shape `(batch_size, num_labels, height, width)`.
        labels: of shape `(batch_size, height, width)`, integers in [0, num_labels), or ignored: -100, and 255 if it is
            no class.
        across_processes: sum over the batches of all processes of the default process group, as one process with the
            whole batch does. Every process must call. Gradients are correct under DistributedDataParallel, whose
            averaging cancels the sum in the reduction's backward pass.
    """
    return 1.0 - _dice(logits, _prepare_labels(labels, logits), across_processes).mean()


def _prepare_labels(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Check the labels and convert them to int64, those to ignore to `IGNORED`."""
    expected = (logits.shape[0], *logits.shape[2:])
    if labels.shape != expected:
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}: expected {expected}, that of the logits without their class "
            "dimension."
        )
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels have the dtype {labels.dtype}: expected integers, e.g. labels.round().long().")
    labels = labels.long()
    return labels.masked_fill(labels == 255, IGNORED) if logits.shape[1] <= 255 else labels


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; gradients are summed too, since every loss depends on every tensor."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    backward = forward


def _dice(logits: torch.Tensor, labels: torch.Tensor, across_processes: bool) -> torch.Tensor:
    """The soft Dice coefficient of each class, `(num_labels,)`."""
    known = (labels != IGNORED)[:, None]
    probabilities = logits.float().softmax(dim=1) * known
    targets = F.one_hot(labels.where(known[:, 0], 0), logits.shape[1]).movedim(-1, 1).to(probabilities.dtype) * known
    dims = (0, 2, 3)
    sums = torch.stack([(probabilities * targets).sum(dims), probabilities.square().sum(dims) + targets.sum(dims)])
    if across_processes:
        sums = _SumOverProcesses.apply(sums)
    intersection, total = sums
    return (2.0 * intersection + _SMOOTH) / (total + _SMOOTH)


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor, across_processes: bool) -> torch.Tensor:
    """The mean over the pixels; across processes, this one's share times their number, which averaging divides by.

    It is 0 if all pixels are ignored.
    """
    known = (labels != IGNORED).sum()
    if not across_processes:
        mean = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED)
        return mean.where(known > 0, 0.0)  # PyTorch's mean over no pixel is NaN; its gradient is 0
    # With batches of different sizes, the mean of the processes' means would give small batches more weight.
    distributed.all_reduce(known)
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    return total * (distributed.get_world_size() / known.clamp(min=1))


def segmentation_loss(
    logits: torch.Tensor, labels: torch.Tensor, dice_weight: float = 0.8, *, across_processes: bool = False
) -> SegmentationLoss:
    """`(1 - dice_weight) · cross-entropy + dice_weight · Dice`.

    Args:
        logits: of shape `(batch_size, num_labels, height, width)`; converted to float32.
        labels: of shape `(batch_size, height, width)`, integers of any dtype in [0, num_labels), or ignored: -100, and
            255 if it is no class. If all are ignored, the loss is 0. Logits are interpolated (bilinear) to labels of
            shape `(batch_size, 4 · height, 4 · width)`, the model's input size.
        dice_weight: share of the Dice loss, in [0, 1].
        across_processes: compute the loss of the batches of all processes as one; see [`dice_loss`]. The Dice loss is
            the same on every process; the mean of the cross-entropies over the processes is that of the whole batch.

    Raises:
        ValueError: the labels have another shape than the logits, or are no integers.
    """
    if tuple(labels.shape[1:]) == (4 * logits.shape[2], 4 * logits.shape[3]):
        logits = F.interpolate(logits.float(), scale_factor=4, mode="bilinear", align_corners=False)
    labels = _prepare_labels(labels, logits)
    cross_entropy = _cross_entropy(logits, labels, across_processes)
    coefficients = _dice(logits, labels, across_processes)
    dice = 1.0 - coefficients.mean()
    loss = (1.0 - dice_weight) * cross_entropy + dice_weight * dice
    return SegmentationLoss(loss, cross_entropy, dice, 1.0 - coefficients.detach())
