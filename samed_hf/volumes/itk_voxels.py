"""The voxels of NRRD and MetaImage files.

ITK reads the headers, but not these: of a damaged MetaImage it gives whatever is in the memory, and before it reads it
takes all the memory that a header asks for.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..utils.text import one_line
from ._checks import check_memory, damaged
from .itk_files import VoxelData, form_of

__all__ = ["read_voxels", "unpacked"]

_DEFLATE_RATIO = 1032  # how much smaller deflate makes zeros
_PART = 1 << 24  # bytes read at once


def read_voxels(path: Path, voxels: VoxelData, count: int, stored: np.dtype) -> np.ndarray:
    """Read all values of a file, in its own order.

    Args:
        path: The file with the header, for messages.
        voxels: Where they are.
        count: How many there must be.
        stored: Their type in the file, whatever the byte order.

    Returns:
        Array of shape `(count,)`: of the file's integer type, or float32.

    Raises:
        ValueError: If the file is damaged, holds more or less, or more than fits into memory.
    """
    form, size = form_of(path), count * stored.itemsize
    there = voxels.path.stat().st_size - voxels.offset
    if size > there * (_DEFLATE_RATIO if voxels.packed else 1):
        raise damaged(path, form, f"its header claims {size} bytes of voxels, more than it holds")
    check_memory(path, size)
    array = np.empty(count, np.float32 if stored.kind == "f" else stored)
    found, left = 0, b""
    try:
        for part in unpacked(voxels):
            left += part
            whole = len(left) // stored.itemsize
            if found + whole > count:
                raise damaged(path, form, f"its header claims {size} bytes of voxels, less than it holds")
            with np.errstate(all="ignore"):  # what grows beyond float32 is told as infinity
                array[found : found + whole] = np.frombuffer(left, stored.newbyteorder(voxels.byte_order), whole)
            found, left = found + whole, left[whole * stored.itemsize :]
    except zlib.error as error:
        raise damaged(path, form, one_line(error)) from error
    if found < count or left:
        raise damaged(path, form, f"its header claims {size} bytes of voxels, but it holds others")
    return array


def unpacked(voxels: VoxelData) -> Iterator[bytes]:
    """The bytes of the voxels, part by part.

    Raises:
        zlib.error: If they are compressed and damaged, as their checksum tells.
    """
    with voxels.path.open("rb") as file:
        file.seek(voxels.offset)
        if not voxels.packed:
            while part := file.read(_PART):
                yield part
            return
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of gzip and zlib alike
        while not unpacker.eof and (part := unpacker.unconsumed_tail or file.read(1 << 20)):
            yield unpacker.decompress(part, _PART)
    if not unpacker.eof:
        raise zlib.error("its compressed voxels are cut short")
