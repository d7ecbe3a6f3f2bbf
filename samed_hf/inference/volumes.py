"""Scans and images segmented on their own grid: the one way from a volume to labels."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..model.image_processing_samed import SamedImageProcessor
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..transforms.settings import to_numpy
from ..transforms.slicing import SliceStack, cut_scan, cut_slices, image_bounds, join_slices
from ..utils.console import ProgressCallback
from ..utils.threads import single_threaded_blas
from ..volumes.geometry import Volume
from ..volumes.limits import InputLimits
from .batching import run_in_batches
from .segmenter import Segmenter
from .slices import narrow_labels
from .views import mean_softmax

__all__ = ["Segmentation", "predict_image", "predict_volume", "segment_volume"]


class Segmentation(NamedTuple):
    """The segmentation of a scan; every map is on the scan's own grid `(x, y, z)`."""

    labels: np.ndarray  # uint8 (uint16 for more than 256 labels)
    confidence: np.ndarray  # the softmax of each voxel's label, in (0, 1]; float16 by default
    probabilities: np.ndarray | None = None  # the softmax of all labels, `(x, y, z, num_labels)` float32, in a file


def segment_volume(
    segmenter: Segmenter,
    volume: Volume,
    *,
    batch_size: int | None = None,
    tta: bool = False,
    progress: ProgressCallback | None = None,
    probabilities: Path | None = None,
    confidence_dtype: torch.dtype = torch.float16,
    limits: InputLimits | None = None,
) -> Segmentation:
    """Segment a scan or an image on its own grid.

    This is how every command and server predicts: of the same file they get the same labels.

    Args:
        segmenter: the model or models, whose softmax is averaged on the scan's grid.
        volume: the scan, in the unit of the processor's intensity window (HU for CT). If it `is_image`, its frames are
            segmented as stored, and 8-bit values count from 0 to 255 whatever the window is.
        batch_size: slices through a model at once; `None` chooses it by the free memory.
        tta: test-time augmentation: average views of each slice as it is, rotated by ±8°, and mirrored if no label has
            a side.
        progress: called with the number of slices done and the number of all slices; for each of several planes.
        probabilities: path of a file to create for the softmax of every label.
        confidence_dtype: floating point type of the confidence.
        limits: the most slices, and pixels of a slice; by default `InputLimits.local()`.

    Raises:
        ValueError: another number of channels than the models', NaN or infinity in the scan, or beyond the limits; or
            an image or one slice for models of several planes.
    """
    if segmenter.in_planes:
        options: dict[str, Any] = {"batch_size": batch_size, "tta": tta, "progress": progress, "limits": limits}
        return _segment_planes(segmenter, volume, probabilities, confidence_dtype=confidence_dtype, **options)
    slices = cut_scan(volume, segmenter.processor, limits)
    labels, confidence, softmax = _segment_slices(
        segmenter, slices, batch_size, tta, volume.is_image, progress, probabilities, confidence_dtype
    )
    join = partial(join_slices, volume=volume, processor=segmenter.processor)
    labels = np.ascontiguousarray(join(labels))  # one after the other, so that only one of them is there twice
    confidence = np.ascontiguousarray(join(confidence))
    return Segmentation(labels, confidence, None if softmax is None else join(softmax))


def _segment_planes(segmenter: Segmenter, volume: Volume, path: Path | None, **options: Any) -> Segmentation:
    """[`segment_volume`] for models of several planes; the softmax of each is in a temporary file."""
    if volume.is_image or min(volume.grid) < 2:
        raise ValueError(
            f"{volume.path or 'The scan'} has slices of one plane ({'×'.join(map(str, volume.grid))}): expected a scan "
            "for models of several; or give the adapter of that plane alone."
        )
    found: list[Segmentation] = []
    with tempfile.TemporaryDirectory(prefix="samed-hf-") as directory:
        for index, (model, processor) in enumerate(zip(segmenter.models, segmenter.processors, strict=True)):
            file = path if path and not index else Path(directory) / str(index)
            found.append(segment_volume(Segmenter.of(model, processor), volume, probabilities=file, **options))
    maps = (found[0].labels, found[0].confidence, *(np.asarray(one.probabilities) for one in found))
    cut = (cut_slices(replace(volume, array=one), segmenter.processor) for one in maps)
    for label, confidence, *softmax in zip(*cut, strict=True):  # slice by slice: the files may exceed the memory
        softmax[0][...] = sum(softmax) / len(softmax)
        label[...], confidence[...] = softmax[0].argmax(axis=0), softmax[0].max(axis=0)
    return found[0] if path else found[0]._replace(probabilities=None)


@torch.inference_mode()
def _segment_slices(
    segmenter: Segmenter,
    slices: np.ndarray,
    batch_size: int | None = None,
    tta: bool = False,
    is_image: bool = False,
    progress: ProgressCallback | None = None,
    probabilities: Path | None = None,
    confidence_dtype: torch.dtype = torch.float32,
) -> Segmentation:
    """[`segment_volume`] for slices `(slices, [channels,] height, width)`; the maps are `(slices, height, width)`."""
    stacks = [
        SliceStack(slices, one, bounds=image_bounds(slices, one) if is_image else None) for one in segmenter.processors
    ]
    shape, num_labels = (len(slices), *stacks[0].size), segmenter.num_labels
    labels = np.empty(shape, np.min_scalar_type(num_labels - 1))
    confidence = torch.empty(shape, dtype=confidence_dtype).numpy()
    softmaxes = None
    if probabilities is not None:
        softmaxes = np.memmap(probabilities, np.float32, "w+", shape=(shape[0], num_labels, *shape[1:]))
    # Input shared by several models is read once.
    keys = [(stack.processor.context_slices, tuple(stack.seen)) for stack in stacks]
    sources = dict(zip(keys, stacks, strict=True))

    def read(indices: range) -> list[np.ndarray]:
        return [stack.read_raw(indices) for stack in sources.values()]

    def compute(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        raw = dict(zip(sources, inputs, strict=True))
        inputs = [raw[key] for key in keys]
        softmax = mean_softmax(segmenter.models, stacks, inputs, tta=tta)
        best = softmax.max(dim=1)
        maps = [narrow_labels(best.indices, num_labels), best.values.to(confidence_dtype)]
        return maps if softmaxes is None else [*maps, softmax]

    with single_threaded_blas():
        for indices, maps in run_in_batches(segmenter.models, len(slices), stacks[0].size, read, compute, batch_size):
            labels[indices], confidence[indices] = maps[:2]
            if softmaxes is not None:
                softmaxes[indices] = maps[2]
            if progress is not None:
                progress(indices.stop, len(slices))
    return Segmentation(labels, confidence, softmaxes)


def predict_volume(
    model: SamedForSemanticSegmentation,
    volume: Volume,
    processor: SamedImageProcessor | None = None,
    *,
    batch_size: int | None = None,
) -> np.ndarray:
    """The labels of [`segment_volume`] with one model in evaluation mode, and by default its own processor.

    Returns:
        Label map of shape `volume.grid`, uint8 (uint16 for more than 256 labels).
    """
    return segment_volume(Segmenter.of(model, processor), volume, batch_size=batch_size).labels


def predict_image(
    model: SamedForSemanticSegmentation, image: Any, processor: SamedImageProcessor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Segment an open image at its own size; for a file, [`read_volume`] and [`segment_volume`] give the same labels.

    transformers' image-segmentation pipeline gives them too. All turn images by their EXIF orientation.

    Args:
        model: in evaluation mode.
        image: a PIL image, or an array or tensor `(height, width)` or with 3 channels; uint8, or intensities in the
            unit of the processor's window.
        processor: defaults to the model's own.

    Returns:
        Labels `(height, width)`, uint8 (uint16 for more than 256 labels), and the softmax at each pixel's label,
        float32 in (0, 1].

    Raises:
        ValueError: `image` is no finite image of at least 2 pixels each way.
    """
    segmenter = Segmenter.of(model, processor)
    segmentation = _segment_slices(segmenter, to_numpy(segmenter.processor.image_slices(image)), is_image=True)
    return segmentation.labels[0], segmentation.confidence[0]
