"""The loss of SAMed: 0.2 cross-entropy + 0.8 Dice on the low-resolution logits (SAMed, section 3.4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.distributed.nn.functional import all_reduce

__all__ = ["SegmentationLoss", "dice_loss", "segmentation_loss"]

_SMOOTH = 1e-5


class SegmentationLoss(NamedTuple):
    """The weighted sum and its two parts, each a scalar tensor in float32."""

    loss: torch.Tensor
    cross_entropy: torch.Tensor
    dice: torch.Tensor


def dice_loss(logits: torch.Tensor, labels: torch.Tensor, *, across_processes: bool = False) -> torch.Tensor:
    """Soft Dice loss of the softmax, with squared terms in the denominator.

    `1 - mean_c (2 Σ p_c t_c + s) / (Σ p_c² + Σ t_c² + s)`, where the sums run over the pixels of the whole batch, so it
    isn't a mean over samples, and `s` is 1e-5 (SAMed, section 3.4; the squares are the reference implementation's).

    Args:
        logits: of shape `(batch_size, num_labels, height, width)`, floating point.
        labels: of shape `(batch_size, height, width)`, int64 in [0, num_labels).
        across_processes: take the sums over the batches of all processes of the default process group, as one process
            with the whole batch would. Every process must call. The gradients are right under
            DistributedDataParallel, whose averaging undoes the sum that the reduction's backward pass makes.

    Returns:
        A scalar tensor in float32, in [0, 1].
    """
    probabilities = logits.float().softmax(dim=1)
    targets = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).to(probabilities.dtype)
    dims = (0, 2, 3)
    sums = torch.stack(
        [
            (probabilities * targets).sum(dims),
            probabilities.square().sum(dims) + targets.sum(dims),
        ]
    )
    if across_processes:
        sums = all_reduce(sums)
    intersection, total = sums
    return 1.0 - ((2.0 * intersection + _SMOOTH) / (total + _SMOOTH)).mean()


def segmentation_loss(
    logits: torch.Tensor, labels: torch.Tensor, dice_weight: float = 0.8, *, across_processes: bool = False
) -> SegmentationLoss:
    """`(1 - dice_weight) · cross-entropy + dice_weight · Dice`.

    Args:
        logits: of shape `(batch_size, num_labels, height, width)`, floating point; computed on in float32.
        labels: of shape `(batch_size, height, width)`, int64 in [0, num_labels).
        dice_weight: share of the Dice loss, in [0, 1].
        across_processes: see [`dice_loss`]; the cross-entropy stays each process's own mean.

    Raises:
        ValueError: the shapes of logits and labels don't fit.
    """
    if labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}: expected {(logits.shape[0], *logits.shape[2:])}, "
            "that of the logits without their class dimension."
        )
    cross_entropy = F.cross_entropy(logits.float(), labels)
    dice = dice_loss(logits, labels, across_processes=across_processes)
    return SegmentationLoss((1.0 - dice_weight) * cross_entropy + dice_weight * dice, cross_entropy, dice)
