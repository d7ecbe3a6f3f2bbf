"""The stored values of one image of a DICOM file, uncompressed or compressed, in grey or in colour."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, uid
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space, get_decoder
from pydicom.pixels.utils import as_pixel_options, get_expected_length, get_j2k_parameters

from ...utils.text import printable
from .gdcm import GDCM_SYNTAXES, GdcmDecoder, compressed_frame
from .headers import brief, text, value, whole_number

__all__ = ["num_samples", "stored_bits", "stored_range", "stored_values"]

# One plugin for each compression: pydicom would try the next one after an error, and some accept damaged data.
_PLUGINS = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "pillow",
    uid.JPEG2000: "pillow",
    uid.JPEG2000Lossless: "pillow",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.RLELossless: "pydicom",
}

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_JP2 = b"\0\0\0\x0cjP  "  # a file format around the codestream, against the standard
_SIZE_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # of JPEG and JPEG-LS


def _frame_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns in the header of a JPEG, JPEG-LS or JPEG 2000 image; `None` for other data."""
    if (start := frame.find(b"\xff\x4f\xff\x51", 0, 1 << 12)) >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        return bottom - top, right - left
    place = 2
    while frame[place : place + 1] == b"\xff":
        marker, length = struct.unpack_from(">BH", frame, place + 1)
        if marker in _SIZE_MARKERS:
            rows, columns = struct.unpack_from(">2H", frame, place + 5)
            return rows, columns
        place += 1 if marker == 0xFF else 2 + length  # 0xFF fills
    return None


def stored_values(dataset: Dataset, index: int, path: Path, gdcm: GdcmDecoder) -> np.ndarray:
    """Decode image `index` of a file to `(rows, columns)`, or to RGB `(rows, columns, 3)`.

    The stored integers are signed if PixelRepresentation, or a JPEG 2000 codestream, says so. Parametric maps are
    floating point numbers.
    """
    if not any(value(dataset, keyword, path) is not None for keyword in _PIXELS):
        # pydicom returns what it has read if a file ends within an element: mostly nothing.
        raise _damaged(path, "it has no pixels (PixelData), or ends before them")
    syntax = _transfer_syntax(dataset)
    if not syntax.is_transfer_syntax:
        raise _damaged(path, f"its transfer syntax is {brief(syntax)!r}, which is unknown")
    samples = num_samples(dataset, path)
    _check_decoder(syntax, path)
    plane = (whole_number(dataset, "Rows", path), whole_number(dataset, "Columns", path))
    shape = plane if samples == 1 else (*plane, samples)
    try:
        # The decoders require it, and a file may lack it.
        dataset.file_meta.TransferSyntaxUID = syntax
        if not syntax.is_encapsulated:
            options = _native_options(dataset, path)
            array = get_decoder(syntax).as_array(dataset, index=index, **options)[0]
        else:
            frame = compressed_frame(dataset, index)
            if (claimed := _frame_size(frame)) not in (plane, None):  # before it is allocated
                raise ValueError(f"its pixels are {claimed}, its header claims {plane}")
            if syntax in GDCM_SYNTAXES:
                array = gdcm.decode(dataset, index)
                if text(dataset, "PhotometricInterpretation").startswith("YBR") and samples == 3:
                    array = convert_color_space(array, "YBR_FULL", "RGB")
            else:
                array = _decoded(frame, syntax, dataset, path)
        array = _used_bits(array, dataset, path)
    except Exception as error:
        # The decoders are many, and each raises errors of all kinds for damaged pixels.
        reason = brief(str(error).rpartition("by all available plugins:")[2]) or type(error).__name__
        raise _damaged(path, reason) from error
    if array.shape != shape or array.dtype.kind not in "iuf":
        raise _damaged(path, f"its pixels are decoded to {array.shape} {array.dtype}, expected {shape} numbers")
    return array


def _native_options(dataset: Dataset, path: Path) -> dict[str, Any]:
    """Check the number of bytes of uncompressed pixels, and return the options to decode them."""
    found = next(element for keyword in _PIXELS if (element := value(dataset, keyword, path)) is not None)
    options: dict[str, Any] = {"allow_excess_frames": False}
    expected = get_expected_length(dataset)
    if text(dataset, "PhotometricInterpretation") == "YBR_FULL_422" and len(found) >= expected // 2 * 3:
        options["photometric_interpretation"] = "YBR_FULL"  # the colours are not subsampled, whatever it says
        expected = expected // 2 * 3
    row = dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
    # Padding of less than a row is accepted, and more if it is empty.
    if len(found) < expected or (len(found) >= expected + max(row, 2) and any(found[expected:])):
        raise ValueError(f"it holds {len(found)} bytes of pixels, expected {expected}")
    if _shift(dataset, path):
        options["correct_unused_bits"] = False
    return options


def _decoded(frame: bytes, syntax: uid.UID, dataset: Dataset, path: Path) -> np.ndarray:
    """Decode a compressed image with pydicom."""
    options = as_pixel_options(dataset) | {"number_of_frames": 1, "allow_excess_frames": False}
    stored, plugin = stored_bits(dataset, path), _PLUGINS.get(syntax, "")
    if syntax == uid.JPEGExtended12Bit and stored > 8:  # Pillow and GDCM decode 8 bits only
        plugin, frame = "pylibjpeg", _with_whole_spectrum(frame)
    if syntax in (uid.JPEG2000, uid.JPEG2000Lossless):
        if stored > 16 or (stored > 8 and options["samples_per_pixel"] == 3) or frame.startswith(_JP2):
            plugin = "pylibjpeg"  # Pillow decodes fewer bits, and fails on old files
        if get_j2k_parameters(frame).get("is_signed") and not options.get("pixel_representation"):
            options["pixel_representation"] = 1  # the codestream knows better
    options.pop("extended_offsets", None)
    array = get_decoder(syntax).as_array(encapsulate([frame]), index=0, decoding_plugin=plugin, **options)[0]
    return np.asarray(array)


def _with_whole_spectrum(frame: bytes) -> bytes:
    """Correct the spectrum in a sequential JPEG's scan header, which some encoders leave 0: 63 is its last part."""
    start = frame.find(b"\xff\xda")
    end = start + 2 + int.from_bytes(frame[start + 2 : start + 4], "big")
    return frame[: end - 3] + b"\0\x3f\0" + frame[end:] if 0 < start < end <= len(frame) else frame


def _used_bits(array: np.ndarray, dataset: Dataset, path: Path) -> np.ndarray:
    """Remove what is not the value from the allocated bits."""
    # Old scanners kept overlays in the unused bits. pydicom clears these, except in JPEG 2000 and JPEG-LS.
    positions = (value(dataset, (group, 0x0102), path) for group in range(0x6000, 0x6020, 2))  # OverlayBitPosition
    shift = _shift(dataset, path)
    if shift or any(element is not None and element.value for element in positions):
        unused = 8 * array.dtype.itemsize - stored_bits(dataset, path)
        array = np.right_shift(np.left_shift(array, max(0, unused - shift)), max(0, unused))
    return array


def _shift(dataset: Dataset, path: Path) -> int:
    """Return how many bits of an uncompressed pixel are below its value: HighBit may be above BitsStored - 1."""
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset or _transfer_syntax(dataset).is_encapsulated:
        return 0
    allocated, stored, _ = _bits(dataset, path)
    high = whole_number(dataset, "HighBit", path, default=stored - 1)
    return high - stored + 1 if stored <= high < allocated else 0


def num_samples(dataset: Dataset, path: Path) -> int:
    """Return the number of values of a pixel: 1 for grey and palettes, 3 for colours."""
    samples = whole_number(dataset, "SamplesPerPixel", path, default=1)
    if samples not in (1, 3):
        raise ValueError(
            f"{printable(path)} holds an image of {samples} values per pixel, expected 1 (grey or a palette) or 3 "
            "(colours); export it as PNG."
        )
    return samples


def stored_bits(dataset: Dataset, path: Path) -> int:
    """Return how many bits of a pixel hold its value."""
    return _bits(dataset, path)[1]


def stored_range(dataset: Dataset, path: Path) -> tuple[int, int]:
    """Return the lowest and highest value of the allocated bits, as some files use more, e.g. for padding."""
    bits, _, is_signed = _bits(dataset, path)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if is_signed else (0, (1 << bits) - 1)


def _bits(dataset: Dataset, path: Path) -> tuple[int, int, bool]:
    """Return the allocated and the stored bits of a pixel, and whether it is signed."""
    allocated = whole_number(dataset, "BitsAllocated", path)
    stored = whole_number(dataset, "BitsStored", path, default=allocated)
    if allocated not in (1, 8, 16, 32, 64) or not 1 <= stored <= allocated:
        raise _damaged(path, f"it stores {stored} of {allocated} bits per pixel, expected 1, 8, 16, 32 or 64 bits")
    return allocated, stored, whole_number(dataset, "PixelRepresentation", path, default=0) == 1


def _transfer_syntax(dataset: Dataset) -> uid.UID:
    """Return the encoding of the file; if it is not named, as pydicom detected it."""
    if name := text(dataset.file_meta, "TransferSyntaxUID"):
        return uid.UID(name)
    is_implicit, is_little_endian = dataset.original_encoding
    if is_implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if is_little_endian else uid.ExplicitVRBigEndian


def _check_decoder(syntax: uid.UID, path: Path) -> None:
    """Refuse videos, and a compression that pydicom has no decoder for."""
    if syntax in uid.MPEGTransferSyntaxes:
        raise ValueError(
            f"{printable(path)} is a video ({brief(syntax.name)}, {brief(syntax)}), expected single images or a "
            "multi-frame file; save its frames as PNG, e.g. with ffmpeg, or export it without video compression."
        )
    try:
        plugin, decoder = _PLUGINS.get(syntax, ""), get_decoder(syntax)
        is_available = plugin in decoder.available_plugins if plugin else decoder.is_available
    except NotImplementedError:
        is_available = False
    if not is_available and syntax not in GDCM_SYNTAXES:
        raise ValueError(
            f"{printable(path)} is compressed as {brief(syntax.name)} ({brief(syntax)}), for which pydicom has no "
            "decoder; export the series uncompressed."
        )


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{printable(path)} cannot be decoded: {reason}; the file is damaged or cut short: copy or export it again."
    )
