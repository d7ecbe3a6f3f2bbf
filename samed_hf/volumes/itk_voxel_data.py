"""Checks of the voxel data of NRRD and MetaImage files before SimpleITK reads them.

SimpleITK allocates what a header asks for before it reads, and MetaIO returns uninitialised memory for files that are
cut short or damaged. So the header's references to data files are resolved here, and their sizes and checksums compared
with the header; the values are left to SimpleITK.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

from ..utils.text import one_line, printable
from .file_checks import DEFLATE_RATIO, check_memory, damaged_file_error
from .limits import InputLimits
from .registry import suffix_of

__all__ = ["VoxelData", "check_voxels", "find_voxels", "is_nrrd"]

_MAX_HEADER = 1 << 22  # bytes
_PATTERN = re.compile(r"(?P<name>[^%]*%0?\d{0,2}[diu][^%]*?) +(?P<range>-?\d+ +-?\d+ +-?\d+)(?: +\d+)?")
_ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "ascii": "text", "text": "text", "txt": "text"}


@dataclass(frozen=True)
class VoxelData:
    """Position and encoding of the voxels of an image."""

    files: tuple[Path, ...]  # the header's own file, or the data files, each with an equal share of the voxels
    encoding: str  # "raw", "gzip" (or zlib) or "text"
    offset: int = 0  # position of the data in each file, in bytes
    skip: int = 0  # bytes of the (decompressed) data before the voxels; -1 if the voxels are the last bytes
    length: int | None = None  # compressed bytes, where the header states it
    files_axis: int | None = None  # the first axis that is spread over files, where the header states it


def is_nrrd(path: Path) -> bool:
    """Whether a file is NRRD by its suffix, else it is MetaImage."""
    return suffix_of(path) in (".nrrd", ".nhdr")


def find_voxels(path: Path) -> VoxelData:
    """Find the voxels of a file from its header; a missing data file is a `FileNotFoundError`."""
    with path.open("rb") as file:
        return (_find_nrrd_voxels if is_nrrd(path) else _find_meta_voxels)(path, file)


def check_voxels(
    path: Path, voxels: VoxelData, size: Sequence[int], value_bytes: int, limits: InputLimits | None
) -> None:
    """Check that the data files hold exactly the voxels of the header, each of `value_bytes`, and that they fit memory.

    `path` is the file with the header, for messages; `size` is the length of each axis.
    """
    num_bytes = math.prod(size) * value_bytes
    num_files = len(voxels.files)
    axis = voxels.files_axis
    if num_bytes % num_files or (axis is not None and num_files != math.prod(size[axis:])):
        raise damaged_file_error(path, f"its {num_files} data files do not divide an image of shape {size}")
    share = num_bytes // num_files
    available = [file.stat().st_size - voxels.offset for file in voxels.files]
    ratio = {"raw": 1.0, "gzip": DEFLATE_RATIO, "text": value_bytes / 2 + 1}[voxels.encoding]
    if share > min(available) * ratio:
        raise damaged_file_error(path, f"its header claims {num_bytes} bytes of voxels, more than it holds")
    if limits is not None:
        limits.check(path, bytes=num_bytes + max(voxels.skip, 0))
        limits.check_shape(path, size)
    check_memory(path, 2 * num_bytes)  # SimpleITK's image and its copy as an array
    for file, found in zip(voxels.files, available, strict=True):
        expected = share + max(voxels.skip, 0)
        try:
            if voxels.encoding == "text":
                words = re.finditer(rb"\S+", file.read_bytes()[voxels.offset :])
                found, expected = sum(value_bytes for word in words if float(word[0]) is not None), share
            elif voxels.encoding == "gzip":
                found = _decompressed_bytes(file, voxels, expected)
        except (ValueError, zlib.error) as error:
            raise damaged_file_error(path, one_line(error)[:80]) from error
        if found < expected or (found > expected and voxels.skip != -1):
            name = printable(file.name)
            raise damaged_file_error(path, f"its header claims {share} bytes of voxels, but {name} holds {found}")


def _decompressed_bytes(file: Path, voxels: VoxelData, expected: int) -> int:
    """Count the bytes of compressed data, whose checksum zlib compares; the count ends beyond the expected number."""
    count, left = 0, file.stat().st_size if voxels.length is None else voxels.length
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib
    with file.open("rb") as stream:
        stream.seek(voxels.offset)
        # A block is at most 17 MB when it is decompressed.
        while not unpacker.eof and count <= expected and (block := stream.read(max(0, min(left, 1 << 14)))):
            left -= len(block)
            count += len(unpacker.decompress(block))
    if not unpacker.eof and count <= expected:
        raise ValueError("its compressed voxels are cut short")
    return count


def _lines(path: Path, file: IO[bytes]) -> Iterator[str]:
    left = _MAX_HEADER
    while left > 0 and (line := file.readline(left)):
        left -= len(line)
        yield os.fsdecode(line).rstrip("\r\n")
    if left <= 0:
        raise damaged_file_error(path, "its header has no end")


def _find_nrrd_voxels(path: Path, file: IO[bytes]) -> VoxelData:
    lines = _lines(path, file)
    if not next(lines, "").startswith("NRRD"):
        raise damaged_file_error(path, "it does not begin with NRRD")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, content = line.partition(": ")
        if not line or fields.get("datafile", "").startswith("LIST"):
            break
        if colon and line[0] != "#":
            fields[name.lower().replace(" ", "")] = content.strip()
    stated = fields.get("encoding", "").lower()
    encoding = _ENCODINGS.get(stated)
    if encoding is None:
        reason = f"has the encoding {stated[:40]!r}, expected raw, gzip or ascii; save it so"
        raise ValueError(f"{printable(path)} {reason}.")
    files: tuple[Path, ...] = (path,)
    offset = file.tell()
    if (data_file := fields.get("datafile")) is not None:
        files, offset = _data_files(path, data_file, chain([line], lines)), 0
    skip, skipped_lines = (_integer(path, fields.get(key, "0"), key) for key in ("byteskip", "lineskip"))
    if skip < -1 or skipped_lines < 0 or (skip == -1 and encoding != "raw"):
        raise damaged_file_error(path, f"its header has byte skip {skip} and line skip {skipped_lines}")
    if skipped_lines:
        with files[0].open("rb") as data:
            data.seek(offset)
            offset += sum(len(data.readline(_MAX_HEADER)) for _ in range(min(skipped_lines, _MAX_HEADER)))
    return VoxelData(files, encoding, offset, skip)


def _find_meta_voxels(path: Path, file: IO[bytes]) -> VoxelData:
    fields: dict[str, str] = {}
    lines = _lines(path, file)
    for line in lines:
        name, *content = map(str.strip, re.split("[=:]", line, maxsplit=1))
        fields[name] = content[0] if content else ""
        if name == "NDims" and not re.fullmatch("[1-9]", fields[name]):
            # MetaIO would write beyond its arrays.
            raise damaged_file_error(path, f"its header has NDims = {printable(fields[name])[:20]}")
        if name == "ElementDataFile":
            break
    else:
        raise damaged_file_error(path, "its header has no ElementDataFile")
    is_text = fields.get("BinaryData", "True")[:1] not in "Tt1"
    is_compressed = fields.get("CompressedData", "")[:1] in ("T", "t", "1")
    length = fields.get("CompressedDataSize")
    skip = _integer(path, fields.get("HeaderSize", "0"), "HeaderSize")
    name, axis = fields["ElementDataFile"], None
    files: tuple[Path, ...] = (path,)
    offset = file.tell()
    if name.upper() != "LOCAL":
        dimensions = int(fields.get("NDims", "3"))
        if name.startswith("LIST") or "%" in name:
            stated = name[4:].strip() if name.startswith("LIST") else ""
            axis = _integer(path, stated, "LIST") if stated else dimensions - 1
            if not 0 < axis < dimensions:
                raise damaged_file_error(path, f"its header has ElementDataFile = {name[:40]}")
        files, offset = _data_files(path, name, lines), 0
    if (length and not is_compressed) or (is_compressed and (is_text or skip < 0 or axis is not None)) or skip < -1:
        raise damaged_file_error(path, "its CompressedData contradicts the other fields of its header")
    encoding = "text" if is_text else "gzip" if is_compressed else "raw"
    num_bytes = _integer(path, length, "CompressedDataSize") if length else None
    return VoxelData(files, encoding, skip if skip > 0 else offset, min(skip, 0), num_bytes, axis)


def _integer(path: Path, content: str, name: str) -> int:
    try:
        return int(content)
    except ValueError:
        raise damaged_file_error(path, f"its header has {name} {printable(content)[:20]}") from None


def _data_files(path: Path, name: str, lines: Iterable[str]) -> tuple[Path, ...]:
    """Return the data files of a header: one, those of its `lines` after `LIST`, or of a pattern: `s%03d.raw 1 9 1`."""
    names: Iterable[str] = [name]
    if name.startswith("LIST"):
        names = (line.strip() for line in lines if line.strip())
    elif "%" in name:
        match = _PATTERN.fullmatch(name)
        first, last, step = map(int, match["range"].split()) if match else (0, 0, 0)
        if match is None or step == 0:
            raise damaged_file_error(path, f"its header has the pattern {printable(name)[:80]}")
        pattern = match["name"]
        names = (pattern % number for number in range(first, last + (1 if step > 0 else -1), step))
    files = []
    for entry in names:
        if not entry or not os.path.isfile(path.parent / entry):
            raise FileNotFoundError(
                f"{printable(path)} refers to the data file {printable(entry)[:80]}, which does not exist; copy that "
                "file, too."
            )
        files.append(path.parent / entry)
    if not files:
        raise damaged_file_error(path, "its header lists no data file")
    return tuple(files)
