"""The stored values of one image of a DICOM file, uncompressed or compressed."""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder

from ...utils.text import printable
from .headers import brief, text, value, whole_number

__all__ = ["GdcmDecoder", "stored_range", "stored_values"]

_GDCM_SYNTAXES = (uid.JPEGLossless, uid.JPEGLosslessSV1)
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

_SIZE_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # of JPEG and JPEG-LS
_TIMEOUT = 120.0  # seconds for an image
_END = "end of image"
_COPIED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
_PROGRAM = f"""
import sys
sys.path[:] = sys.argv[1:]
import numpy, SimpleITK
for line in sys.stdin:
    file = line.rstrip("\\n")
    try:
        image = SimpleITK.ReadImage(file, imageIO="GDCMImageIO")
        numpy.save(file + ".npy", SimpleITK.GetArrayFromImage(image))
    except Exception as error:
        print(" ".join(str(error).split()).rpartition(": ")[2])
    print("{_END}", flush=True)
"""


class GdcmDecoder(ExitStack):
    """Decoder of JPEG Lossless by SimpleITK's GDCM, in a child process from the first image to the end of the context.

    Damaged data can crash GDCM, hence the child process. libjpeg inside GDCM continues after corrupt data and only
    prints a line, which is an error here: lossless JPEG has no checksum, so nothing else shows that pixels are wrong.
    """

    def decode(self, dataset: Dataset, index: int) -> np.ndarray:
        """Return the stored values `(rows, columns)` of image `index`; damaged data are a `ValueError`."""
        file = self._directory / "image.dcm"
        _write_single(dataset, index, file)
        stdin, stdout = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        output = []  # what GDCM prints: nothing for undamaged data
        timer = threading.Timer(_TIMEOUT, self._process.kill)
        timer.start()
        try:
            stdin.write(f"{file}\n")
            stdin.flush()
            while (line := stdout.readline()) != f"{_END}\n":
                output.append(line.strip() or "GDCM ended")
                if not line:
                    break
        finally:
            timer.cancel()
        if output:
            raise ValueError(output[0])
        array: np.ndarray = np.load(f"{file}.npy")
        return array.reshape(array.shape[-2:])

    @cached_property
    def _directory(self) -> Path:
        return Path(self.enter_context(tempfile.TemporaryDirectory()))

    @cached_property
    def _process(self) -> subprocess.Popen[str]:
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen([sys.executable, "-c", _PROGRAM, *sys.path], text=True, errors="replace", **pipes)
        self.enter_context(process)  # closes the pipes and waits
        self.callback(process.kill)
        return process


def _write_single(dataset: Dataset, index: int, file: Path) -> None:
    """Write an image alone, still compressed, as secondary capture, whose values GDCM does not rescale."""
    single = Dataset()
    for keyword in _COPIED:
        setattr(single, keyword, int(dataset[keyword].value))
    single.SamplesPerPixel, single.PhotometricInterpretation = 1, "MONOCHROME2"
    single.SOPClassUID, single.SOPInstanceUID = uid.SecondaryCaptureImageStorage, uid.generate_uid()
    single.PixelData = encapsulate([_compressed(dataset, index)])
    single["PixelData"].VR = "OB"
    single.file_meta = FileMetaDataset()
    single.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    single.save_as(file, enforce_file_format=True)


def _compressed(dataset: Dataset, index: int) -> bytes:
    return get_frame(dataset.PixelData, index, number_of_frames=int(dataset.get("NumberOfFrames") or 1))


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
    """Decode image `index` of a file to integers of shape `(rows, columns)`."""
    if value(dataset, "PixelData", path) is None:
        # pydicom returns what it has read if a file ends within an element: mostly nothing.
        raise _damaged(path, "it has no pixels (PixelData), or ends before them")
    syntax = _transfer_syntax(dataset)
    if not syntax.is_transfer_syntax:
        raise _damaged(path, f"its transfer syntax is {brief(syntax)!r}, which is unknown")
    allocated, stored, _ = _bits(dataset, path)
    shape = (whole_number(dataset, "Rows", path), whole_number(dataset, "Columns", path))
    if not syntax.is_encapsulated:
        row = shape[1] * allocated // 8
        expected = whole_number(dataset, "NumberOfFrames", path, default=1) * shape[0] * row
        length = len(value(dataset, "PixelData", path))
        if not expected <= length < expected + max(row, 2):  # padding of less than a row is accepted
            raise _damaged(path, f"it holds {length} bytes of pixels, expected {expected}")
    plugin = _plugin(syntax, stored, path)
    try:
        # The decoders require it, and a file may lack it.
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax.is_encapsulated and (claimed := _frame_size(_compressed(dataset, index))) not in (shape, None):
            raise ValueError(f"its pixels are {claimed}, its header claims {shape}")  # before they are allocated
        if syntax in _GDCM_SYNTAXES:
            array = gdcm.decode(dataset, index)
        else:
            options: Any = {"allow_excess_frames": False}  # pydicom annotates each option with the type of all of them
            decoder = get_decoder(syntax)
            array = decoder.as_array(dataset, index=index, raw=True, decoding_plugin=plugin, **options)[0]
        # Old scanners kept overlays in the unused bits. pydicom clears these, except in JPEG 2000 and JPEG-LS.
        positions = (dataset.get((group, 0x0102)) for group in range(0x6000, 0x6020, 2))  # OverlayBitPosition
        if any(element is not None and element.value for element in positions):
            array = np.right_shift(np.left_shift(array, allocated - stored), allocated - stored)
    except Exception as error:
        # The decoders are many, and each raises errors of all kinds for damaged pixels.
        reason = brief(str(error).rpartition("by all available plugins:")[2]) or type(error).__name__
        raise _damaged(path, reason) from error
    if array.shape != shape or array.dtype.kind not in "iu":
        raise _damaged(path, f"its pixels are decoded to {array.shape} {array.dtype}, expected {shape} integers")
    return array


def stored_range(dataset: Dataset, path: Path) -> tuple[int, int]:
    """Return the lowest and highest value of the allocated bits, as some files use more, e.g. for padding."""
    bits, _, is_signed = _bits(dataset, path)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if is_signed else (0, (1 << bits) - 1)


def _bits(dataset: Dataset, path: Path) -> tuple[int, int, bool]:
    """Return the allocated and the stored bits of a pixel, and whether it is signed."""
    allocated = whole_number(dataset, "BitsAllocated", path)
    stored = whole_number(dataset, "BitsStored", path, default=allocated)
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise _damaged(path, f"it stores {stored} of {allocated} bits per pixel, expected integers of 8, 16 or 32 bits")
    return allocated, stored, whole_number(dataset, "PixelRepresentation", path, default=0) == 1


def _transfer_syntax(dataset: Dataset) -> uid.UID:
    """Return the encoding of the file; if it is not named, as pydicom detected it."""
    if name := text(dataset.file_meta, "TransferSyntaxUID"):
        return uid.UID(name)
    is_implicit, is_little_endian = dataset.original_encoding
    if is_implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if is_little_endian else uid.ExplicitVRBigEndian


def _plugin(syntax: uid.UID, stored: int, path: Path) -> str:
    """Return the plugin of pydicom's decoder; empty if it has none of its own."""
    plugin = _PLUGINS.get(syntax, "")
    if syntax == uid.JPEGExtended12Bit and stored > 8:  # Pillow and GDCM decode 8 bits only
        plugin = "pylibjpeg"
    try:
        decoder = get_decoder(syntax)
        is_available = plugin in decoder.available_plugins if plugin else decoder.is_available
    except NotImplementedError:
        is_available = False
    if not is_available and syntax not in _GDCM_SYNTAXES:
        raise ValueError(
            f"{printable(path)} is compressed as {brief(syntax.name)} ({brief(syntax)}), for which pydicom has no "
            "decoder; export the series uncompressed."
        )
    return plugin


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{printable(path)} cannot be decoded: {reason}; the file is damaged or cut short: copy or export it again."
    )
