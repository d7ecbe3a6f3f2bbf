"""Whole scans through the model, slice by slice in batches, and back onto their own grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..model.image_processing_samed import SamedImageProcessor, resize_logits, upsample_logits
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..transforms.slicing import SliceStack, cut_slices, join_slices
from ..transforms.zoom import nearest_zoom
from ..volumes.geometry import Volume
from .batching import run_in_batches

__all__ = [
    "check_finite",
    "label_dtype",
    "narrow_labels",
    "predict_confidence",
    "predict_image",
    "predict_logits",
    "predict_slices",
    "predict_volume",
]


@torch.inference_mode()
def predict_slices(
    model: SamedForSemanticSegmentation,
    slices: np.ndarray,
    processor: SamedImageProcessor,
    *,
    input_size: int | None = None,
    reference_zoom: bool = False,
    batch_size: int | None = None,
) -> np.ndarray:
    """The class of every pixel of a stack of slices.

    Args:
        model: in evaluation mode; runs where it is.
        slices: of shape `(slices, height, width)`, or `(slices, channels, height, width)` of several channels, float32
            in [0, 1].
        processor: zooms the slices to the model's size.
        input_size: side in pixels to which slices are zoomed on the way; defaults to the processor's.
        reference_zoom: go back as the reference implementation does: argmax at the model's size, then an order-0 zoom.
            Otherwise the logits are interpolated to the slice's own pixels before the argmax, which gives smoother
            outlines. Both are the same for slices of the model's size.
        batch_size: slices through the model at once; the result doesn't depend on it, up to float rounding. `None`
            chooses it by the memory that is free.

    Returns:
        uint8 array `(slices, height, width)`, values in [0, num_labels); uint16 for more than 256 labels.

    Raises:
        ValueError: a batch size below 1, an input size below 2, or other channels than the processor's.
    """
    stack = SliceStack(slices, processor, rescaled=True)

    def finish(logits: torch.Tensor) -> list[torch.Tensor]:
        if not reference_zoom:
            logits = resize_logits(logits, stack.size)
        labels = best_labels(logits)
        return [nearest_zoom(labels, stack.size) if reference_zoom else labels]

    result = np.empty((len(stack), *stack.size), dtype=label_dtype(model.config.num_labels))
    for place, (labels,) in _run(model, stack, processor, finish, input_size, batch_size):
        result[place] = labels
    return result


@torch.inference_mode()
def predict_confidence(
    model: SamedForSemanticSegmentation,
    stack: SliceStack,
    processor: SamedImageProcessor,
    *,
    batch_size: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """[`predict_slices`], and how sure the model is of each pixel.

    Args:
        model: in evaluation mode; runs where it is.
        stack: the scan's slices.
        processor: zooms the slices to the model's size.
        batch_size: slices through the model at once; `None` chooses it by the memory that is free.

    Returns:
        The labels `(slices, height, width)`, and the softmax of the logits at each pixel's own label: float32 in (0, 1]
        of the same shape.
    """
    labels = np.empty((len(stack), *stack.size), dtype=label_dtype(model.config.num_labels))
    confidence = np.empty(labels.shape, dtype=np.float32)

    def finish(logits: torch.Tensor) -> list[torch.Tensor]:
        best = resize_logits(logits, stack.size).softmax(dim=1).max(dim=1)
        return [narrow_labels(best.indices, model.config.num_labels), best.values]

    for place, (found, sure) in _run(model, stack, processor, finish, None, batch_size):
        labels[place], confidence[place] = found, sure
    return labels, confidence


@torch.inference_mode()
def predict_image(
    model: SamedForSemanticSegmentation, picture: Any, processor: SamedImageProcessor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Segment one picture at its own size, as transformers' image-segmentation pipeline does.

    Args:
        model: in evaluation mode; runs where it is.
        picture: a PIL image, or an array `(height, width)` or `(height, width, 3)`; uint8, or intensities in the unit
            of the processor's window.
        processor: defaults to the model's own.

    Returns:
        Labels `(height, width)`, uint8 (uint16 for more than 256 labels), and the softmax at each pixel's label,
        float32.
    """
    processor = _processor_of(model, processor)
    size = (picture.height, picture.width) if hasattr(picture, "height") else np.shape(picture)[:2]
    pixel_values = processor(picture)["pixel_values"].to(model.device)
    logits = resize_logits(upsample_logits(model(pixel_values).logits, processor.image_size), size)
    best = logits[0].softmax(dim=0).max(dim=0)
    return best.indices.cpu().numpy().astype(label_dtype(model.config.num_labels)), best.values.cpu().numpy()


@torch.inference_mode()
def predict_volume(
    model: SamedForSemanticSegmentation,
    volume: Volume,
    processor: SamedImageProcessor | None = None,
    *,
    batch_size: int | None = None,
) -> np.ndarray:
    """Segment a scan on its own grid.

    Args:
        model: in evaluation mode.
        volume: the scan, in the unit of the processor's intensity window (HU for CT).
        processor: defaults to the model's own.
        batch_size: slices through the model at once; `None` chooses it by the memory that is free.

    Returns:
        Label map of the shape of `volume.array`, uint8 (uint16 for more than 256 labels).

    Raises:
        ValueError: no processor known, other channels than the processor's, or NaN in the scan.
    """
    processor = _processor_of(model, processor)
    check_finite(volume)
    stack = SliceStack(cut_slices(volume, processor), processor)
    labels = np.empty((len(stack), *stack.size), dtype=label_dtype(model.config.num_labels))

    def finish(logits: torch.Tensor) -> list[torch.Tensor]:
        return [best_labels(resize_logits(logits, stack.size))]

    for place, (found,) in _run(model, stack, processor, finish, None, batch_size):
        labels[place] = found
    return np.ascontiguousarray(join_slices(labels, volume, processor))


def check_finite(volume: Volume) -> None:
    """Refuse a scan with NaN or infinite intensities."""
    if volume.array.dtype.kind == "f" and not (finite := np.isfinite(volume.array)).all():
        bad = finite.size - np.count_nonzero(finite)
        raise ValueError(f"The scan holds {bad} NaN or infinite values: expected finite intensities; replace them.")


def predict_logits(model: SamedForSemanticSegmentation, pixels: torch.Tensor, image_size: int) -> torch.Tensor:
    """Logits `(batch_size, num_labels, S, S)` at the input's size of `pixels` `(batch_size, 1 or 3, S, S)`."""
    pixel_values = pixels.to(model.device).expand(-1, 3, -1, -1)
    return upsample_logits(model(pixel_values).logits, image_size)


def _run(
    model: SamedForSemanticSegmentation,
    stack: SliceStack,
    processor: SamedImageProcessor,
    finish: Callable[[torch.Tensor], list[torch.Tensor]],
    input_size: int | None,
    batch_size: int | None,
) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Which slices, and what `finish` made of their logits `(batch, num_labels, S, S)` at the input's size."""
    if input_size is not None and input_size < 2:
        raise ValueError(f"input_size is {input_size}: expected a side of at least 2 pixels; the paper's is 224.")

    def compute(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        pixels = processor.resize_slices(stack.scale(inputs[0]), input_size)
        return finish(predict_logits(model, pixels, processor.image_size))

    return run_in_batches(
        [model], len(stack), stack.size, lambda indices: [stack.read_raw(indices)], compute, batch_size
    )


def narrow_labels(labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    """Labels in a type that is soon copied, [`label_dtype`] or near it: torch has no whole support of uint16."""
    return labels.to(torch.uint8 if num_labels <= 256 else torch.int32)


def best_labels(logits: torch.Tensor) -> torch.Tensor:
    """The label of each pixel, of logits `(batch_size, num_labels, height, width)`; see [`narrow_labels`]."""
    return narrow_labels(logits.max(dim=1).indices, logits.shape[1])  # on a CPU argmax takes seven times as long


def label_dtype(num_labels: int) -> type[np.unsignedinteger]:
    """The smallest type that holds the labels."""
    return np.uint8 if num_labels <= 256 else np.uint16


def _processor_of(model: SamedForSemanticSegmentation, processor: SamedImageProcessor | None) -> SamedImageProcessor:
    processor = processor or model.image_processor
    if processor is None:
        raise ValueError("The model carries no image processor: give one as `processor`.")
    return processor
