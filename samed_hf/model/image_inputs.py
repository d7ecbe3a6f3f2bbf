"""Images and label maps in any form that transformers' image processors accept."""

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
from transformers.image_utils import httpx
from transformers.utils import TensorType

from ..volumes.image_tags import decode
from ..volumes.images import check_depth
from ..volumes.limits import InputLimitError, InputLimits
from ..volumes.masks import mask_pixels, read_mask_pixels

__all__ = ["label_maps", "list_images", "open_image", "stack_images"]

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
