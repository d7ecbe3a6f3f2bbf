"""Images (PNG, JPEG, TIFF, BMP) as volumes of one slice, and label maps as PNG."""

from __future__ import annotations

import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from ..utils.atomic import write_bytes
from ..utils.console import c_stderr_silenced
from ..utils.text import one_line, printable
from .file_checks import DEFLATE_RATIO, check_file, check_finite, check_parent, damaged_file_error
from .geometry import Volume
from .limits import InputLimitError, InputLimits

__all__ = [
    "LUMINANCE",
    "check_depth",
    "image_array",
    "is_grey",
    "luminance",
    "mask_array",
    "read_image",
    "read_mask",
    "write_mask",
]

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # Pillow's other readers may start programs: EPS runs Ghostscript
# The highest ratios of compressions, by the names that Pillow gives them.
_RATIOS = {"raw": 1, "packbits": 64, "jpeg": 64, "tiff_lzw": 2600}
_RATIOS |= dict.fromkeys(("zip", "tiff_adobe_deflate", "tiff_deflate"), DEFLATE_RATIO)
_GREY = ("1", "L", "LA", "La")
_DEEP_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
# Columns run to the left of the patient and rows to the back, as in an atlas; a pixel counts as 1 mm.
_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
LUMINANCE = (19595, 38470, 7471)  # ITU-R 601 in 65536ths, as in Pillow: equal channels keep their value


def read_image(path: Path, *, num_channels: int = 1, limits: InputLimits | None = None) -> Volume:
    """Read an image as a volume `(width, height, 1)` or `(width, height, 1, 3)` of spacing 1 mm.

    The pixels are kept as stored, without EXIF rotation and transparency: uint8, uint16 for a file with 16 bits, int32
    or float32 for TIFF files of 32 bits. One channel converts colours to grey (ITU-R 601), three repeat grey.
    """
    array = _read(path, partial(image_array, num_channels=num_channels), num_channels, limits)
    return Volume(array.swapaxes(0, 1)[:, :, None], _AFFINE, None, path, is_image=True, is_calibrated=False)


def read_mask(path: str | Path) -> np.ndarray:
    """Read `(height, width)` labels from an image whose values, or palette indices, they are."""
    if Path(path).suffix.lower() in (".jpg", ".jpeg"):
        raise ValueError(
            f"{printable(path)} is a JPEG, whose compression changes values, expected a mask in which each value is a "
            "label; save masks as PNG."
        )
    return _read(Path(path), mask_array, 1)


def mask_array(image: Image.Image, name: str | Path) -> np.ndarray:
    """[`read_mask`] for an open image, which messages call `name`."""
    if image.mode not in ("1", "L", "P", *_DEEP_GREY):
        raise _RefusedError(
            f"{name} is an image of mode {image.mode}, expected a mask whose grey values or palette indices are the "
            "labels; save it in greyscale."
        )
    return np.asarray(image)


def is_grey(path: str | Path) -> bool:
    """Whether an image has one channel, by its header alone; false for a file that cannot be read."""
    try:
        with _pillow_silenced(), Image.open(path, formats=_FORMATS) as image:
            return image.mode in (*_GREY, *_DEEP_GREY)
    except Exception:  # reading the pixels raises the error
        return False


def check_depth(image: Image.Image, name: str | Path) -> None:
    """Raise a `ValueError` for an open image, not yet decoded, of whose 16 bits Pillow keeps 8: one of colours."""
    if _is_deep(image) and image.mode not in _DEEP_GREY:
        raise _RefusedError(
            f"{name} is an image of mode {image.mode} with 16 bits, of which Pillow keeps 8: expected one channel of "
            "16 bits, or an array; samed_hf.volumes.read_volume reads the file with all its bits."
        )


def _is_deep(image: Image.Image) -> bool:
    """Whether an open image, not yet decoded, has 16 bits per channel."""
    tile = getattr(image, "tile", None) or []
    return len(tile) > 0 and ";16" in str(tile[0][3])


def image_array(image: Image.Image, num_channels: int, name: str | Path) -> np.ndarray:
    """Return the pixels of an open image, which messages call `name`: `(height, width)` or `(height, width, 3)`.

    See [`read_image`] for the types and `num_channels`, [`check_depth`] for what is refused.
    """
    check_depth(image, name)
    if image.mode in _DEEP_GREY:
        array = np.asarray(image)
        if image.mode == "I" and array.min() >= 0 and array.max() <= np.iinfo(np.uint16).max:
            array = array.astype(np.uint16)  # older versions of Pillow open 16-bit files in mode I
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
    else:
        array = np.asarray(image.convert("L" if image.mode in _GREY else "RGB"))
    return _with_channels(array, num_channels, name)


def write_mask(
    path: Path, labels: np.ndarray, like: object, *, names: object, colors: np.ndarray | None = None
) -> None:
    """Write labels `(width, height, 1)`, uint8 or uint16, as PNG whose values are the labels, atomically.

    `colors`, RGB in [0, 1] of each label, are stored as a palette in 8-bit files; without them the image is grey. PNG
    has no geometry and no names: `like` and `names` are unused.
    """
    if labels.ndim != 3 or labels.shape[2] != 1:
        raise ValueError(
            f"{printable(path)} cannot hold a label map of shape {labels.shape}, expected one slice (width, height, "
            "1); write a volume as .nii.gz."
        )
    mask = Image.fromarray(np.ascontiguousarray(labels[:, :, 0].T))
    if colors is not None and labels.dtype == np.uint8:
        if labels.max() >= len(colors):
            raise ValueError(f"colors has {len(colors)} rows, expected one for each label up to {labels.max()}.")
        mask = mask.convert("P")
        mask.putpalette((np.asarray(colors) * 255).round().astype(np.uint8)[:256].tobytes())
    content = io.BytesIO()
    mask.save(content, format="PNG")
    check_parent(path)
    write_bytes(path, content.getvalue())


class _RefusedError(ValueError):
    """The image has other channels or pages than requested; its file is not damaged."""


def _read(
    path: Path, convert: Callable[..., np.ndarray], num_channels: int, limits: InputLimits | None = None
) -> np.ndarray:
    """Return the pixels as `convert` makes them of the open image; any error is one line that names the file."""
    check_file(path, "image")
    limits = limits or InputLimits.local()
    try:
        with _pillow_silenced():
            array = _load(path, convert, num_channels, limits)
    except Image.DecompressionBombError as error:
        limits.check(path, pixels=max(map(int, re.findall(r"\d+", str(error))), default=0))
        raise ValueError(
            f"{printable(path)} is too large ({one_line(error).split(',')[0]}), expected at most "
            f"{2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels; cut it into tiles."
        ) from error
    except InputLimitError:
        raise
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # Pillow's decoders raise errors of many types for damaged files
        raise damaged_file_error(path, one_line(error)[:120]) from error
    check_finite(path, array)
    return array


def _load(path: Path, convert: Callable[..., np.ndarray], num_channels: int, limits: InputLimits) -> np.ndarray:
    """Return the pixels of a file with one page, `(height, width)` or `(height, width, 3)`."""
    with Image.open(path, formats=_FORMATS) as image:
        # Further images in a JPEG are the camera's own, e.g. a thumbnail.
        pages = getattr(image, "n_frames", 1) if image.format in ("PNG", "TIFF") else 1
        if pages > 1:
            raise _RefusedError(f"{printable(path)} has {pages} pages, expected one; save each page in a file.")
        limits.check_slices(path, (1, image.height, image.width))
        needed = _claimed_bytes(image)
        if needed > path.stat().st_size:
            raise OSError(f"its header claims {needed} bytes of pixels, more than it holds")
        if image.format == "PNG":
            image.verify()  # compares the checksums, which load() ignores; the file must be opened again
    with Image.open(path, formats=_FORMATS) as image:
        mode, form = image.mode, image.format
        is_deep = _is_deep(image)
        image.load()
        if not is_deep or mode in _DEEP_GREY:
            return convert(image, name=printable(path))
    # Pillow decodes the whole file, but keeps only 8 of its 16 bits.
    import SimpleITK as sitk

    from .itk import check_name, itk_reason

    check_name(path)
    try:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO=f"{form}ImageIO"))
    except RuntimeError as error:
        raise ValueError(itk_reason(error)) from error
    return _with_channels(array if mode not in _GREY else array[:, :, 0], num_channels, printable(path))


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
def _pillow_silenced() -> Iterator[None]:
    """Disable the warnings of Pillow and libtiff on large or damaged images."""
    with c_stderr_silenced(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _with_channels(array: np.ndarray, num_channels: int, name: str | Path) -> np.ndarray:
    if num_channels not in (1, 3):
        raise _RefusedError(
            f"{name} is an image, which has 1 channel or 3, expected {num_channels}; "
            "name a scan of the kind that the model was trained on."
        )
    if array.ndim == 2:
        return array if num_channels == 1 else np.repeat(array[:, :, None], 3, axis=2)
    if num_channels == 3:
        return array[:, :, :3]
    return luminance(np.moveaxis(array[:, :, :3], 2, 0))


def luminance(channels: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Grey of red, green and blue arrays by the weights of ITU-R 601, as Pillow computes it; their own type."""
    grey = np.asarray(sum(one.astype(np.float64) * weight for one, weight in zip(channels, LUMINANCE, strict=True)))
    grey /= 65536
    return (np.floor(grey + 0.5) if channels[0].dtype.kind in "iu" else grey).astype(channels[0].dtype)
