"""Images (PNG, JPEG, TIFF, BMP) as volumes whose slices are the pages, and label maps as PNG or TIFF."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..utils.atomic import write_bytes
from ..utils.text import printable
from .file_checks import check_parent
from .geometry import Volume
from .image_pages import DEEP_GREY, FORMATS, GREY, ImageRefusedError, full_pages, is_deep, pillow_silenced, read_pages
from .image_tags import decode, is_white_zero, orientation, sample_format, turn
from .limits import InputLimits
from .registry import IMAGE_SUFFIXES, format_of, suffix_of

__all__ = [
    "LUMINANCE",
    "check_depth",
    "count_pages",
    "image_array",
    "is_grey",
    "is_image_file",
    "luminance",
    "read_image",
    "with_channels",
    "write_mask",
]

# Columns run to the left of the patient and rows to the back, as in an atlas; a pixel counts as 1 mm.
_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
LUMINANCE = (19595, 38470, 7471)  # ITU-R 601 in 65536ths, as in Pillow: equal channels keep their value


def read_image(path: Path, *, num_channels: int = 1, limits: InputLimits | None = None) -> Volume:
    """Read an image as a volume `(width, height, pages)` or `(width, height, pages, 3)`.

    Only TIFF files may have several pages. The image is turned as a viewer turns it by the EXIF or TIFF orientation;
    transparency is ignored. The spacing is 1 mm and the volume not calibrated, unless OME-XML or ImageJ state the size
    of a pixel. The array is uint8, uint16 for a file with 16 bits, int32 or float32 for TIFF files of 32 bits. One
    channel converts colours to grey (ITU-R 601), three repeat grey.
    """
    name = printable(path)
    convert = partial(image_array, num_channels=num_channels, name=name)
    pages = read_pages(path, convert, partial(with_channels, num_channels=num_channels, name=name), limits)
    array = np.moveaxis(pages.array, (0, 1, 2), (2, 1, 0))
    width, height = pages.pixel_size or (1.0, 1.0)
    affine = _AFFINE @ np.diag([width, height, 1.0, 1.0])
    return Volume(array, affine, None, path, True, pages.pixel_size is not None, pages.notes)


def count_pages(path: str | Path) -> int:
    """Return the number of pages of a TIFF file without thumbnails, by its headers; 1 for one that cannot be read."""
    try:
        with pillow_silenced(), Image.open(path, formats=("TIFF",)) as image:
            return len(full_pages(image))
    except Exception:  # reading the pixels raises the error
        return 1


def is_image_file(path: str | Path) -> bool:
    """Whether a file holds images: by its suffix, or a DICOM file by its header."""
    return suffix_of(path) in IMAGE_SUFFIXES or bool(_dicom_colour(path))


def _dicom_colour(path: str | Path) -> str:
    form = format_of(path)
    if form is None or form.kind != "dicom":
        return ""
    from .dicom.images import image_colour

    return image_colour(Path(path))


def is_grey(path: str | Path) -> bool:
    """Whether an image has one channel, by its header alone; false for a file that cannot be read."""
    if colour := _dicom_colour(path):
        return colour == "grey"
    try:
        with pillow_silenced(), Image.open(path, formats=FORMATS) as image:
            return image.mode in (*GREY, *DEEP_GREY)
    except Exception:  # reading the pixels raises the error
        return False


def check_depth(image: Image.Image, name: str | Path) -> None:
    """Raise a `ValueError` for an open image, not yet decoded, of whose 16 bits Pillow keeps 8: one of colours."""
    if is_deep(image) and image.mode not in DEEP_GREY:
        raise ImageRefusedError(
            f"{name} is an image of mode {image.mode} with 16 bits, of which Pillow keeps 8: expected one channel of "
            "16 bits, or an array; samed_hf.volumes.read_volume reads the file with all its bits."
        )


def image_array(image: Image.Image, num_channels: int, name: str | Path) -> np.ndarray:
    """Return the pixels of an open image, which messages call `name`: `(height, width)` or `(height, width, 3)`.

    They are turned by the image's orientation. See [`read_image`] for the types and `num_channels`, [`check_depth`] for
    what is refused.
    """
    check_depth(image, name)
    kind = sample_format(image)  # Pillow reads signed 8 bits as unsigned and unsigned 32 bits as signed
    if kind == 2 and image.mode not in DEEP_GREY:
        raise ImageRefusedError(f"{name} has signed values of 8 bits, expected unsigned ones; save it with 16 bits.")
    decode(image)
    if image.mode in DEEP_GREY:
        array = np.asarray(image)
        if image.mode == "I" and kind == 1 and array.min() < 0:
            array = array.view(np.uint32)
        if image.mode == "I" and array.min() >= 0 and array.max() <= np.iinfo(np.uint16).max:
            array = array.astype(np.uint16)  # older versions of Pillow open 16-bit files in mode I
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if image.mode.startswith("I;16") and is_white_zero(image):
            array = np.iinfo(np.uint16).max - array
    else:
        array = np.asarray(image.convert("L" if image.mode in GREY else "RGB"))
    return with_channels(turn(array, orientation(image)), num_channels, name)


def write_mask(
    path: Path, labels: np.ndarray, like: object, *, names: object, colors: np.ndarray | None = None
) -> None:
    """Write labels `(width, height, pages)`, uint8 or uint16, as an image whose values they are, atomically.

    A PNG file holds one page, a TIFF file any number. `colors`, RGB in [0, 1] of each label, are stored as a palette in
    8-bit files; without them the image is grey. Geometry and names are not stored: `like` and `names` are unused.
    """
    is_tiff = suffix_of(path) == ".tif"
    if labels.ndim != 3 or (labels.shape[2] != 1 and not is_tiff):
        raise ValueError(
            f"{printable(path)} cannot hold a label map of shape {labels.shape}, expected one slice (width, height, "
            "1); write several as .tif, or a volume as .nii.gz."
        )
    pages = [Image.fromarray(page) for page in np.ascontiguousarray(labels.transpose(2, 1, 0))]
    if colors is not None and labels.dtype == np.uint8:
        if labels.max() >= len(colors):
            raise ValueError(f"colors has {len(colors)} rows, expected one for each label up to {labels.max()}.")
        pages = [page.convert("P") for page in pages]
        for page in pages:
            page.putpalette((np.asarray(colors) * 255).round().astype(np.uint8)[:256].tobytes())
    content = io.BytesIO()
    if is_tiff:
        pages[0].save(content, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_adobe_deflate")
    else:
        pages[0].save(content, "PNG")
    check_parent(path)
    write_bytes(path, content.getvalue())


def with_channels(array: np.ndarray, num_channels: int, name: str | Path) -> np.ndarray:
    """Convert pixels `(height, width)` or `(height, width, 3 or 4)` to one channel or three."""
    if num_channels not in (1, 3):
        raise ImageRefusedError(
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
