"""Scans cut into slices for the model, and maps of the slices assembled on the scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..volumes.geometry import Volume, reorient, restore_orientation
from ..volumes.limits import InputLimits
from .augmentation import window_intensity
from .intensity import warn_if_rescaled
from .settings import SliceSettings, stack_arrays

if TYPE_CHECKING:
    from .zoom import Array

__all__ = [
    "SliceStack",
    "cut_image",
    "cut_scan",
    "cut_slices",
    "image_bounds",
    "is_8_bit",
    "join_image",
    "join_slices",
    "rows_point_up",
    "slice_axes",
    "slice_spacing",
]


def cut_slices(volume: Volume, processor: SliceSettings) -> np.ndarray:
    """Cut a scan by the processor's `orientation` and `axis_order`, whatever the axes of its file; images as stored.

    The result is a view, `(slices, height, width)`, or `(slices, channels, height, width)` for several channels.
    """
    if volume.is_image:
        return cut_image(volume)
    array, order = reorient(volume, processor.orientation).array, slice_axes(volume, processor)
    if array.ndim == 3:
        return np.transpose(array, order)
    first, *others = order
    return np.transpose(array, (first, 3, *others))


def cut_scan(volume: Volume, processor: SliceSettings, limits: InputLimits | None = None) -> np.ndarray:
    """[`cut_slices`] of a scan; a `ValueError` for NaN or infinity in it, or more slices or pixels than `limits`."""
    if volume.array.dtype.kind == "f" and not (finite := np.isfinite(volume.array)).all():
        bad = finite.size - np.count_nonzero(finite)
        raise ValueError(f"The scan holds {bad} NaN or infinite values: expected finite intensities; replace them.")
    slices = cut_slices(volume, processor)
    (limits or InputLimits.local()).check_slices(volume.path or "The scan", slices.shape)
    return slices


def slice_axes(volume: Volume, processor: SliceSettings) -> Sequence[int]:
    """The axes of a reoriented scan that become slices, rows and columns: the processor's `axis_order`.

    A scan of one slice in another plane is cut in its own plane, as its slices in the processor's would be lines.
    """
    grid = reorient(volume, processor.orientation).grid
    if grid.count(1) != 1 or grid[processor.axis_order[0]] == 1:
        return processor.axis_order
    return ((0, 2, 1), (1, 2, 0), (2, 1, 0))[grid.index(1)]


def join_slices(slices: np.ndarray, volume: Volume, processor: SliceSettings) -> np.ndarray:
    """The inverse of [`cut_slices`] for maps of the slices: a view `volume.grid` or `(*volume.grid, channels)`."""
    if volume.is_image:
        return join_image(slices)
    if slices.ndim == 4:
        slices = np.moveaxis(slices, 1, 3)
    back = [*np.argsort(slice_axes(volume, processor)), *range(3, slices.ndim)]
    return restore_orientation(np.transpose(slices, back), volume, processor.orientation)


def cut_image(image: Volume) -> np.ndarray:
    """The frames of an image, as stored: `(frames, height, width)` or `(frames, channels, height, width)`."""
    return np.transpose(image.array, (2, 1, 0) if image.array.ndim == 3 else (2, 3, 1, 0))


def join_image(slices: np.ndarray) -> np.ndarray:
    """The inverse of [`cut_image`]: `(width, height, frames)` or `(width, height, frames, channels)`."""
    return np.transpose(slices, (2, 1, 0) if slices.ndim == 3 else (3, 2, 0, 1))


def image_bounds(slices: Any, processor: SliceSettings) -> list[list[float]]:
    """The intensities of an image cut by [`cut_image`] that become 0 and 1, for each channel: 0 and 255 for uint8.

    The image is an array or a tensor. A warning, once, if it seems to be in [0, 1] already.
    """
    if is_8_bit(slices):
        return [[0.0, 255.0]] * (1 if slices.ndim == 3 else slices.shape[1])
    bounds = processor.intensity_bounds(slices)
    warn_if_rescaled(slices, bounds)
    return bounds


def is_8_bit(array: Any) -> bool:
    """Whether an array or a tensor is uint8."""
    return str(array.dtype) in ("uint8", "torch.uint8")


def slice_spacing(volume: Volume, processor: SliceSettings) -> tuple[float, float, float]:
    """Spacing of the cut scan in mm between slices, rows and columns."""
    spacing = reorient(volume, processor.orientation).spacing
    first, second, third = slice_axes(volume, processor)
    return spacing[first], spacing[second], spacing[third]


def rows_point_up(processor: SliceSettings) -> bool:
    """Whether the first row of a slice is the most posterior or inferior one, as in BTCV, so that it is drawn below."""
    return processor.orientation is None or processor.orientation[processor.axis_order[1]] in "AS"


class SliceStack:
    """Slices of one scan, rescaled a few at a time, so that the whole scan is in memory only once.

    Args:
        array: `(slices, height, width)` or `(slices, channels, height, width)`, e.g. a memory-mapped file.
        processor: defines how intensities are scaled to [0, 1] and what fills the model's three channels.
        bounds: the intensities that become 0 and 1, for each channel; by default the processor's for this scan.
        rescaled: whether the intensities are in [0, 1] already.
    """

    def __init__(
        self,
        array: np.ndarray,
        processor: SliceSettings,
        *,
        bounds: Sequence[Sequence[float]] | None = None,
        rescaled: bool = False,
    ) -> None:
        channels = 1 if array.ndim == 3 else array.shape[1]
        if channels != processor.num_channels:
            names = f" ({', '.join(processor.channel_names)})" if processor.channel_names else ""
            raise ValueError(
                f"The scan has {channels} channels, the model was trained on {processor.num_channels}{names}: give "
                "scans of the same channels."
            )
        self.array, self.processor, self.rescaled = array, processor, rescaled
        self.seen = [*range(channels)] if processor.channels is None else processor.channels
        self.bounds: Sequence[Sequence[float]] = []
        if not rescaled:
            self.bounds = processor.intensity_bounds(array) if bounds is None else bounds

    def __len__(self) -> int:
        """The number of slices."""
        return len(self.array)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a slice in pixels."""
        return self.array.shape[-2], self.array.shape[-1]

    def read_raw(self, indices: Sequence[int]) -> np.ndarray:
        """Slices in the scan's own intensities: float32, `(len(indices), channels, height, width)`.

        The channels are those that the model sees, or three neighbouring slices; the first and the last are repeated.
        """
        index, array = np.asarray(indices), self.array
        if self.processor.context_slices:
            index = np.clip(index[:, None] + np.arange(-1, 2), 0, len(self) - 1)
            array = array[:, self.seen[0]] if array.ndim == 4 else array
        raw = array[index]
        if array.ndim == 4 and self.processor.channels is not None:
            raw = raw[:, self.seen]
        raw = np.ascontiguousarray(raw, dtype=np.float32)
        return raw[:, None] if raw.ndim == 3 else raw

    def scale(self, raw: Array) -> Array:
        """Scale slices of [`read_raw`] to [0, 1], on the same device.

        The result has 1 channel if it fills all three of the model, else 3, or all those that the model projects; of
        two channels the third is the mean.
        """
        channels = [raw[:, index] for index in range(raw.shape[1])]
        if not self.rescaled:
            bounds = [self.bounds[index] for index in self.seen]
            bounds = bounds * len(channels) if self.processor.context_slices else bounds
            channels = [window_intensity(one, bound) for one, bound in zip(channels, bounds, strict=True)]
        if len(channels) == 1:
            return channels[0][:, None]
        if len(channels) == 2:
            channels.append((channels[0] + channels[1]) / 2)
        stacked: Array = stack_arrays(channels, 1)
        return stacked

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Slices in [0, 1], float32: [`read_raw`], then [`scale`]."""
        return self.scale(self.read_raw(indices))

    def scaled(self) -> np.ndarray:
        """All slices in [0, 1], float32, of the array's own shape."""
        if self.rescaled:
            return self.array.astype(np.float32)
        channels = [self.array] if self.array.ndim == 3 else np.moveaxis(self.array, 1, 0)
        scaled = [window_intensity(one, bound) for one, bound in zip(channels, self.bounds, strict=True)]
        return scaled[0] if self.array.ndim == 3 else np.stack(scaled, axis=1)
