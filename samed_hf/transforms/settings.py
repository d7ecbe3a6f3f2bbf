"""The settings of an image processor by which scans are cut into slices, scaled and zoomed, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from .channels import image_channels, stack_arrays, to_numpy
from .intensity import intensity_range, is_nested

__all__ = ["SliceSettings"]


class SliceSettings:
    """What [`SamedImageProcessor`] has for arrays; its arguments explain the attributes."""

    image_size: int
    axis_order: Sequence[int]
    intensity_window: Any
    percentiles: Sequence[float] | None
    context_slices: bool
    orientation: str | None = None  # those that are `None` are not in an image processor's JSON
    input_size: int | None = None
    channel_names: Sequence[str] | None = None
    channels: Sequence[int] | None = None

    @property
    def channel_windows(self) -> list[list[float] | None]:
        """The intensity window of each channel."""
        windows = self.intensity_window
        return windows if windows is not None and is_nested(windows) else [windows] * self.num_channels

    @property
    def num_channels(self) -> int:
        """The number of channels of a scan."""
        return len(self.channel_names or [""])

    def image_slices(self, image: Any, input_data_format: str | None = None) -> Any:
        """One of the images that [`preprocess`] accepts as a slice with the processor's channels, of the image's type.

        Its shape is `(1, height, width)`, or `(1, channels, height, width)` for several channels; a tensor stays one.
        """
        channels = image_channels(image, self.num_channels, input_data_format)
        if self.num_channels == 1:
            return channels[0][None]
        return stack_arrays(channels, 0)[None]

    def intensity_bounds(self, scan: Any) -> list[list[float]]:
        """The intensities of a scan `(slices, [channels,] height, width)` that become 0 and 1, for each channel.

        Values of scans are in the window's unit whatever their type, 8-bit ones too. A processor of one channel scales
        each channel alike.
        """
        channels = [scan] if scan.ndim == 3 else [scan[:, index] for index in range(scan.shape[1])]
        windows = self.channel_windows
        windows = windows * len(channels) if len(windows) == 1 else windows
        if len(windows) != len(channels):
            raise ValueError(f"The scan has {len(channels)} channels: expected {len(windows)}, as the processor has.")
        return [self._bounds_of(channel, window) for channel, window in zip(channels, windows, strict=True)]

    def _bounds_of(self, image: Any, window: list[float] | None) -> list[float]:
        if window is not None:
            return window
        image = to_numpy(image)
        if self.percentiles is None:
            if image.dtype.kind not in "iu" or image.dtype == np.uint8:
                return [0.0, 255.0 if image.dtype == np.uint8 else 1.0]
            return list(intensity_range(float(image.min()), float(image.max())) or (0.0, 255.0))
        low, high = (float(bound) for bound in np.percentile(image, self.percentiles))
        return [low, high if high > low else low + 1.0]

    def resize_slices(self, slices: Any, input_size: int | None = None) -> Any:
        """Zoom slices `(..., height, width)` to `(..., image_size, image_size)` float32 by scipy's cubic spline.

        First to `input_size` pixels, the processor's by default, to show as much detail as the training slices.
        """
        planes = slices.reshape(-1, *slices.shape[-2:])
        for side in filter(None, (input_size or self.input_size, self.image_size)):
            if planes.shape[1:] != (side, side):
                factors = [side / length for length in planes.shape[1:]]
                planes = np.stack([ndimage.zoom(plane, factors, order=3) for plane in planes])
        return planes.reshape(*slices.shape[:-2], *planes.shape[1:]).astype(np.float32)
