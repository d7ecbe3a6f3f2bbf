"""Calibration of one case's softmax: expected calibration error and Brier score of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from .arguments import METRICS
from .hausdorff import smallest_box

__all__ = ["BINS", "MARGIN_MM", "Calibration"]

BINS = 15
"""Bins of equal width of the expected calibration error."""

MARGIN_MM = 10.0
"""Margin of the box around a class's label in mm; in voxels for a case without spacing."""


class Calibration:
    """Sums over the slices of a case from which its scores follow; no softmax is kept.

    A class's probability p is compared with y, 1 in its label and 0 elsewhere. Class-wise, as one bin of the most
    likely label would be background almost everywhere. Both scores are also those of the voxels in the box around the
    class's label with a margin of [`MARGIN_MM`], the same for all models. In [0, 1], with n the number of voxels:

    - ECE: Σ_bins |Σ (y - p)| / n, with [`BINS`] bins of p, open below (Guo et al. 2017, equation 3; class-wise Kull et
      al. 2019, equation 2);
    - Brier score: Σ (y - p)² / n (Brier 1950).

    Args:
        label: integer label map `(slices, height, width)`.
        members: the labels of each class or region, by its name.
        spacing: in mm along each array axis.
        ignore_index: value in `label` of voxels that don't count.
    """

    def __init__(
        self,
        label: np.ndarray,
        members: Mapping[str, Sequence[int]],
        spacing: Sequence[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        self.label, self.members, self.ignore_index = label, members, ignore_index
        margins = np.ceil(MARGIN_MM / np.asarray(spacing or (1.0,) * label.ndim)).astype(int).tolist()
        boxes = [smallest_box(np.isin(label, labels)) for labels in members.values()]
        self._boxes = [
            [slice(max(side.start - margin, 0), side.stop + margin) if side.stop else side for side, margin in sides]
            for sides in (zip(box, margins, strict=True) for box in boxes)
        ]
        self._sums = np.zeros((len(members), 2, BINS + 2))

    def count(self, softmax: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Return the sums over some slices for [`add`], of their softmax `(slices, num_labels, height, width)`."""
        softmax = softmax.cpu() if softmax.device.type == "mps" else softmax  # which has no float64
        first, stop = int(indices[0]), int(indices[-1]) + 1
        label = torch.from_numpy(self.label[first:stop].astype(np.int64)).to(softmax.device)
        known = torch.ones_like(label, dtype=torch.bool) if self.ignore_index is None else label != self.ignore_index
        sums = []
        for labels, (depth, *sides) in zip(self.members.values(), self._boxes, strict=True):
            members = torch.tensor(labels, device=softmax.device)
            probability = softmax[:, members].sum(dim=1)
            gap = torch.isin(label, members).to(probability) - probability
            near = slice(max(depth.start - first, 0), max(depth.stop - first, 0)), *sides
            sums.append(torch.stack([_sums(*(one[box] for one in (probability, gap, known))) for box in (..., near)]))
        return torch.stack(sums)

    def add(self, sums: np.ndarray) -> None:
        """Add the result of [`count`] for some slices."""
        self._sums += sums

    def scores(self) -> dict[str, dict[str, float | None]]:
        """The scores by class; those near the label are undefined without one."""
        gaps, squares, counts = np.abs(self._sums[..., :BINS]).sum(axis=-1), *np.moveaxis(self._sums[..., BINS:], -1, 0)
        values = np.stack([gaps, squares], axis=-1) / np.where(counts, counts, np.nan)[..., None]
        rows = [[None if np.isnan(value) else float(value) for value in row.ravel()] for row in values]
        return {
            name: dict(zip(METRICS["calibration"], row, strict=True))
            for name, row in zip(self.members, rows, strict=True)
        }


def _sums(probability: torch.Tensor, gap: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """The sum of gaps in each bin, the sum of their squares, and the number of voxels; float64."""
    probability, gap = probability[known].double(), gap[known].double()
    bins = (torch.ceil(probability * BINS).long() - 1).clamp(0, BINS - 1)
    total = torch.stack([gap.square().sum(), torch.tensor(float(gap.numel()), device=gap.device).double()])
    return torch.cat([torch.bincount(bins, gap, minlength=BINS), total])
