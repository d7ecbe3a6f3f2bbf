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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..utils.text import one_line, printable
from ._checks import DEFLATE_RATIO, check_memory, damaged_file_error
from .registry import format_of

__all__ = ["VoxelData", "check_voxels", "find_voxels", "format_name"]

_MAX_HEADER = 1 << 22  # bytes
_BLOCK = 1 << 24  # bytes read at once
_PATTERN = re.compile(r"(?P<name>[^%]*%0?\d{0,2}[diu][^%]*?) +(?P<range>-?\d+ +-?\d+ +-?\d+)(?: +\d+)?")


@dataclass(frozen=True)
class VoxelData:
    """Where the voxels of an image are, and how they are encoded.

    Attributes:
        files: The header's own file, or the data files that it refers to, each with an equal share of the voxels.
        encoding: "raw", "gzip" (or zlib) or "text".
        offset: Position of the data in each file, in bytes.
        skip: Bytes between `offset`, or the start of the decompressed data, and the voxels; -1 if the voxels are the
            last bytes of the file.
        length: Number of compressed bytes, where the header states it.
        files_axis: The first axis whose positions are in separate files, where the header states it.
    """

    files: tuple[Path, ...]
    encoding: str
    offset: int = 0
    skip: int = 0
    length: int | None = None
    files_axis: int | None = None


def format_name(path: Path) -> str:
    """Return the name of the format of a path, "NRRD" or "MetaImage"."""
    form = format_of(path)
    return "" if form is None else form.name


def find_voxels(path: Path) -> VoxelData:
    """Find the voxels of a file from its header.

    Raises:
        FileNotFoundError: If a data file is missing.
        ValueError: If the header is damaged, or its encoding is not supported.
    """
    with path.open("rb") as file:
        return (_find_nrrd_voxels if format_name(path) == "NRRD" else _find_meta_voxels)(path, file)


def check_voxels(path: Path, voxels: VoxelData, size: Sequence[int], value_bytes: int) -> None:
    """Check that the data files hold exactly the voxels of the header, and that these fit into memory.

    Args:
        path: The file with the header, for messages.
        voxels: Position and encoding of the voxels.
        size: Length of each axis; the components of a voxel, if there are several, are the first one.
        value_bytes: Bytes of a value.

    Raises:
        ValueError: If they hold more or less, are damaged, or exceed the free memory.
    """
    form, count = format_name(path), math.prod(size)
    num_bytes = count * value_bytes
    num_files = len(voxels.files)
    axis = voxels.files_axis
    if num_bytes % num_files or (axis is not None and num_files != math.prod(size[axis:])):
        raise damaged_file_error(path, form, f"its {num_files} data files do not divide an image of shape {size}")
    share = num_bytes // num_files
    available = [file.stat().st_size - voxels.offset for file in voxels.files]
    ratio = {"raw": 1.0, "gzip": DEFLATE_RATIO, "text": value_bytes / 2 + 1}[voxels.encoding]
    if share > min(available) * ratio:
        raise damaged_file_error(path, form, f"its header claims {num_bytes} bytes of voxels, more than it holds")
    check_memory(path, 2 * num_bytes)  # SimpleITK's image and its copy as an array
    for file, file_bytes in zip(voxels.files, available, strict=True):
        if voxels.encoding == "text":
            found, expected = _count_numbers(path, file, voxels.offset) * value_bytes, share
        else:
            found = file_bytes if voxels.encoding == "raw" else _decompressed_bytes(path, file, voxels)
            expected = share + max(voxels.skip, 0)
        if found < expected or (found > expected and voxels.skip != -1):
            raise damaged_file_error(
                path, form, f"its header claims {share} bytes of voxels, but {printable(file.name)} holds {found}"
            )


def _count_numbers(path: Path, file: Path, offset: int) -> int:
    with file.open("rb") as stream:
        stream.seek(offset)
        words = stream.read().split()
    try:
        return len([float(word) for word in words])
    except ValueError as error:
        raise damaged_file_error(path, format_name(path), one_line(error)[:80]) from error


def _decompressed_bytes(path: Path, file: Path, voxels: VoxelData) -> int:
    """Count the bytes of compressed data, whose checksum zlib compares."""
    count = 0
    left = file.stat().st_size - voxels.offset if voxels.length is None else voxels.length
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib
    try:
        with file.open("rb") as stream:
            stream.seek(voxels.offset)
            while not unpacker.eof and (block := unpacker.unconsumed_tail or stream.read(min(left, 1 << 20))):
                left -= 0 if unpacker.unconsumed_tail else len(block)
                count += len(unpacker.decompress(block, _BLOCK))
    except zlib.error as error:
        raise damaged_file_error(path, format_name(path), one_line(error)) from error
    if not unpacker.eof:
        raise damaged_file_error(path, format_name(path), "its compressed voxels are cut short")
    return count


def _lines(path: Path, file: IO[bytes]) -> Iterator[str]:
    left = _MAX_HEADER
    while left > 0 and (line := file.readline(left)):
        left -= len(line)
        yield os.fsdecode(line).rstrip("\r\n")
    if left <= 0:
        raise damaged_file_error(path, format_name(path), "its header has no end")


def _find_nrrd_voxels(path: Path, file: IO[bytes]) -> VoxelData:
    lines = _lines(path, file)
    if not next(lines, "").startswith("NRRD"):
        raise damaged_file_error(path, "NRRD", "it does not begin with NRRD")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, content = line.partition(": ")
        if not line or fields.get("datafile", "").startswith("LIST"):
            break
        if colon and line[0] != "#":
            fields[name.lower().replace(" ", "")] = content.strip()
    encodings = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "ascii": "text", "text": "text", "txt": "text"}
    encoding = fields.get("encoding", "").lower()
    if encoding not in encodings:
        raise ValueError(
            f"{printable(path)} has the encoding {encoding[:40]!r}, expected raw, gzip or ascii; save it so."
        )
    data_file = fields.get("datafile")
    files: tuple[Path, ...] = (path,)
    offset = file.tell()
    if data_file is not None:
        listed = [line, *lines] if data_file.startswith("LIST") else []
        files, offset = _data_files(path, data_file, [entry for entry in listed if entry.strip()]), 0
    skip, skipped_lines = (_integer(path, fields.get(key, "0"), key) for key in ("byteskip", "lineskip"))
    if skip < -1 or skipped_lines < 0 or (skip == -1 and encodings[encoding] != "raw"):
        raise damaged_file_error(path, "NRRD", f"its header has byte skip {skip} and line skip {skipped_lines}")
    if skipped_lines:
        with files[0].open("rb") as data:
            data.seek(offset)
            offset += sum(len(data.readline(_MAX_HEADER)) for _ in range(min(skipped_lines, _MAX_HEADER)))
    return VoxelData(files, encodings[encoding], offset, skip)


def _find_meta_voxels(path: Path, file: IO[bytes]) -> VoxelData:
    fields: dict[str, str] = {}
    lines = _lines(path, file)
    for line in lines:
        name, *content = map(str.strip, re.split("[=:]", line, maxsplit=1))
        fields[name] = content[0] if content else ""
        if name == "NDims" and not re.fullmatch("[1-9]", fields[name]):
            # MetaIO would write beyond its arrays.
            raise damaged_file_error(path, "MetaImage", f"its header has NDims = {printable(fields[name])[:20]}")
        if name == "ElementDataFile":
            break
    else:
        raise damaged_file_error(path, "MetaImage", "its header has no ElementDataFile")
    is_text = fields.get("BinaryData", "True")[:1] not in "Tt1"
    is_compressed = fields.get("CompressedData", "")[:1] in ("T", "t", "1")
    length = fields.get("CompressedDataSize")
    skip = _integer(path, fields.get("HeaderSize", "0"), "HeaderSize")
    name, axis = fields["ElementDataFile"], None
    is_local = name.upper() == "LOCAL"
    offset = skip if skip > 0 else file.tell() if is_local else 0
    files: tuple[Path, ...] = (path,)
    if not is_local:
        dimensions = int(fields.get("NDims", "3"))
        is_list = name.startswith("LIST")
        if is_list or "%" in name:
            stated = name[4:].strip() if is_list else ""
            axis = _integer(path, stated, "LIST") if stated else dimensions - 1
            if not 0 < axis < dimensions:
                raise damaged_file_error(path, "MetaImage", f"its header has ElementDataFile = {name[:40]}")
        files = _data_files(path, name, [entry for entry in lines if entry.strip()] if is_list else [])
    if (length and not is_compressed) or (is_compressed and (is_text or skip < 0 or axis is not None)) or skip < -1:
        raise damaged_file_error(path, "MetaImage", "its CompressedData contradicts the other fields of its header")
    encoding = "text" if is_text else "gzip" if is_compressed else "raw"
    num_bytes = _integer(path, length, "CompressedDataSize") if length else None
    return VoxelData(files, encoding, offset, min(skip, 0), num_bytes, axis)


def _integer(path: Path, content: str, name: str) -> int:
    try:
        return int(content)
    except ValueError:
        raise damaged_file_error(path, format_name(path), f"its header has {name} {printable(content)[:20]}") from None


def _data_files(path: Path, name: str, listed: list[str]) -> tuple[Path, ...]:
    """Return the data files of a header: one, those listed after `LIST`, or those of a pattern like `s%03d.raw 1 9 1`.

    Raises:
        FileNotFoundError: If one of them does not exist.
        ValueError: If there is none, or the pattern is damaged.
    """
    names: Iterator[str] = iter([name])
    if name.startswith("LIST"):
        names = iter(entry.strip() for entry in listed)
    elif "%" in name:
        match = _PATTERN.fullmatch(name)
        first, last, step = map(int, match["range"].split()) if match else (0, 0, 0)
        if match is None or step == 0:
            raise damaged_file_error(path, format_name(path), f"its header has the pattern {printable(name)[:80]}")
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
        raise damaged_file_error(path, format_name(path), "its header lists no data file")
    return tuple(files)
