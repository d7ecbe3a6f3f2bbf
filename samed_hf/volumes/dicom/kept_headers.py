"""Headers that are kept, so that the search, the list of frames and the reading of a series read each file's once."""

from __future__ import annotations

import threading
from pathlib import Path

from pydicom import Dataset

from ..limits import InputLimits
from .headers import read_file, text

__all__ = ["read_header"]

_MAX_IMAGES = 2048  # whose headers are kept, up to 60 KB each in memory


class _Headers:
    """The headers by path, time and size of their files, with the number of their images."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: dict[tuple[Path, int, int], tuple[Dataset, int]] = {}
        self.images = 0

    def add(self, key: tuple[Path, int, int], header: Dataset, replace: bool) -> None:
        frames = text(header, "NumberOfFrames")
        images = int(frames) if frames.isdecimal() else 1
        if images > _MAX_IMAGES:
            return
        with self.lock:
            while replace and self.images + images > _MAX_IMAGES:
                self.images -= self.kept.pop(next(iter(self.kept)))[1]
            if key not in self.kept and self.images + images <= _MAX_IMAGES:
                self.kept[key] = header, images
                self.images += images


_headers = _Headers()


def read_header(path: Path, *, limits: InputLimits | None = None, searching: bool = False) -> Dataset:
    """Return the header of a DICOM file, which must not be changed; arguments and errors as [`read_file`].

    Of more files than are kept, the search keeps the first ones, which are read first; reading replaces the oldest.
    """
    try:
        stat = path.stat()
    except OSError:
        return read_file(path, limits=limits)  # raises the error
    key = path, stat.st_mtime_ns, stat.st_size
    if (kept := _headers.kept.get(key)) is not None:
        return kept[0]
    header = read_file(path, limits=limits)
    _headers.add(key, header, replace=not searching)
    return header
