"""JPEG Lossless, decoded by SimpleITK's GDCM in a process of its own."""

from __future__ import annotations

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

__all__ = ["GDCM_SYNTAXES", "GdcmDecoder", "compressed_frame"]

GDCM_SYNTAXES = (uid.JPEGLossless, uid.JPEGLosslessSV1)
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
        """Return the stored values `(rows, columns[, 3])` of image `index`; damaged data are a `ValueError`."""
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
        return array[0]  # of one slice

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
    if dataset.get("SamplesPerPixel") == 3:
        single.SamplesPerPixel, single.PhotometricInterpretation, single.PlanarConfiguration = 3, "RGB", 0
    single.SOPClassUID, single.SOPInstanceUID = uid.SecondaryCaptureImageStorage, uid.generate_uid()
    single.PixelData = encapsulate([compressed_frame(dataset, index)])
    single["PixelData"].VR = "OB"
    single.file_meta = FileMetaDataset()
    single.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    single.save_as(file, enforce_file_format=True)


def compressed_frame(dataset: Dataset, index: int) -> bytes:
    """Return the bytes of image `index` of a compressed file."""
    return get_frame(dataset.PixelData, index, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
