"""The channels of an image, of numpy or PyTorch; nothing here imports PyTorch for an array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..volumes.images import LUMINANCE, image_array, luminance

__all__ = ["image_channels", "stack_arrays", "to_numpy"]


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


def stack_arrays(arrays: Sequence[Any], axis: int) -> Any:
    """Arrays, or tensors of one device, along a new axis."""
    if isinstance(arrays[0], np.ndarray):
        return np.stack(arrays, axis)
    import torch

    return torch.stack(list(arrays), axis)
