"""A scan segmented by one model or by several, with how sure they are of every voxel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..model.image_processing_samed import SamedImageProcessor, resize_logits
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..model.precision import resolve_dtype
from ..transforms.augmentation import default_augmentation
from ..transforms.slicing import SliceStack, cut_image, cut_slices, image_bounds, join_image, join_slices
from ..utils.progress import ProgressCallback
from ..utils.threads import single_threaded_blas
from ..volumes.geometry import Volume
from .batching import run_in_batches
from .slices import check_finite, label_dtype, narrow_labels, predict_logits

__all__ = ["Segmentation", "Segmenter", "load_model", "segment_volume"]

TTA_DEGREES = (0.0, 8.0, -8.0)
"""Turns that test-time augmentation looks at: well inside the ±20° of the training's."""


class Segmentation(NamedTuple):
    """A scan segmented, every map on the scan's own grid `(x, y, z)`.

    Attributes:
        labels: the label of each voxel, uint8 (uint16 for more than 256 labels).
        confidence: the softmax of each voxel's label, float16 in (0, 1].
        probabilities: the softmax of every label, `(x, y, z, num_labels)` float32, where it was asked for: a view of a
            memory-mapped file.
    """

    labels: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class Segmenter:
    """One or several models of the same labels; several are averaged.

    Attributes:
        models: in evaluation mode, each with its image processor.
    """

    models: tuple[SamedForSemanticSegmentation, ...]

    @classmethod
    def load(cls, adapters: Sequence[str], *, dtype: str | torch.dtype = "float32") -> Segmenter:
        """Load adapters or merged models, onto the accelerator where there is one.

        Args:
            adapters: their folders or Hub ids.
            dtype: that they compute in: "float32", "bfloat16", or "auto" for bfloat16 where it is computed natively.

        Raises:
            FileNotFoundError: no model at one of the places.
            ValueError: one is no SAMed model, or of other labels or of another plane than the first.
        """
        models = tuple(load_model(adapter, dtype=dtype) for adapter in adapters)
        first = models[0]
        for place, model in zip(adapters[1:], models[1:], strict=True):
            if model.config.id2label != first.config.id2label:
                raise ValueError(
                    f"{place!r} has the labels {model.config.id2label}, {adapters[0]!r} {first.config.id2label}: "
                    "expected the same ones of all members of an ensemble."
                )
            cuts = [(one.image_processor.orientation, one.image_processor.axis_order) for one in (first, model)]
            if cuts[0] != cuts[1]:
                raise ValueError(
                    f"{place!r} cuts scans {cuts[1]}, {adapters[0]!r} {cuts[0]}: expected the same slices of all "
                    "members of an ensemble."
                )
        return cls(models)

    @property
    def id2label(self) -> dict[int, str]:
        """Name of each label."""
        return self.models[0].config.id2label

    @property
    def num_labels(self) -> int:
        """How many labels there are, the background counted."""
        return self.models[0].config.num_labels

    @property
    def processor(self) -> SamedImageProcessor:
        """The first model's image processor: how scans are cut is the same for all."""
        return self.models[0].image_processor


def load_model(adapter: str, *, dtype: str | torch.dtype = "float32") -> SamedForSemanticSegmentation:
    """An adapter or a merged model with its image processor, on the accelerator where there is one.

    Args:
        adapter: its folder or Hub id.
        dtype: that it computes in: "float32", "bfloat16", or "auto" for bfloat16 where it is computed natively. Logits
            and all that is made of them are float32.

    Raises:
        FileNotFoundError: no model at this place.
        ValueError: it is no SAMed model.
    """
    if not Path(adapter).exists() and "/" not in str(adapter):  # the Hub's names have a slash: it needn't be asked
        raise FileNotFoundError(
            f"ADAPTER {adapter!r} can't be loaded: there is no such folder, expected that of an adapter or a Hub id "
            "USER/NAME."
        )
    try:
        model = SamedForSemanticSegmentation.from_pretrained(adapter)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileNotFoundError(
            f"ADAPTER {adapter!r} can't be loaded: expected the folder of an adapter or its Hub id. "
            f"({str(error).splitlines()[0]})"
        ) from error
    if model.image_processor is None:
        raise ValueError(
            f"{adapter!r} is no SAMed model (no preprocessor_config.json of SamedImageProcessor): give an adapter's "
            "folder or Hub id, not a plain SAM."
        )
    dtype = resolve_dtype(dtype)
    if dtype != torch.float32:
        # Merged before it is rounded: one rounding, and no products of two types. In float32 merging would but change
        # the last bits.
        if model._hf_peft_config_loaded:
            model.merge_and_unload()
        model.sam.vision_encoder.to(dtype)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return model.to(device).eval()


@torch.inference_mode()
def segment_volume(
    segmenter: Segmenter,
    volume: Volume,
    *,
    batch_size: int | None = None,
    tta: bool = False,
    is_image: bool = False,
    progress: ProgressCallback | None = None,
    probabilities: Path | None = None,
) -> Segmentation:
    """Segment a scan on its own grid.

    With several models or with test-time augmentation the softmax is averaged over all passes.

    Args:
        segmenter: the model or models.
        volume: the scan, in the unit of the processor's intensity window (HU for CT).
        batch_size: slices through a model at once; `None` chooses it by the memory that is free.
        tta: look at every slice as it is and turned by 8° either way, and mirrored too where no label has a side.
        is_image: the volume is a 2-D image `(width, height, 1)`: its slice is segmented as stored, and 8-bit values
            count from 0 to 255 whatever the processor's window is.
        progress: called with the numbers of slices done and in all.
        probabilities: a file to make, in which the softmax of every label is kept.

    Raises:
        ValueError: other channels than the models', or NaN in the scan.
    """
    check_finite(volume)
    processor = segmenter.processor
    slices = cut_image(volume) if is_image else cut_slices(volume, processor)
    processors = [model.image_processor for model in segmenter.models]
    bounds = [image_bounds(slices, one) if is_image else None for one in processors]
    stacks = [SliceStack(slices, one, bounds=bound) for one, bound in zip(processors, bounds, strict=True)]
    shape = (len(slices), *stacks[0].size)
    labels, confidence = np.empty(shape, label_dtype(segmenter.num_labels)), np.empty(shape, np.float16)
    every = None
    if probabilities is not None:
        every = np.memmap(probabilities, np.float32, "w+", shape=(shape[0], segmenter.num_labels, *shape[1:]))
    sources = {stack.processor.context_slices: stack for stack in stacks}  # what several models read is read once

    def read(indices: range) -> list[np.ndarray]:
        return [stack.read_raw(indices) for stack in sources.values()]

    def compute(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        raw = dict(zip(sources, inputs, strict=True))
        softmax = _mean_softmax(segmenter, stacks, [raw[stack.processor.context_slices] for stack in stacks], tta)
        best = softmax.max(dim=1)
        maps = [narrow_labels(best.indices, segmenter.num_labels), best.values.half()]
        return maps if every is None else [*maps, softmax]

    with single_threaded_blas():
        for place, maps in run_in_batches(segmenter.models, len(slices), stacks[0].size, read, compute, batch_size):
            labels[place], confidence[place] = maps[:2]
            if every is not None:
                every[place] = maps[2]
            if progress is not None:
                progress(place.stop, len(slices))
    join = join_image if is_image else partial(join_slices, volume=volume, processor=processor)
    maps = (np.ascontiguousarray(join(array)) for array in (labels, confidence))
    return Segmentation(*maps, None if every is None else join(every))


def _mean_softmax(
    segmenter: Segmenter, stacks: Sequence[SliceStack], raw: Sequence[torch.Tensor], tta: bool
) -> torch.Tensor:
    """The softmax `(batch, num_labels, height, width)`, averaged over models and views, of each model's raw slices."""
    total: torch.Tensor | None = None
    weight: torch.Tensor | float = 0.0
    for model, stack, own in zip(segmenter.models, stacks, raw, strict=True):
        slices = stack.scale(own)
        processor = model.image_processor
        left_right = processor.axis_order[2] == 0
        mirrors = tta and default_augmentation(segmenter.id2label.values(), left_right=left_right).mirror > 0
        for degrees, mirror in _views(tta, mirrors):
            seen = turn(slices.flip(-1) if mirror else slices, degrees)
            pixels = processor.resize_slices(seen)
            logits = resize_logits(predict_logits(model, pixels, processor.image_size), stack.size)
            found = logits.softmax(dim=1)
            if degrees:
                # Where the turned slice lacked a corner, this view has nothing to say.
                known = turn(torch.ones_like(found[:, :1]), -degrees)
                found = turn(found, -degrees)
            else:
                known = 1.0
            found = found.flip(-1) if mirror else found
            known = known.flip(-1) if mirror and degrees else known
            total, weight = found if total is None else total + found, weight + known
    return total / weight


def _views(tta: bool, mirrors: bool) -> Iterator[tuple[float, bool]]:
    """Turn in degrees and whether mirrored, of each look at a slice."""
    for mirror in (False, True) if mirrors else (False,):
        for degrees in TTA_DEGREES if tta else (0.0,):
            yield degrees, mirror


def turn(images: torch.Tensor, degrees: float) -> torch.Tensor:
    """Rotate `(batch, channels, height, width)` about the centre, by linear interpolation, zeros coming in."""
    if not degrees:
        return images
    height, width = images.shape[-2:]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # affine_grid counts each side from -1 to 1, so a side's length enters where the axes mix.
    matrix = torch.tensor([[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]])
    grid = F.affine_grid(matrix.to(images)[None].expand(len(images), -1, -1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
