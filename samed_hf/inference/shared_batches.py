"""Slices of several scans in shared batches, as a server segments them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np
import torch

from ..model.post_processing import resize_logits
from ..transforms.slicing import SliceStack, cut_scan, image_bounds, join_slices
from ..utils.threads import single_threaded_blas
from ..volumes.geometry import Volume
from ..volumes.limits import InputLimits
from .segmenter import Segmenter
from .slices import narrow_labels, predict_logits
from .volumes import segment_volume

__all__ = ["segment_volumes"]


@torch.inference_mode()
def segment_volumes(
    segmenter: Segmenter, volumes: Sequence[Volume], *, batch_size: int, limits: InputLimits | None = None
) -> list[np.ndarray | ValueError]:
    """Segment scans whose slices share batches, with the labels of [`segment_volume`].

    Every batch has `batch_size` slices: the last one is filled up with a repeated slice. As the bits of a slice's
    logits depend on the size of its batch, but not on the other slices in it, a scan has the same labels whatever other
    scans are segmented with it.

    Args:
        segmenter: the model or models, whose softmax is averaged; models of several planes segment scan by scan.
        volumes: the scans; each may have another grid.
        batch_size: slices through a model at once.
        limits: of each scan; by default `InputLimits.local()`.

    Returns:
        For each scan its label map of shape `volume.grid`, uint8 (uint16 for more than 256 labels), or the error of a
        scan that can't be segmented, which doesn't stop the others.
    """
    results: list[np.ndarray | ValueError] = [ValueError("not segmented")] * len(volumes)
    scans: dict[int, _Scan] = {}
    for index, volume in enumerate(volumes):
        try:
            if segmenter.in_planes:
                results[index] = segment_volume(segmenter, volume, batch_size=batch_size, limits=limits).labels
            else:
                scans[index] = _Scan(segmenter, volume, limits)
        except ValueError as error:
            results[index] = error
    with single_threaded_blas():
        for parts in _batches(scans, batch_size):
            _segment_batch(segmenter, [(scans[index], slices) for index, slices in parts], batch_size)
    for index, scan in scans.items():
        results[index] = scan.joined(segmenter)
    return results


class _Scan:
    """A scan's slices as each model's processor scales them, and their labels."""

    def __init__(self, segmenter: Segmenter, volume: Volume, limits: InputLimits | None) -> None:
        slices = cut_scan(volume, segmenter.processor, limits)
        if min(slices.shape[-2:]) < 2:
            raise ValueError(
                f"The scan's slices have {slices.shape[-2]}×{slices.shape[-1]} pixels: expected at least 2 each way."
            )
        self.volume = volume
        self.stacks = [
            SliceStack(slices, one, bounds=image_bounds(slices, one) if volume.is_image else None)
            for one in segmenter.processors
        ]
        self.size, self.device = self.stacks[0].size, segmenter.models[0].device
        self.labels = np.empty((len(slices), *self.size), np.min_scalar_type(segmenter.num_labels - 1))

    def pixels(self, member: int, indices: Sequence[int]) -> torch.Tensor:
        """Slices as input of a model, `(len(indices), channels, S, S)`."""
        stack = self.stacks[member]
        return stack.processor.resize_slices(stack.scale(torch.from_numpy(stack.read_raw(indices)).to(self.device)))

    def joined(self, segmenter: Segmenter) -> np.ndarray:
        """The labels on the scan's grid."""
        return np.ascontiguousarray(join_slices(self.labels, self.volume, segmenter.processor))


def _batches(scans: dict[int, _Scan], batch_size: int) -> Iterator[list[tuple[int, list[int]]]]:
    """Divide the slices of all scans into batches: for each the scans with their slices."""
    every = [(index, number) for index, scan in scans.items() for number in range(len(scan.labels))]
    first: Callable[[tuple[int, int]], int] = lambda pair: pair[0]  # noqa: E731
    for start in range(0, len(every), batch_size):
        batch = every[start : start + batch_size]
        yield [(index, [number for _, number in pairs]) for index, pairs in groupby(batch, first)]


def _segment_batch(segmenter: Segmenter, parts: Sequence[tuple[_Scan, list[int]]], batch_size: int) -> None:
    """Predict the labels of one batch."""
    counts = [len(indices) for _, indices in parts]
    totals: list[torch.Tensor | float] = [0.0] * len(parts)
    for member, (model, processor) in enumerate(zip(segmenter.models, segmenter.processors, strict=True)):
        pixels = torch.cat([scan.pixels(member, indices) for scan, indices in parts])
        filling = pixels[-1:].expand(batch_size - len(pixels), -1, -1, -1)
        logits = predict_logits(model, torch.cat([pixels, filling]), processor.image_size)[: sum(counts)]
        for number, ((scan, _), own) in enumerate(zip(parts, logits.split(counts), strict=True)):
            totals[number] = totals[number] + resize_logits(own, scan.size).softmax(dim=1)
    for (scan, indices), total in zip(parts, totals, strict=True):
        best = torch.as_tensor(total / len(segmenter.models)).max(dim=1)
        scan.labels[indices] = narrow_labels(best.indices, segmenter.num_labels).cpu().numpy()
