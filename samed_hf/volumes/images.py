"""Pictures (PNG, JPEG, TIFF, BMP) as volumes of one slice, and label maps as pictures."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..utils.atomic import temporary_directory
from ..utils.text import one_line, printable
from ._checks import PICTURE_SUFFIXES, check_file, check_finite, check_parent, damaged, suppress_stderr
from .geometry import Volume

__all__ = ["is_grey", "mask_array", "picture_array", "read_mask", "read_picture", "write_mask"]

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # of all that Pillow knows, some start other programs: EPS runs Ghostscript
_GREY = ("1", "L", "LA", "La")
_DEEP_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
# Columns run to the left of the patient and rows to the back, as on the pages of an atlas; a pixel counts as 1 mm.
_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
_LUMINANCE = (19595, 38470, 7471)  # ITU-R 601, in 65536ths, as Pillow has it: equal channels keep their value


def read_picture(path: str | Path, *, num_channels: int = 1) -> Volume:
    """Read a picture as a volume of one slice.

    The pixels are taken as they are stored, whatever EXIF says of the camera's position; transparency is left out.

    Args:
        path: A PNG, JPEG, TIFF or BMP file.
        num_channels: 1 makes grey of colours (ITU-R 601 luminance), 3 repeats grey.

    Returns:
        The volume, of shape `(width, height, 1)` or `(width, height, 1, 3)` and spacing 1 mm: uint8 in [0, 255], or
        uint16 in [0, 65535] of a file with 16 bits; TIFF files of 32 bits give int32 or float32.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, too large or of several pages, or pictures have no such channels.
    """
    array = _read(Path(path), partial(picture_array, num_channels=num_channels), num_channels)
    return Volume(array.swapaxes(0, 1)[:, :, None], _AFFINE, None, Path(path))


def read_mask(path: str | Path) -> np.ndarray:
    """Read a picture whose values are labels; of one with a palette, the indices count.

    Returns:
        Array `(height, width)` of the file's own type.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, too large, of several pages, or coloured.
    """
    if Path(path).suffix.lower() in (".jpg", ".jpeg"):
        raise ValueError(
            f"{printable(path)} is a JPEG, whose compression changes values, expected a mask in which each value is a "
            "label; save masks as PNG."
        )
    return _read(Path(path), mask_array, 1)


def mask_array(picture: Image.Image, name: str | Path) -> np.ndarray:
    """[`read_mask`] for a picture that is open; messages call it `name`."""
    if picture.mode not in ("1", "L", "P", *_DEEP_GREY):
        raise _ChannelsError(
            f"{name} is a picture of mode {picture.mode}, expected a mask whose grey values or palette indices are the "
            "labels; save it in greyscale."
        )
    return np.asarray(picture)


def _read(path: Path, convert: Callable[..., np.ndarray], num_channels: int) -> np.ndarray:
    """The pixels as `convert` makes them of the open picture, all that can be wrong with the file told in one line."""
    check_file(path, PICTURE_SUFFIXES, "picture")
    try:
        pages, array = _load(path, convert, num_channels)
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{printable(path)} is too large ({one_line(error).split(',')[0]}), expected at most "
            f"{2 * Image.MAX_IMAGE_PIXELS} pixels; cut it into tiles."
        ) from error
    except _ChannelsError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # of damaged files, Pillow's many decoders raise whatever comes
        raise damaged(path, "a picture", one_line(error)[:120]) from error
    if pages > 1:
        raise ValueError(f"{printable(path)} has {pages} pages, expected one picture; save each page by itself.")
    check_finite(path, array)
    return array


def is_grey(path: str | Path) -> bool:
    """Whether a picture has one channel, by its header alone; false also where it is none."""
    try:
        with _quietly(), Image.open(path, formats=_FORMATS) as picture:
            return picture.mode in (*_GREY, *_DEEP_GREY)
    except Exception:  # reading tells what is wrong with it
        return False


def picture_array(picture: Image.Image, num_channels: int, name: str | Path) -> np.ndarray:
    """The pixels of a picture that is open.

    Args:
        picture: Of any mode.
        num_channels: 1 or 3, see [`read_picture`].
        name: What messages call it.

    Returns:
        Array `(height, width)`, or `(height, width, 3)` for three channels, of the types that [`read_picture`] gives.

    Raises:
        ValueError: If `num_channels` is another one.
    """
    if picture.mode in _DEEP_GREY:
        array = np.asarray(picture)
        if picture.mode == "I" and array.min() >= 0 and array.max() <= np.iinfo(np.uint16).max:
            array = array.astype(np.uint16)  # which Pillow had no mode for in all its versions
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
    else:
        array = np.asarray(picture.convert("L" if picture.mode in _GREY else "RGB"))
    return _with_channels(array, num_channels, name)


def write_mask(path: str | Path, labels: np.ndarray, colors: np.ndarray | None = None) -> None:
    """Write a label map as PNG whose values are the labels, in one step.

    Args:
        path: A `.png` file in an existing folder; an older one is replaced.
        labels: Of shape `(width, height, 1)`, uint8 or uint16.
        colors: RGB in [0, 1] of each label, of shape `(num_labels, 3)`: 8-bit files get them as a palette. Without
            them the file is grey; 16-bit files always are.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the label map has several slices, or a label no colour.
    """
    path = Path(path)
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
    with temporary_directory(path.parent) as folder:
        (folder / "mask.png").write_bytes(content.getvalue())
        (folder / "mask.png").replace(path)


class _ChannelsError(ValueError):
    """A picture isn't of the kind asked for: the one error of reading that isn't the file's damage."""


def _load(path: Path, convert: Callable[..., np.ndarray], num_channels: int) -> tuple[int, np.ndarray | None]:
    """Number of pages, and the pixels of a single one, `(height, width)` or `(height, width, 3)`."""
    with _quietly():
        with Image.open(path, formats=_FORMATS) as picture:
            # Of a JPEG, further pictures are the camera's own, e.g. a thumbnail.
            pages = getattr(picture, "n_frames", 1) if picture.format in ("PNG", "TIFF") else 1
            if pages > 1:
                return pages, None
            if picture.info.get("compression") == "raw":
                _check_strips(path, picture)
            if picture.format == "PNG":
                picture.verify()  # its checksums, which loading doesn't look at; it must be opened anew
        with Image.open(path, formats=_FORMATS) as picture:
            mode, format_ = picture.mode, picture.format
            is_deep = bool(picture.tile) and ";16" in str(picture.tile[0][3])
            picture.load()
            if not is_deep or mode in _DEEP_GREY:
                return 1, convert(picture, name=printable(path))
    # Pillow has loaded it whole, but only 8 of its 16 bits.
    from .itk import read_deep_picture

    array = read_deep_picture(path, format_)
    return 1, _with_channels(array if mode not in _GREY else array[:, :, 0], num_channels, printable(path))


def _check_strips(path: Path, picture: Image.Image) -> None:
    """Of an uncompressed TIFF file, Pillow leaves black what no strip is there for."""
    bits_per_sample = 258  # the tag
    needed = picture.width * picture.height * sum(picture.tag_v2.get(bits_per_sample, (1,))) // 8
    if needed > path.stat().st_size:
        raise OSError(f"its header claims {needed} bytes of pixels, more than it holds")


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep Pillow, and libtiff below it, from warning of pictures that are large, or damaged somewhere."""
    with suppress_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _with_channels(array: np.ndarray, num_channels: int, name: str | Path) -> np.ndarray:
    if num_channels not in (1, 3):
        raise _ChannelsError(
            f"{name} is a picture, which has 1 channel or 3, expected {num_channels}; "
            "name a scan of the kind that the model was trained on."
        )
    if array.ndim == 2:
        return array if num_channels == 1 else np.repeat(array[:, :, None], 3, axis=2)
    if num_channels == 3:
        return array[:, :, :3]
    weighted = sum(array[:, :, index].astype(np.uint64) * weight for index, weight in enumerate(_LUMINANCE))
    return ((weighted + (1 << 15)) >> 16).astype(array.dtype)
