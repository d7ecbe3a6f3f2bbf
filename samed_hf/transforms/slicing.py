"""A scan cut into the slices that the model sees, and slices put together again on the scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..volumes.geometry import Volume, reorient, restore_orientation
from .augmentation import window_intensity
from .zoom import Array

if TYPE_CHECKING:
    from ..model.image_processing_samed import SamedImageProcessor

__all__ = [
    "SliceStack",
    "cut_image",
    "cut_slices",
    "image_bounds",
    "join_image",
    "join_slices",
    "rows_point_up",
    "slice_spacing",
]


def cut_slices(volume: Volume, processor: SamedImageProcessor) -> np.ndarray:
    """The scan's slices along the processor's axis, in its canonical orientation whatever the file's order.

    Returns:
        A view of the array: `(slices, height, width)`, or `(slices, channels, height, width)` of several channels.
    """
    array = reorient(volume, processor.orientation).array
    if array.ndim == 3:
        return np.transpose(array, processor.axis_order)
    first, *others = processor.axis_order
    return np.transpose(array, (first, 3, *others))


def join_slices(slices: np.ndarray, volume: Volume, processor: SamedImageProcessor) -> np.ndarray:
    """The inverse of [`cut_slices`] for a map of the slices.

    Args:
        slices: of shape `(slices, height, width)`, or `(slices, channels, height, width)`.
        volume: the scan.
        processor: that which cut it.

    Returns:
        A view of shape `volume.grid`, or `(*volume.grid, channels)`.
    """
    if slices.ndim == 4:
        slices = np.moveaxis(slices, 1, 3)
    back = [*np.argsort(processor.axis_order), *range(3, slices.ndim)]
    return restore_orientation(np.transpose(slices, back), volume, processor.orientation)


def cut_image(picture: Volume) -> np.ndarray:
    """The one slice of a picture as it lies: `(1, height, width)`, or `(1, channels, height, width)`."""
    return np.transpose(picture.array, (2, 1, 0) if picture.array.ndim == 3 else (2, 3, 1, 0))


def join_image(slices: np.ndarray) -> np.ndarray:
    """The inverse of [`cut_image`] for a map: `(width, height, 1)`, or `(width, height, 1, channels)`."""
    return np.transpose(slices, (2, 1, 0) if slices.ndim == 3 else (3, 2, 0, 1))


def image_bounds(picture: np.ndarray, processor: SamedImageProcessor) -> list[list[float]]:
    """What becomes 0 and 1 in each channel of cut pictures: of 8 bits 0 and 255 whatever the processor's window is."""
    if picture.dtype != np.uint8:
        return processor.intensity_bounds(picture)
    return [[0.0, 255.0]] * (1 if picture.ndim == 3 else picture.shape[1])


def slice_spacing(volume: Volume, processor: SamedImageProcessor) -> tuple[float, float, float]:
    """Spacing of the cut scan in mm: between slices, rows and columns."""
    spacing = reorient(volume, processor.orientation).spacing
    return tuple(spacing[axis] for axis in processor.axis_order)


def rows_point_up(processor: SamedImageProcessor) -> bool:
    """Whether a slice's first row is the hindmost or lowest, as in BTCV's scans, so that it is drawn below."""
    return processor.orientation is None or processor.orientation[processor.axis_order[1]] in "AS"


class SliceStack:
    """Slices of one scan, made ready for the model a few at a time: the whole scan is never held twice.

    Args:
        array: of shape `(slices, height, width)` or `(slices, channels, height, width)`, e.g. a memory-mapped file.
        processor: says how intensities become [0, 1] and what fills the model's three channels.
        bounds: the intensities that become 0 and 1 for each channel; by default the processor's for this scan.
        rescaled: the intensities are in [0, 1] already.

    Raises:
        ValueError: the scan has other channels than the processor, or an intensity that is no number.
    """

    def __init__(
        self,
        array: np.ndarray,
        processor: SamedImageProcessor,
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
        self.bounds = None if rescaled else bounds if bounds is not None else processor.intensity_bounds(array)

    def __len__(self) -> int:
        """How many slices there are."""
        return len(self.array)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a slice in pixels."""
        return self.array.shape[-2], self.array.shape[-1]

    def read_raw(self, indices: Sequence[int]) -> np.ndarray:
        """Slices in the scan's own intensities, float32, a channel for each of the scan's or of the slices around.

        Returns:
            Array of shape `(len(indices), channels, height, width)` of one channel, two or three, for [`scale`].
        """
        indices = np.asarray(indices)
        if self.processor.context_slices:
            indices = np.clip(indices[:, None] + np.arange(-1, 2), 0, len(self) - 1)
        raw = np.ascontiguousarray(self.array[indices], dtype=np.float32)
        return raw[:, None] if raw.ndim == 3 else raw

    def scale(self, raw: Array) -> Array:
        """Slices of [`read_raw`] in [0, 1], where they are.

        Args:
            raw: array or tensor of shape `(slices, channels, height, width)`, float32.

        Returns:
            The same of shape `(slices, 1, height, width)` where one channel fills all three, else `(slices, 3, height,
            width)`.
        """
        channels = [raw[:, index] for index in range(raw.shape[1])]
        if not self.rescaled:
            bounds = [*self.bounds] * len(channels) if self.processor.context_slices else self.bounds
            channels = [window_intensity(one, bound) for one, bound in zip(channels, bounds, strict=True)]
        if len(channels) == 1:
            return channels[0][:, None]
        if len(channels) == 2:
            channels.append((channels[0] + channels[1]) / 2)
        return torch.stack(channels, dim=1) if isinstance(raw, torch.Tensor) else np.stack(channels, axis=1)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Slices in [0, 1], float32: [`read_raw`], then [`scale`]."""
        return self.scale(self.read_raw(indices))

    def scaled(self) -> np.ndarray:
        """All slices in [0, 1], float32, of the array's own shape."""
        if self.array.ndim == 3:
            return self._scaled(self.array, 0)
        return np.stack([self._scaled(self.array[:, i], i) for i in range(self.array.shape[1])], axis=1)

    def _scaled(self, slices: np.ndarray, channel: int) -> np.ndarray:
        return slices.astype(np.float32) if self.rescaled else window_intensity(slices, self.bounds[channel])
