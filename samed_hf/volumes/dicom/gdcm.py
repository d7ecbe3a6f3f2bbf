"""JPEG Lossless images of DICOM files, decoded by SimpleITK's GDCM in a child process.

Damaged data can crash GDCM, hence the child process. libjpeg inside GDCM continues after corrupt data and only prints a
line, which is an error here: lossless JPEG has no checksum, so nothing else shows that the pixels are wrong.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from .headers import transfer_syntax

__all__ = ["GdcmDecoder"]

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
    """Decoder of single images. The first image starts the child process, the end of the context ends it."""

    def decode(self, dataset: Dataset, index: int) -> np.ndarray:
        """Return the stored values `(rows, columns)` of image `index`.

        Raises:
            ValueError: If its data are damaged.
        """
        file = self._directory / "image.dcm"
        _write_single(dataset, index, file)
        timer = threading.Timer(_TIMEOUT, self._process.kill)
        timer.start()
        try:
            output = list(self._run(file))
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

    def _run(self, file: Path) -> Iterator[str]:
        """Decode a file, and yield what GDCM prints: nothing for an undamaged one."""
        stdin, stdout = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        stdin.write(f"{file}\n")
        stdin.flush()
        while (line := stdout.readline()) != f"{_END}\n":
            yield line.strip() or "GDCM ended"
            if not line:
                return


def _write_single(dataset: Dataset, index: int, file: Path) -> None:
    """Write an image alone, still compressed, as secondary capture, whose values GDCM does not rescale."""
    single = Dataset()
    for keyword in _COPIED:
        setattr(single, keyword, int(dataset[keyword].value))
    single.SamplesPerPixel, single.PhotometricInterpretation = 1, "MONOCHROME2"
    single.SOPClassUID, single.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    frame = get_frame(dataset.PixelData, index, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
    single.PixelData = encapsulate([frame])
    single["PixelData"].VR = "OB"
    single.file_meta = FileMetaDataset()
    single.file_meta.TransferSyntaxUID = transfer_syntax(dataset)
    single.save_as(file, enforce_file_format=True)
