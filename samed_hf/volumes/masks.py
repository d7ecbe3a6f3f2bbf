"""2-D masks whose labels are grey values, palette indices or colours."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..utils.text import printable
from . import image_pages
from .image_pages import DEEP_GREY, FORMATS, GREY, ImageRefusedError, pillow_silenced, read_pages
from .image_tags import decode, orientation, turn
from .images import with_channels

__all__ = ["is_deep", "mask_palette", "mask_pixels", "read_mask_pixels"]


def read_mask_pixels(path: Path, *, as_colors: bool = False) -> np.ndarray:
    """Read a mask: its values or palette indices, or 0xRRGGBB in uint32 if it is coloured.

    It is `(height, width)`, or `(pages, height, width)` of several pages, turned by its orientation as images are.

    Args:
        path: of a lossless file.
        as_colors: 0xRRGGBB also of grey values and of palette indices.

    Raises:
        ValueError: a JPEG, a partly transparent image, or more than 8 bits for a colour.
    """
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise ValueError(
            f"{printable(path)} is a JPEG, whose compression changes values, expected a mask in which each value is a "
            "label. Decoded, it is softened at its border: give each pixel one label, e.g. 255 where the value is at "
            "least 128 and 0 elsewhere, and save it as PNG."
        )
    name, deep = printable(path), False

    def convert_deep(page: np.ndarray) -> np.ndarray:
        nonlocal deep
        deep = True
        return with_channels(page, 3, name)

    pixels = read_pages(path, partial(mask_pixels, name=name, as_colors=as_colors), convert_deep).array
    pixels = pixels[0] if len(pixels) == 1 else pixels
    if not deep:
        return pixels
    if (pixels.min(axis=-1) == pixels.max(axis=-1)).all() and not as_colors:
        return pixels[..., 0]
    if (pixels % 257).any():
        raise ValueError(
            f"{printable(path)} has colours of 16 bits, expected a mask of 8 bits per channel; save it so."
        )
    return _color_codes(pixels // 257)


def mask_pixels(image: Image.Image, name: str | Path, *, as_colors: bool = False) -> np.ndarray:
    """[`read_mask_pixels`] for an open image, which messages call `name`."""
    decode(image)
    return turn(_stored_pixels(image, name, as_colors), orientation(image))


def _stored_pixels(image: Image.Image, name: str | Path, as_colors: bool) -> np.ndarray:
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", *DEEP_GREY):
        raise ImageRefusedError(
            f"{name} is an image of mode {image.mode}, expected a mask whose grey values, palette indices or RGB "
            "colours are the labels; save it in greyscale."
        )
    if image.mode in ("1", "L", *DEEP_GREY) or (image.mode == "P" and not as_colors):
        array = np.asarray(image)
        if not as_colors:
            return array
        if not (array.min() >= 0 and array.max() <= 255 and array.dtype.kind != "f"):
            raise ImageRefusedError(f"{name} holds values beyond 8 bits, expected a mask in the colours of its labels.")
        return _color_codes(np.repeat((array * 255 if array.dtype == bool else array)[:, :, None], 3, axis=2))
    array = np.array(image.convert("RGBA"))
    alpha = array[:, :, 3]
    if ((alpha > 0) & (alpha < 255)).any() or ((alpha == 0).any() and not array[alpha > 0, :3].any()):
        raise ImageRefusedError(
            f"{name} is partly transparent, expected a mask in which each pixel has the colour of its label; flatten "
            "it onto the background's colour without anti-aliasing."
        )
    array[alpha == 0] = 0
    is_grey = (array[:, :, :3].min(axis=2) == array[:, :, :3].max(axis=2)).all()
    return array[:, :, 0] if is_grey and not as_colors else _color_codes(array)


def mask_palette(path: Path) -> list[int] | None:
    """The colours 0xRRGGBB of a mask's palette, [] if it is stored in colours, `None` if it is grey, by its header."""
    try:
        with pillow_silenced(), Image.open(path, formats=FORMATS) as image:
            if image.mode in (*GREY, *DEEP_GREY):
                return None
            flat = np.array(image.getpalette() or [], np.uint32).reshape(-1, 1, 3)
            return [int(code) for code in _color_codes(flat).ravel()]
    except Exception:  # reading the pixels raises the error
        return None


def is_deep(path: Path) -> bool:
    """Whether an image has more than 8 bits per channel, by its header; false for a file that cannot be read."""
    try:
        with pillow_silenced(), Image.open(path, formats=FORMATS) as image:
            return image.mode in DEEP_GREY or image_pages.is_deep(image)
    except Exception:  # reading the pixels raises the error
        return False


def _color_codes(array: np.ndarray) -> np.ndarray:
    """Colours `(..., height, width, 3 or 4)` as 0xRRGGBB in uint32."""
    red, green, blue = np.moveaxis(array[..., :3].astype(np.uint32), -1, 0)
    return np.asarray(red << 16 | green << 8 | blue)
