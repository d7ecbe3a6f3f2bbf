"""What tells that a file has changed since a case was decoded."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..volumes.itk_voxel_data import find_voxels

__all__ = ["file_stamps"]

_HASHED = 1 << 16  # bytes at each end of a file


def file_stamps(path: Path) -> list[list[Any]]:
    """Name, size, time and a hash of the first and last 64 KiB of a file, as JSON, and of the files its header names.

    So a file that was replaced by one of the same size and time counts as changed too.
    """
    stamps = []
    for file in (path, *_data_files(path)):
        stat = file.stat()
        with file.open("rb") as content:
            digest = hashlib.sha256(content.read(_HASHED))
            content.seek(max(0, stat.st_size - _HASHED))
            digest.update(content.read(_HASHED))
        stamps.append([str(file), stat.st_size, stat.st_mtime_ns, digest.hexdigest()[:32]])
    return stamps


def _data_files(path: Path) -> tuple[Path, ...]:
    """The files of the voxels of a detached header; none if they can't be found, which reading reports."""
    if path.suffix.lower() in (".mhd", ".nhdr"):
        with suppress(ValueError, OSError):
            return find_voxels(path).files
    return ()
