"""The loss of SAMed: 0.2 cross-entropy + 0.8 Dice on the low-resolution logits (SAMed, section 3.4)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import distributed

__all__ = ["IGNORED", "SegmentationLoss", "dice_loss", "segmentation_loss"]

IGNORED = -100
"""Label of pixels that count for nothing, say of a sample that only fills a batch up."""
_SMOOTH = 1e-5


class SegmentationLoss(NamedTuple):
    """The weighted sum and its two parts, each a scalar tensor in float32, and the Dice loss class by class.

    Attributes:
        loss: `(1 - dice_weight) · cross_entropy + dice_weight · dice`.
        cross_entropy: the mean over the pixels.
        dice: the mean over the classes, background included.
        dice_per_class: of shape `(num_labels,)`, float32, detached; its mean is `dice`. That of a class which is in no
            label of the batch says only how much of it was predicted.
    """

    loss: torch.Tensor
    cross_entropy: torch.Tensor
    dice: torch.Tensor
    dice_per_class: torch.Tensor


def dice_loss(logits: torch.Tensor, labels: torch.Tensor, *, across_processes: bool = False) -> torch.Tensor:
    """Soft Dice loss of the softmax, with squared terms in the denominator.

    `1 - mean_c (2 Σ p_c t_c + s) / (Σ p_c² + Σ t_c² + s)`, where the sums run over the pixels of the whole batch, so it
    isn't a mean over samples, and `s` is 1e-5 (SAMed, section 3.4; the squares are the reference implementation's).

    Args:
        logits: of shape `(batch_size, num_labels, height, width)`, floating point.
        labels: of shape `(batch_size, height, width)`, int64 in [0, num_labels), or `IGNORED`.
        across_processes: take the sums over the batches of all processes of the default process group, as one process
            with the whole batch would. Every process must call. The gradients are right under
            DistributedDataParallel, whose averaging undoes the sum that the reduction's backward pass makes.

    Returns:
        A scalar tensor in float32, in [0, 1].
    """
    return 1.0 - _dice(logits, labels, across_processes).mean()


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient, for each process's loss depends on every tensor."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _dice(logits: torch.Tensor, labels: torch.Tensor, across_processes: bool) -> torch.Tensor:
    """The soft Dice coefficient of each class, `(num_labels,)`."""
    known = (labels != IGNORED)[:, None]
    probabilities = logits.float().softmax(dim=1) * known
    targets = F.one_hot(labels.where(known[:, 0], 0), logits.shape[1]).movedim(-1, 1).to(probabilities.dtype) * known
    dims = (0, 2, 3)
    sums = torch.stack(
        [
            (probabilities * targets).sum(dims),
            probabilities.square().sum(dims) + targets.sum(dims),
        ]
    )
    if across_processes:
        sums = _SumOverProcesses.apply(sums)
    intersection, total = sums
    return (2.0 * intersection + _SMOOTH) / (total + _SMOOTH)


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor, across_processes: bool) -> torch.Tensor:
    """The mean over the pixels; of all processes, this one's part times their number, which their averaging undoes."""
    if not across_processes:
        return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED)
    # Shares needn't be equal: the mean of the processes' own means would weigh the samples of a small one more.
    known = (labels != IGNORED).sum()
    distributed.all_reduce(known)
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    return total * (distributed.get_world_size() / known)


def segmentation_loss(
    logits: torch.Tensor, labels: torch.Tensor, dice_weight: float = 0.8, *, across_processes: bool = False
) -> SegmentationLoss:
    """`(1 - dice_weight) · cross-entropy + dice_weight · Dice`.

    Args:
        logits: of shape `(batch_size, num_labels, height, width)`, floating point; computed on in float32.
        labels: of shape `(batch_size, height, width)`, int64 in [0, num_labels), or `IGNORED`; not all of them are.
        dice_weight: share of the Dice loss, in [0, 1].
        across_processes: the loss of the batches of all processes as one; see [`dice_loss`]. The Dice loss is the same
            on every process. The cross-entropy and the sum are the process's own parts of it, whose mean over the
            processes, like that of the gradients, is the whole batch's, however many samples each has.

    Raises:
        ValueError: the shapes of logits and labels don't fit.
    """
    if labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}: expected {(logits.shape[0], *logits.shape[2:])}, "
            "that of the logits without their class dimension."
        )
    cross_entropy = _cross_entropy(logits, labels, across_processes)
    coefficients = _dice(logits, labels, across_processes)
    dice = 1.0 - coefficients.mean()
    loss = (1.0 - dice_weight) * cross_entropy + dice_weight * dice
    return SegmentationLoss(loss, cross_entropy, dice, 1.0 - coefficients.detach())
