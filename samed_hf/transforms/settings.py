"""What an image processor computes for arrays, and for tensors without importing PyTorch before they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from ..volumes.images import LUMINANCE, image_array, luminance
from .intensity import intensity_range, is_nested

__all__ = ["SliceSettings", "image_channels", "stack_arrays", "to_numpy"]


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
        """[`SamedImageProcessor.resize_slices`] of an array by scipy."""
        planes = slices.reshape(-1, *slices.shape[-2:])
        for side in filter(None, (input_size or self.input_size, self.image_size)):
            if planes.shape[1:] != (side, side):
                factors = [side / length for length in planes.shape[1:]]
                planes = np.stack([ndimage.zoom(plane, factors, order=3) for plane in planes])
        return planes.reshape(*slices.shape[:-2], *planes.shape[1:]).astype(np.float32)


def image_channels(image: Any, num_channels: int, data_format: str | None = None) -> list[Any]:
    """The channels of one image for a model of `num_channels`: arrays or tensors `(height, width)` of its own type.

    Colours become grey for one channel (ITU-R 601), grey is repeated for three, and alpha, the fourth, is dropped.

    Raises:
        ValueError: another shape or type, or NaN or infinite values.
    """
    if isinstance(image, Image.Image):
        image, data_format = image_array(image, num_channels, "images"), "channels_last"
    array = image.detach() if hasattr(image, "detach") else np.asarray(image)
    if array.ndim == 3 and _is_last(array.shape, num_channels, data_format):
        channels = [array[..., index] for index in range(array.shape[-1])]
    else:
        channels = [array] if array.ndim == 2 else list(array) if array.ndim == 3 else []
    channels = channels[:3] if len(channels) == 4 != num_channels else channels
    if len(channels) not in (1, 3, num_channels) or min(channels[0].shape) < 2:
        raise ValueError(
            f"images holds an array of shape {tuple(array.shape)}: expected (height, width), or with 3 or 4 channels, "
            "the first or the last dimension, at least 2 pixels each way; a batch has 4 dimensions, also if grey."
        )
    _check_values(array)
    if num_channels == 1:
        return channels if len(channels) == 1 else [_luminance(channels)]
    return channels * 3 if len(channels) == 1 and num_channels == 3 else channels


def _is_last(shape: tuple[int, ...], num_channels: int, data_format: str | None) -> bool:
    """Whether the channels are the last of three dimensions; where both can be, they are the first."""
    if data_format is not None:
        if data_format not in ("channels_first", "channels_last"):
            raise ValueError(f"data_format is {data_format!r}: expected channels_first or channels_last.")
        return data_format == "channels_last"
    channels = {1, 3, 4, num_channels}
    return shape[0] not in (1, 3) and (shape[-1] in (1, 3) or (shape[0] not in channels and shape[-1] in channels))


def _check_values(array: Any) -> None:
    is_tensor = not isinstance(array, np.ndarray)
    if array.is_complex() if is_tensor else array.dtype.kind not in "biuf":
        raise ValueError(f"images holds an array of {array.dtype}: expected real numbers.")
    finite = array.isfinite() if is_tensor else np.isfinite(array)
    if not finite.all():
        raise ValueError(
            f"images holds {int((~finite).sum())} NaN or infinite values: expected finite intensities; replace them, "
            "e.g. by the background's, first."
        )


def _luminance(channels: list[Any]) -> Any:
    """[`luminance`], also of tensors, on their device."""
    first = channels[0]
    if isinstance(first, np.ndarray):
        return luminance(channels)
    import torch

    # MPS has no float64.
    dtype = torch.float32 if first.device.type == "mps" else torch.float64
    weighted = [one.to(dtype) * weight for one, weight in zip(channels, LUMINANCE, strict=True)]
    grey = (weighted[0] + weighted[1] + weighted[2]) / 65536
    return (grey if first.is_floating_point() else (grey + 0.5).floor()).to(first.dtype)


def to_numpy(array: Any) -> np.ndarray:
    """An array, or a tensor of any device; bfloat16, which numpy lacks, becomes float32."""
    if not hasattr(array, "detach"):
        return np.asarray(array)
    found: np.ndarray = (array.float() if str(array.dtype) == "torch.bfloat16" else array).detach().cpu().numpy()
    return found


def stack_arrays(arrays: list[Any], axis: int) -> Any:
    """Arrays or tensors along a new axis."""
    if isinstance(arrays[0], np.ndarray):
        return np.stack(arrays, axis)
    import torch

    return torch.stack(arrays, axis)
