"""Images in any form that transformers' image processors accept, as channels `(height, width)`."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.image_utils import ChannelDimension, httpx
from transformers.utils import TensorType

from ..volumes.image_tags import decode
from ..volumes.images import LUMINANCE, check_depth, image_array, luminance
from ..volumes.limits import InputLimitError, InputLimits
from ..volumes.masks import mask_pixels, read_mask_pixels

__all__ = ["image_channels", "label_maps", "list_images", "open_image", "stack_images", "to_numpy"]

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")  # for EPS, Pillow starts Ghostscript


def open_image(source: Any, timeout: float | None = None) -> Image.Image:
    """Open an image as transformers' `load_image` does, but keep its mode and bits, which that reduces to 8-bit RGB.

    Args:
        source: a path, an http(s) address, base64, or a PIL image.
        timeout: of a download, in seconds.

    Raises:
        OSError, ValueError: it is no image, or one of which Pillow drops bits.
    """
    try:
        image = source if isinstance(source, Image.Image) else _open(source, timeout)
    except Image.DecompressionBombError as error:
        raise InputLimitError(f"images holds one that is too large: {error}") from error
    InputLimits.local().check_slices("images", (1, image.height, image.width))
    check_depth(image, "images")
    decode(image)
    return ImageOps.exif_transpose(image)


def _open(source: Any, timeout: float | None) -> Image.Image:
    source = os.fspath(source) if isinstance(source, os.PathLike) else source
    if not isinstance(source, str):
        raise ValueError(f"images holds an object of type {type(source).__name__}: expected an image, path or address.")
    if os.path.isfile(source):
        return Image.open(source, formats=_FORMATS)
    try:
        if source.startswith(("http://", "https://")):
            response = httpx.get(source, timeout=timeout, follow_redirects=True)
            return Image.open(io.BytesIO(response.raise_for_status().content), formats=_FORMATS)
        content = base64.b64decode(source.partition(",")[2] if source.startswith("data:image/") else source)
        return Image.open(io.BytesIO(content), formats=_FORMATS)
    except httpx.HTTPError as error:
        raise OSError(f"{source[:100]!r} can't be downloaded: {error}") from error
    except (ValueError, OSError) as error:
        raise ValueError(
            f"images holds {source[:100]!r}: expected the path or address of an image, or an image as base64."
        ) from error


def list_images(images: Any, *, ndim: int = 3, name: str = "images") -> list[Any]:
    """Nested lists and batches, of one dimension more than `ndim`, as one list of images.

    Raises:
        ValueError: there is none.
    """
    listed = _flat(images, ndim)
    if not listed:
        raise ValueError(f"{name} is empty: expected at least one image.")
    return listed


def _flat(images: Any, ndim: int) -> list[Any]:
    if isinstance(images, list | tuple):
        return [one for nested in images for one in _flat(nested, ndim)]
    return list(images) if getattr(images, "ndim", 0) == ndim + 1 else [images]


def label_maps(maps: Any, sizes: Sequence[tuple[int, int]]) -> list[Any]:
    """Segmentation maps in any form as integer arrays or tensors `(height, width)`, one for each of the images.

    Raises:
        ValueError: another number, other sizes than the images', or no integers.
    """
    labels = []
    for one in list_images(maps, ndim=2, name="segmentation_maps"):
        if isinstance(one, str | os.PathLike | Image.Image):
            name = "segmentation_maps"
            one = mask_pixels(one, name) if isinstance(one, Image.Image) else read_mask_pixels(Path(one))
            if one.dtype == np.uint32:
                raise ValueError("segmentation_maps holds a coloured image: expected grey values or palette indices.")
        labels.append(one.detach() if isinstance(one, torch.Tensor) else np.asarray(one))
    found = [tuple(one.shape) for one in labels]
    if found != list(sizes):
        raise ValueError(f"segmentation_maps has the sizes {found}: expected those of the images, {list(sizes)}.")
    for one in labels:
        if "int" not in str(one.dtype) and "bool" not in str(one.dtype):
            raise ValueError(f"segmentation_maps holds an array of {one.dtype}: expected integers.")
    return labels


def stack_images(images: Sequence[torch.Tensor], return_tensors: str | TensorType | None) -> Any:
    """Images of one size as a tensor or, unless "pt" is requested, an array; with `None` also a list of several sizes.

    Raises:
        ValueError: an unknown `return_tensors`, or several sizes.
    """
    kind = None if return_tensors is None else TensorType(return_tensors)
    sizes = {tuple(one.shape) for one in images}
    if len(sizes) > 1 and kind is not None:
        raise ValueError(f"images has the sizes {sorted(sizes)}: expected one, or return_tensors=None for a list.")
    if len(sizes) > 1:
        return [one.cpu().numpy() for one in images]
    stacked = torch.stack(list(images))
    return stacked if kind == TensorType.PYTORCH else stacked.cpu().numpy()


def image_channels(image: Any, num_channels: int, data_format: str | ChannelDimension | None = None) -> list[Any]:
    """The channels of one image for a model of `num_channels`: arrays or tensors `(height, width)` of its own type.

    Colours become grey for one channel (ITU-R 601), grey is repeated for three, and alpha, the fourth, is dropped.

    Raises:
        ValueError: another shape or type, or NaN or infinite values.
    """
    if isinstance(image, Image.Image):
        image, data_format = image_array(image, num_channels, "images"), ChannelDimension.LAST
    array = image.detach() if isinstance(image, torch.Tensor) else np.asarray(image)
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


def _is_last(shape: tuple[int, ...], num_channels: int, data_format: str | ChannelDimension | None) -> bool:
    """Whether the channels are the last of three dimensions; where both can be, they are the first."""
    if data_format is not None:
        return ChannelDimension(data_format) == ChannelDimension.LAST
    channels = {1, 3, 4, num_channels}
    return shape[0] not in (1, 3) and (shape[-1] in (1, 3) or (shape[0] not in channels and shape[-1] in channels))


def _check_values(array: Any) -> None:
    is_tensor = isinstance(array, torch.Tensor)
    if array.is_complex() if is_tensor else array.dtype.kind not in "biuf":
        raise ValueError(f"images holds an array of {array.dtype}: expected real numbers.")
    finite = torch.isfinite(array) if is_tensor else np.isfinite(array)
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
    # MPS has no float64.
    dtype = torch.float32 if first.device.type == "mps" else torch.float64
    weighted = [one.to(dtype) * weight for one, weight in zip(channels, LUMINANCE, strict=True)]
    grey = (weighted[0] + weighted[1] + weighted[2]) / 65536
    return (grey if first.is_floating_point() else (grey + 0.5).floor()).to(first.dtype)


def to_numpy(array: Any) -> np.ndarray:
    """An array, or a tensor of any device; bfloat16, which numpy lacks, becomes float32."""
    if not isinstance(array, torch.Tensor):
        return np.asarray(array)
    return (array.float() if array.dtype == torch.bfloat16 else array).detach().cpu().numpy()
