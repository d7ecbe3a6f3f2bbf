"""Whole volumes through the model, slice by slice in batches, and back onto their own grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .image_processing_samed import SamedImageProcessor, resize_logits, upsample_logits
from .modeling_samed import SamedForSemanticSegmentation
from .transforms import nearest_zoom
from .volumes import Volume

__all__ = ["predict_confidence", "predict_picture", "predict_slices", "predict_volume"]


@torch.inference_mode()
def predict_slices(
    model: SamedForSemanticSegmentation,
    slices: np.ndarray,
    processor: SamedImageProcessor,
    *,
    input_size: int | None = None,
    reference_zoom: bool = False,
    batch_size: int = 8,
) -> np.ndarray:
    """The class of every pixel of a stack of slices.

    Args:
        model: in evaluation mode; runs where it is.
        slices: of shape `(slices, height, width)`, float32 in [0, 1].
        processor: zooms the slices to the model's size.
        input_size: side in pixels to which slices are zoomed on the way; defaults to the processor's.
        reference_zoom: go back as the reference implementation does: argmax at the model's size, then an order-0 zoom.
            Otherwise the logits are interpolated to the slice's own pixels before the argmax, which gives smoother
            outlines. Both are the same for slices of the model's size.
        batch_size: slices through the model at once; the result doesn't depend on it, up to float rounding.

    Returns:
        uint8 array `(slices, height, width)`, values in [0, num_labels); uint16 for more than 256 labels.

    Raises:
        ValueError: a batch size below 1, or an input size below 2.
    """
    size = (slices.shape[1], slices.shape[2])
    result = np.empty(slices.shape, dtype=_label_dtype(model))
    for first, logits in _logits(model, slices, processor, input_size, batch_size):
        if reference_zoom:
            labels = nearest_zoom(logits.argmax(dim=1).cpu().numpy(), size)
        else:
            labels = resize_logits(logits, size).argmax(dim=1).cpu().numpy()
        result[first : first + batch_size] = labels
    return result


@torch.inference_mode()
def predict_confidence(
    model: SamedForSemanticSegmentation, slices: np.ndarray, processor: SamedImageProcessor, *, batch_size: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """[`predict_slices`], and how sure the model is of each pixel.

    Args:
        model: in evaluation mode; runs where it is.
        slices: of shape `(slices, height, width)`, float32 in [0, 1].
        processor: zooms the slices to the model's size.
        batch_size: slices through the model at once.

    Returns:
        The labels, and the softmax of the logits at each pixel's own label: float32 in (0, 1] of the same shape.
    """
    size = (slices.shape[1], slices.shape[2])
    labels = np.empty(slices.shape, dtype=_label_dtype(model))
    confidence = np.empty(slices.shape, dtype=np.float32)
    for first, logits in _logits(model, slices, processor, None, batch_size):
        best = resize_logits(logits, size).softmax(dim=1).max(dim=1)
        labels[first : first + batch_size] = best.indices.cpu().numpy()
        confidence[first : first + batch_size] = best.values.cpu().numpy()
    return labels, confidence


@torch.inference_mode()
def predict_picture(
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
    return best.indices.cpu().numpy().astype(_label_dtype(model)), best.values.cpu().numpy()


def _logits(
    model: SamedForSemanticSegmentation,
    slices: np.ndarray,
    processor: SamedImageProcessor,
    input_size: int | None,
    batch_size: int,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Index of each batch's first slice, and its logits `(batch, num_labels, S, S)` at the input's size."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: expected at least 1 slice.")
    if input_size is not None and input_size < 2:
        raise ValueError(f"input_size is {input_size}: expected a side of at least 2 pixels; the paper's is 224.")
    for first in range(0, len(slices), batch_size):
        resized = torch.from_numpy(processor.resize_slices(slices[first : first + batch_size], input_size))
        pixel_values = resized.to(model.device)[:, None].expand(-1, 3, -1, -1)
        yield first, upsample_logits(model(pixel_values).logits, processor.image_size)


def _label_dtype(model: SamedForSemanticSegmentation) -> type[np.unsignedinteger]:
    return np.uint8 if model.config.num_labels <= 256 else np.uint16


def _processor_of(model: SamedForSemanticSegmentation, processor: SamedImageProcessor | None) -> SamedImageProcessor:
    processor = processor or model.image_processor
    if processor is None:
        raise ValueError("The model carries no image processor: give one as `processor`.")
    return processor


def predict_volume(
    model: SamedForSemanticSegmentation,
    volume: Volume,
    processor: SamedImageProcessor | None = None,
    *,
    batch_size: int = 8,
) -> np.ndarray:
    """Segment a scan on its own grid.

    Args:
        model: in evaluation mode.
        volume: the scan, in the unit of the processor's intensity window (HU for CT).
        processor: defaults to the model's own.
        batch_size: slices through the model at once.

    Returns:
        Label map of the shape of `volume.array`, uint8 (uint16 for more than 256 labels).

    Raises:
        ValueError: no processor known, or NaN in the scan.
    """
    processor = _processor_of(model, processor)
    slices = np.transpose(volume.array, processor.axis_order)
    if slices.dtype == np.uint8 and processor.intensity_window is not None:
        slices = slices.astype(np.float32)  # a scan's values are in the window's unit, whatever their type
    labels = predict_slices(model, processor.normalize_intensity(slices), processor, batch_size=batch_size)
    return np.ascontiguousarray(np.transpose(labels, np.argsort(processor.axis_order)))
