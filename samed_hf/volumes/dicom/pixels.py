"""The stored values of one image of a DICOM file, whatever its compression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from ...utils.text import printable
from .gdcm import GdcmDecoder
from .headers import brief, transfer_syntax, value, whole_number

__all__ = ["stored_range", "stored_values"]

_GDCM_SYNTAXES = (JPEGLossless, JPEGLosslessSV1)
# One plugin for each compression: pydicom would try the next one after an error, and some accept damaged data.
_PLUGINS = {
    JPEGBaseline8Bit: "pillow",
    JPEGExtended12Bit: "pillow",
    JPEG2000: "pillow",
    JPEG2000Lossless: "pillow",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    RLELossless: "pydicom",
}


def stored_values(dataset: Dataset, index: int, path: Path, gdcm: GdcmDecoder) -> np.ndarray:
    """Decode one image.

    Args:
        dataset: The file's dataset, with its pixels.
        index: The image's number in the file, from 0.
        path: The file, for messages.
        gdcm: The decoder of JPEG Lossless.

    Returns:
        Integers of shape `(rows, columns)`.

    Raises:
        ValueError: The pixels are missing, damaged, or compressed in a way for which no decoder is installed.
    """
    syntax = transfer_syntax(dataset)
    if value(dataset, "PixelData", path) is None:
        # pydicom gives what it has where a file ends within an element: nothing, mostly.
        raise _damaged(path, "it has no pixels (PixelData), or ends before them")
    if not syntax.is_transfer_syntax:
        raise _damaged(path, f"its transfer syntax is {brief(syntax)!r}, which is unknown")
    allocated, stored, signed = _bits(dataset, path)
    shape = (whole_number(dataset, "Rows", path), whole_number(dataset, "Columns", path))
    if not syntax.is_encapsulated:
        _check_length(dataset, shape, allocated, path)
    try:
        # A file that pydicom wrote or guessed may lack it, and the decoder asks for it.
        dataset.file_meta.TransferSyntaxUID = syntax
        array = _decode(dataset, index, syntax, stored, path, gdcm)
    except _NoDecoderError:
        raise
    except Exception as error:
        # The decoders are many, and damaged pixels bring up errors of all kinds from each.
        reason = brief(str(error).rpartition("by all available plugins:")[2]) or type(error).__name__
        raise _damaged(path, reason) from error
    if array.shape != shape or array.dtype.kind not in "iu":
        raise _damaged(path, f"its pixels come out as {array.shape} {array.dtype}, expected {shape} integers")
    if (signed and (not syntax.is_encapsulated or syntax == RLELossless)) or _has_overlay_bits(dataset, path):
        array = _own_bits(array, allocated, stored)
    return array


def stored_range(dataset: Dataset, path: Path) -> tuple[int, int]:
    """The lowest and the highest value that the image's pixels can hold.

    That of the bits allocated, for some files store more than they say: padding, mostly.

    Raises:
        ValueError: The header says no possible number of bits.
    """
    bits, _, signed = _bits(dataset, path)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


class _NoDecoderError(ValueError):
    """Nothing is wrong with the file, but it cannot be decoded here."""


def _bits(dataset: Dataset, path: Path) -> tuple[int, int, bool]:
    allocated = whole_number(dataset, "BitsAllocated", path)
    stored = whole_number(dataset, "BitsStored", path, default=allocated)
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise _damaged(path, f"it stores {stored} of {allocated} bits per pixel, expected integers of 8, 16 or 32 bits")
    return allocated, stored, whole_number(dataset, "PixelRepresentation", path, default=0) == 1


def _check_length(dataset: Dataset, shape: tuple[int, int], allocated: int, path: Path) -> None:
    """Uncompressed pixels fill the image; padding of less than a row is let pass."""
    frames = whole_number(dataset, "NumberOfFrames", path, default=1)
    row = shape[1] * allocated // 8
    expected = frames * shape[0] * row
    there = len(value(dataset, "PixelData", path))
    if not expected <= there < expected + max(row, 2):
        raise _damaged(path, f"it holds {there} bytes of pixels, expected {expected}")


def _decode(dataset: Dataset, index: int, syntax: UID, stored: int, path: Path, gdcm: GdcmDecoder) -> np.ndarray:
    if syntax in _GDCM_SYNTAXES:
        return gdcm.decode(dataset, index)
    plugin = _PLUGINS.get(syntax, "")
    if syntax == JPEGExtended12Bit and stored > 8:  # Pillow and GDCM decode 8 bits only
        plugin = "pylibjpeg"
    try:
        decoder = get_decoder(syntax)
        is_available = plugin in decoder.available_plugins if plugin else decoder.is_available
    except NotImplementedError:
        is_available = False
    if not is_available:
        raise _NoDecoderError(
            f"{printable(path)} is compressed as {brief(syntax.name)} ({brief(syntax)}), for which pydicom has no "
            "decoder; export the series uncompressed."
        )
    options: Any = {"allow_excess_frames": False}  # pydicom annotates each option with the type of all of them
    return decoder.as_array(dataset, index=index, raw=True, decoding_plugin=plugin, **options)[0]


def _has_overlay_bits(dataset: Dataset, path: Path) -> bool:
    """Whether overlays lie in the pixels' unused bits, as old scanners kept them."""
    groups = range(0x6000, 0x6020, 2)
    positions = (dataset.get((group, 0x0102)) for group in groups)
    return any(position is not None and position.value not in (None, "", 0) for position in positions)


def _own_bits(array: np.ndarray, allocated: int, stored: int) -> np.ndarray:
    """The lower bits, which are the pixel's, the sign drawn out into the upper ones."""
    if stored == allocated:
        return array
    return np.right_shift(np.left_shift(array, allocated - stored), allocated - stored)


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{printable(path)} cannot be decoded: {reason}; the file is damaged or cut short: copy or export it again."
    )
