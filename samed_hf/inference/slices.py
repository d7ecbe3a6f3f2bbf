"""Slices through a model in batches, as evaluation scores them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from ..model.image_processing_samed import SamedImageProcessor
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..model.post_processing import resize_logits, upsample_logits
from ..transforms.slicing import SliceStack
from ..transforms.zoom import nearest_zoom
from ..utils.threads import single_threaded_blas
from .batching import run_in_batches

__all__ = ["SoftmaxObserver", "narrow_labels", "predict_logits", "predict_slices"]


class SoftmaxObserver(Protocol):
    """What is computed from the softmax of a stack of slices, batch by batch."""

    def count(self, softmax: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Reduce the softmax `(batch_size, num_labels, height, width)` of some slices; may be called anew for them."""

    def add(self, counted: np.ndarray) -> None:
        """Take the result of each slice once."""


@torch.inference_mode()
def predict_slices(
    model: SamedForSemanticSegmentation | Sequence[SamedForSemanticSegmentation],
    slices: np.ndarray,
    processor: SamedImageProcessor,
    *,
    input_size: int | None = None,
    reference_zoom: bool = False,
    batch_size: int | None = None,
    observer: SoftmaxObserver | None = None,
) -> np.ndarray:
    """Predict the label of every pixel of a stack of slices.

    Args:
        model: in evaluation mode; it stays on its device. Of several with the same processor the softmax is averaged.
        slices: of shape `(slices, height, width)`, or `(slices, channels, height, width)` for several channels, float32
            in [0, 1].
        processor: zooms the slices to the model's input size.
        input_size: side in pixels to which slices are zoomed first; defaults to the processor's.
        reference_zoom: resize labels as the reference implementation does: argmax at the model's input size, then an
            order-0 zoom. By default the logits are interpolated to the slice's own pixels before the argmax, which
            gives smoother outlines.
        batch_size: slices through the model at once, which changes no label, up to float rounding. `None` chooses it by
            the free memory.
        observer: sees the softmax of the logits at the slice's own pixels; not with `reference_zoom`.

    Returns:
        uint8 array `(slices, height, width)`, values in [0, num_labels); uint16 for more than 256 labels.
    """
    if input_size is not None and input_size < 2:
        raise ValueError(f"input_size is {input_size}: expected a side of at least 2 pixels; the paper's is 224.")
    stack, models = (
        SliceStack(slices, processor, rescaled=True),
        list(model) if isinstance(model, Sequence) else [model],
    )
    num_labels = models[0].config.num_labels

    def read(indices: range) -> list[np.ndarray]:
        return [stack.read_raw(indices), np.array(indices)]

    def compute(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        pixels = processor.resize_slices(stack.scale(inputs[0]), input_size)
        found = [predict_logits(one, pixels, processor.image_size) for one in models]
        found = found if reference_zoom else [resize_logits(logits, stack.size) for logits in found]
        softmax = None
        if len(models) > 1 or observer is not None:
            softmax = torch.as_tensor(sum(logits.softmax(dim=1) for logits in found) / len(found))
        # On a CPU argmax takes seven times as long as max.
        best = (found[0] if len(models) == 1 or softmax is None else softmax).max(dim=1)
        labels = narrow_labels(best.indices, num_labels)
        labels = nearest_zoom(labels, stack.size) if reference_zoom else labels
        return [labels] if observer is None or softmax is None else [labels, observer.count(softmax, inputs[1])]

    result = np.empty((len(stack), *stack.size), dtype=np.min_scalar_type(num_labels - 1))
    with single_threaded_blas():
        for indices, (labels, *counted) in run_in_batches(models, len(stack), stack.size, read, compute, batch_size):
            result[indices] = labels
            if observer is not None:
                observer.add(counted[0])
    return result


def predict_logits(model: SamedForSemanticSegmentation, pixels: torch.Tensor, image_size: int) -> torch.Tensor:
    """Logits `(batch_size, num_labels, S, S)` at the input's size for `pixels` `(batch_size, channels, S, S)`."""
    pixel_values = pixels.to(model.device).expand(-1, max(3, pixels.shape[1]), -1, -1)
    return upsample_logits(model(pixel_values).logits, image_size)


def narrow_labels(labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    """Convert labels to uint8 or int32; torch supports uint16 only in part."""
    return labels.to(torch.uint8 if num_labels <= 256 else torch.int32)
