"""Whole volumes through the model, slice by slice in batches, and back onto their own grid."""

from __future__ import annotations

import numpy as np
import torch

from .image_processing_samed import SamedImageProcessor, resize_logits, upsample_logits
from .modeling_samed import SamedForSemanticSegmentation
from .transforms import nearest_zoom
from .volumes import Volume

__all__ = ["predict_slices", "predict_volume"]


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
    """
    size = (slices.shape[1], slices.shape[2])
    dtype = np.uint8 if model.config.num_labels <= 256 else np.uint16
    result = np.empty(slices.shape, dtype=dtype)
    for first in range(0, len(slices), batch_size):
        resized = torch.from_numpy(processor.resize_slices(slices[first : first + batch_size], input_size))
        pixel_values = resized.to(model.device)[:, None].expand(-1, 3, -1, -1)
        logits = upsample_logits(model(pixel_values).logits, processor.image_size)
        if reference_zoom:
            labels = nearest_zoom(logits.argmax(dim=1).cpu().numpy(), size)
        else:
            labels = resize_logits(logits, size).argmax(dim=1).cpu().numpy()
        result[first : first + batch_size] = labels
    return result


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
    processor = processor or model.image_processor
    if processor is None:
        raise ValueError("The model carries no image processor: give one as `processor`.")
    slices = np.transpose(volume.array, processor.axis_order)
    labels = predict_slices(model, processor.normalize_intensity(slices), processor, batch_size=batch_size)
    return np.ascontiguousarray(np.transpose(labels, np.argsort(processor.axis_order)))
