"""JPEG processes that neither pydicom nor Pillow knows, decoded by SimpleITK's GDCM in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, SecondaryCaptureImageStorage, generate_uid

from .headers import transfer_syntax

__all__ = ["GDCM_SYNTAXES", "GdcmDecoder"]

GDCM_SYNTAXES = (JPEGLossless, JPEGLosslessSV1, JPEGExtended12Bit)
_LONGEST = 120.0  # seconds for one image
_COPIED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
import numpy, SimpleITK
for line in sys.stdin:
    file = line.rstrip("\\n")
    try:
        image = SimpleITK.ReadImage(file, imageIO="GDCMImageIO")
        numpy.save(file + ".npy", SimpleITK.GetArrayFromImage(image))
        print("done", flush=True)
    except Exception as error:
        print(" ".join(str(error).split()), flush=True)
"""


class GdcmDecoder:
    """Decodes images one by one; a context, at whose end the process is gone.

    In a process of its own, because damaged data crash GDCM, and because libjpeg inside it goes on after corrupt data
    with no more than a line on stderr: here that line refuses the image. The process starts with the first image.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> GdcmDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def decode(self, dataset: Dataset, index: int) -> np.ndarray:
        """Decode one image.

        Args:
            dataset: The file's dataset, with its pixels.
            index: The image's number in the file, from 0.

        Returns:
            Integers of shape `(rows, columns)`, as stored.

        Raises:
            ValueError: The data are damaged.
        """
        folder = self._start()
        file, complaints = folder / "image.dcm", folder / "stderr"
        _write_single(dataset, index, file)
        before = complaints.stat().st_size
        reply = self._ask(file)
        said = complaints.read_bytes()[before:].decode(errors="replace").strip()
        if reply != "done" or said:
            # ITK's own errors begin with places in its sources.
            raise ValueError(said.splitlines()[0] if said else reply.rpartition(": ")[2] or "GDCM broke down over it")
        array = np.load(f"{file}.npy")
        return array.reshape(array.shape[-2:])

    def _start(self) -> Path:
        """Have a process and a folder to exchange files with it."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        if self._process is None:
            with (folder / "stderr").open("ab") as complaints:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=complaints,
                    text=True,
                )
        return folder

    def _ask(self, file: Path) -> str:
        """Have a file decoded; what the process replies, empty where it died."""
        process = self._process
        assert process is not None
        timer = threading.Timer(_LONGEST, process.kill)
        timer.start()
        try:
            print(file, file=process.stdin, flush=True)
            reply = process.stdout.readline().strip()
        except OSError:
            reply = ""
        finally:
            timer.cancel()
        if not reply:
            self._stop()
        return reply

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            # Waits for it, and closes the pipes.
            self._process.communicate()
            self._process = None


def _write_single(dataset: Dataset, index: int, file: Path) -> None:
    """Write an image by itself, still compressed; as a secondary capture, to which GDCM applies no rescaling."""
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
