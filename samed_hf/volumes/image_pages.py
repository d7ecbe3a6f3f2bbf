"""The pages of an image file, decoded after its headers have been checked."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from ..utils.console import c_stderr_silenced
from ..utils.text import one_line, printable
from .file_checks import DEFLATE_RATIO, check_file, check_finite, check_memory, damaged_file_error
from .image_tags import decode, is_thumbnail, orientation, pixel_size, stated_pages, turn
from .limits import InputLimitError, InputLimits

__all__ = [
    "DEEP_GREY",
    "FORMATS",
    "GREY",
    "ImageRefusedError",
    "Pages",
    "full_pages",
    "is_deep",
    "pillow_silenced",
    "read_pages",
]

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # Pillow's other readers may start programs: EPS runs Ghostscript
# The highest ratios of compressions, by the names that Pillow gives them.
_RATIOS = {"raw": 1, "packbits": 64, "jpeg": 64, "tiff_lzw": 2600}
_RATIOS |= dict.fromkeys(("zip", "tiff_adobe_deflate", "tiff_deflate"), DEFLATE_RATIO)
GREY = ("1", "L", "LA", "La")
DEEP_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


class Pages(NamedTuple):
    """The pixels of a file."""

    array: np.ndarray  # `(pages, height, width)` or `(pages, height, width, 3)`
    pixel_size: tuple[float, float] | None  # width and height in mm, where the file states them
    notes: tuple[str, ...]


class ImageRefusedError(ValueError):
    """The image has other channels or pages than requested; its file is not damaged."""


def read_pages(
    path: Path,
    convert: Callable[[Image.Image], np.ndarray],
    convert_deep: Callable[[np.ndarray], np.ndarray] | None = None,
    limits: InputLimits | None = None,
) -> Pages:
    """Return the pages as `convert` makes them of the open image; any error is one line that names the file.

    `convert_deep` receives colours of 16 bits, which Pillow does not keep; without it they are left to `convert`.
    """
    check_file(path, "image")
    limits = limits or InputLimits.local()
    try:
        with pillow_silenced():
            pages = _load(path, convert, convert_deep, limits)
    except Image.DecompressionBombError as error:
        limits.check(path, pixels=max(map(int, re.findall(r"\d+", str(error))), default=0))
        raise ValueError(
            f"{printable(path)} is too large ({one_line(error).split(',')[0]}), expected at most "
            f"{2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels; cut it into tiles."
        ) from error
    except InputLimitError:
        raise
    except ImageRefusedError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # Pillow's decoders raise errors of many types for damaged files
        raise damaged_file_error(path, one_line(error)[:120]) from error
    check_finite(path, pages.array)
    return pages


def _load(
    path: Path,
    convert: Callable[[Image.Image], np.ndarray],
    convert_deep: Callable[[np.ndarray], np.ndarray] | None,
    limits: InputLimits,
) -> Pages:
    """Check the headers of a file, then decode its pages."""
    with Image.open(path, formats=FORMATS) as image:
        pages, count = full_pages(image), getattr(image, "n_frames", 1)
        if image.format == "PNG" and count > 1:
            raise ImageRefusedError(
                f"{printable(path)} is an animation of {count} images, expected one; save each in a PNG file, or all "
                "as the pages of a TIFF file."
            )
        if image.format == "TIFF" and (stated := stated_pages(image)) > len(pages):
            raise ImageRefusedError(
                f"{printable(path)} has {len(pages)} pages, but ImageJ states {stated} images in it; save it as "
                "OME-TIFF, or in parts below 4 GB."
            )
        if (needed := _check_pages(path, image, pages, limits)) > path.stat().st_size:
            raise OSError(f"its header claims {needed} bytes of pixels, more than it holds")
        if image.format == "PNG":
            image.verify()  # compares the checksums, which load() ignores; the file must be opened again
    with Image.open(path, formats=FORMATS) as image:
        size, is_coloured = pixel_size(image), is_deep(image) and image.mode not in DEEP_GREY
        if image.format != "TIFF" and not is_coloured:
            decode(image)  # the tag of a PNG file may follow the pixels, that of a TIFF file is lost
        tag = orientation(image)
        if convert_deep and is_coloured:
            array = np.stack([convert_deep(turn(page, tag)) for page in _deep_pages(path, image, len(pages))])
        else:
            array = np.stack([convert(_page(image, number)) for number in pages])
    notes = [f"turned by its orientation tag, {tag}"] if tag > 1 else []
    if image.format == "TIFF" and count > len(pages):
        notes.append(f"left out {count - len(pages)} thumbnails")
    return Pages(array, size if size is None or tag < 5 else size[::-1], tuple(notes))


def _page(image: Image.Image, number: int) -> Image.Image:
    if number != image.tell():
        image.seek(number)
    decode(image)
    return image


def is_deep(image: Image.Image) -> bool:
    """Whether an open image, not yet decoded, has 16 bits per channel."""
    tile = getattr(image, "tile", None) or []
    planes = getattr(image, "tag_v2", {}).get(TiffImagePlugin.BITSPERSAMPLE, ())  # not in the tile's mode
    return len(tile) > 0 and (";16" in str(tile[0][3]) or (len(planes) > 1 and max(planes) == 16))


def full_pages(image: ImageFile.ImageFile) -> list[int]:
    """The pages of an open image that are no thumbnails; of a JPEG the first, as the others are the camera's own."""
    if image.format != "TIFF":
        return [0]
    pages = []
    for page in range(getattr(image, "n_frames", 1)):
        image.seek(page)
        if not is_thumbnail(image):
            pages.append(page)
    image.seek(0)
    return pages or [0]


def _check_pages(path: Path, image: ImageFile.ImageFile, pages: Sequence[int], limits: InputLimits) -> int:
    """Compare the headers of the pages with each other and the limits; return the fewest bytes that they fill."""
    needed, kinds = 0, dict[Any, int]()
    for page in pages:
        if image.format == "TIFF":
            image.seek(page)
        kinds.setdefault((image.size, image.mode), page + 1)
        needed += _claimed_bytes(image)
    if len(kinds) > 1:
        described = " and ".join(f"{w}×{h} {mode} (page {page})" for ((w, h), mode), page in [*kinds.items()][:2])
        raise ImageRefusedError(
            f"{printable(path)} has pages of several sizes or types, {described}; save each kind in a file of its own."
        )
    limits.check_slices(path, (len(pages), image.height, image.width))
    limits.check(path, voxels=len(pages) * image.height * image.width)
    check_memory(path, len(pages) * image.height * image.width * len(image.getbands()))
    return needed


def _deep_pages(path: Path, image: Image.Image, count: int) -> np.ndarray:
    """Read colours of 16 bits, of which Pillow keeps 8, as they are stored; grey with transparency becomes grey."""
    import SimpleITK as sitk

    from .itk import check_name, itk_reason

    check_name(path)
    try:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO=f"{image.format}ImageIO"))
    except RuntimeError as error:
        raise ValueError(itk_reason(error)) from error
    if array.dtype.itemsize == 1:  # ITK, too, keeps 8 bits of some TIFF files
        raise ImageRefusedError(
            f"{printable(path)} has colours of 16 bits in tiles, in planes or turned (TIFF orientation "
            f"{orientation(image)}), expected strips of pixels and orientation 1; save it so, or as PNG."
        )
    array = array if array.ndim == 4 else array[None]
    if len(array) != count:
        raise ImageRefusedError(f"{printable(path)} has {count} pages beside thumbnails; save them without.")
    return array[..., 0] if image.mode in GREY else array


def _claimed_bytes(image: ImageFile.ImageFile) -> int:
    """The fewest bytes to which the pixels of an open image can be compressed; 0 where that is not bounded."""
    compression, layout = (image.tile[0][0], str(image.tile[0][3])) if image.tile else ("", "")
    bits = 1  # of a pixel, at least; a JPEG has one for each block of 64 pixels
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        compression = str(image.info.get("compression"))
        bits = 1 if compression == "jpeg" else sum(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    elif image.format == "PNG":
        depth = re.search(r";(\d+)", layout)
        bits = len(layout.partition(";")[0]) * (int(depth[1]) if depth else 1 if layout == "1" else 8)
    return image.width * image.height * bits // 8 // _RATIOS.get(compression, sys.maxsize)


@contextmanager
def pillow_silenced() -> Iterator[None]:
    """Disable the warnings of Pillow and libtiff on large or damaged images."""
    with c_stderr_silenced(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
