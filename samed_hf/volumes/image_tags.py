"""What the tags of image files state: how a viewer turns the image, and the size of its pixels."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

__all__ = [
    "decode",
    "is_thumbnail",
    "is_white_zero",
    "orientation",
    "pixel_size",
    "sample_format",
    "stated_pages",
    "turn",
]

_ORIENTATION, _PHOTOMETRIC, _SUBFILE, _DESCRIPTION, _RESOLUTION = 0x0112, 262, 254, 270, (282, 283)
_MM = {"nm": 1e-6, "µm": 1e-3, "um": 1e-3, "micron": 1e-3, "microns": 1e-3, "mm": 1.0, "cm": 10.0, "m": 1000.0}


def orientation(image: Image.Image) -> int:
    """Return the EXIF or TIFF orientation of an open image, 1 to 8; 1, as stored, if it states none."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises errors of many types for damaged tags, which leave the pixels intact
        return 1
    return value if value in range(1, 9) else 1


def decode(image: Image.Image) -> None:
    """Decode an open image. Pillow turns TIFF files itself then, and removes the tag."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        image.load()
        return
    name, image.filename = image.filename, ""  # Pillow 12 maps named files to memory with width and height exchanged
    try:
        image.load()
    finally:
        image.filename = name


def turn(array: np.ndarray, number: int) -> np.ndarray:
    """Turn pixels `(height, width, ...)` as a viewer does for an EXIF or TIFF orientation."""
    if number >= 5:
        array = array.swapaxes(0, 1)
    if number in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array[::-1] if number in (3, 4, 7, 8) else array


def is_thumbnail(image: Image.Image) -> bool:
    """Whether the current page of a TIFF file is a smaller copy of another page."""
    return bool(_tag(image, _SUBFILE, 0) & 1)


def is_white_zero(image: Image.Image) -> bool:
    """Whether 0 is white in a TIFF file, as in films; Pillow inverts only those of 8 bits or fewer."""
    return bool(_tag(image, _PHOTOMETRIC, 1) == 0)


def sample_format(image: Image.Image) -> int:
    """Return the type of the values in a TIFF file: 1 unsigned, 2 signed, 3 floating point; 1 for other files."""
    return int(_tag(image, TiffImagePlugin.SAMPLEFORMAT, (1,))[0])


def stated_pages(image: Image.Image) -> int:
    """Return the number of images that ImageJ states in a TIFF file, else 0; beyond 4 GB only the first is a page."""
    found = re.search(r"\nimages=(\d{1,9})", _description(image)) if _is_imagej(image) else None
    return int(found[1]) if found else 0


def pixel_size(image: Image.Image) -> tuple[float, float] | None:
    """Return width and height of a pixel in mm as OME-XML or ImageJ state them in a TIFF file, `None` elsewhere.

    Other resolutions are of prints and screens.
    """
    if _is_imagej(image):
        unit = re.search(r"\nunit=(\S+)", _description(image))
        mm = _MM.get(unit[1].replace("\\u00B5", "µ")) if unit else None
        sizes = [mm and per_unit and mm / float(per_unit) for per_unit in (_tag(image, tag, 0) for tag in _RESOLUTION)]
    else:
        sizes = [_ome_size(_description(image), axis) for axis in "XY"]
    width, height = (size if size and np.isfinite(size) and 1e-9 < size < 1e4 else None for size in sizes)
    return (width, height) if width and height else None


def _ome_size(description: str, axis: str) -> float | None:
    # The XML is not parsed: entities could take any amount of memory.
    pixels = re.search(r"<(?:\w+:)?Pixels\s[^>]*>", description)
    text = pixels[0] if pixels else ""
    size, unit = (re.search(rf'\sPhysicalSize{axis}{what}="([^"]+)"', text) for what in ("", "Unit"))
    try:
        mm = _MM.get(unit[1].replace("μ", "µ").replace("&#181;", "µ")) if unit else 1e-3
        return float(size[1]) * mm if size and mm else None
    except ValueError:
        return None


def _is_imagej(image: Image.Image) -> bool:
    return _description(image).startswith("ImageJ=")


def _description(image: Image.Image) -> str:
    text = _tag(image, _DESCRIPTION, "")
    text = text[: 1 << 20] if isinstance(text, str) else ""
    try:
        return text.encode("latin-1").decode()  # Pillow reads UTF-8 as Latin-1
    except UnicodeError:
        return text


def _tag(image: Image.Image, number: int, default: Any) -> Any:
    return getattr(image, "tag_v2", {}).get(number, default)
