"""What the headers of NRRD and MetaImage files say: where their grid lies, and where their voxels are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..utils.text import printable
from ._checks import damaged

__all__ = ["ItkHeader", "VoxelData", "find_voxels", "form_of", "with_geometry"]

_LONGEST_HEADER = 1 << 22  # bytes
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_SPATIAL = ("domain", "space", "time", "???", "none")  # kinds of NRRD's axes that count no components
_VECTOR = re.compile(r"\([^()]*\)")


@dataclass(frozen=True)
class ItkHeader:
    """The geometry of an image as ITK has it.

    Attributes:
        spacing: Size of a voxel in mm along each array axis.
        origin: Centre of the first voxel in mm, LPS+.
        direction: The 3 × 3 matrix, row by row: its columns are the array axes, LPS+.
        nrrd: The lines in which an NRRD file says this: written anew, the directions of an oblique grid would be
            rounded.
    """

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    nrrd: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, affine: np.ndarray) -> ItkHeader:
        """The header of a `(4, 4)` matrix from voxels to mm, RAS+."""
        columns = affine[:3, :3] * _LPS_TO_RAS[:, None]
        spacing = np.linalg.norm(columns, axis=0)
        origin = affine[:3, 3] * _LPS_TO_RAS
        return cls(*(tuple(values.ravel().tolist()) for values in (spacing, origin, columns / spacing)))

    @property
    def affine(self) -> np.ndarray:
        """The `(4, 4)` matrix from voxels to mm, RAS+."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing * _LPS_TO_RAS[:, None]
        affine[:3, 3] = self.origin * _LPS_TO_RAS
        return affine


@dataclass(frozen=True)
class VoxelData:
    """Where a file's voxels are, and how they are written.

    Attributes:
        path: The file that holds them, that with the header or another.
        offset: Byte at which they begin.
        packed: Whether they are compressed.
        byte_order: "<" or ">".
        channel_axis: Which of the axes in the file counts the components of a voxel, where it has several.
        geometry: Lines of an NRRD header that say where the grid lies, by their field, where they are for three axes.
    """

    path: Path
    offset: int
    packed: bool
    byte_order: str = "<"
    channel_axis: int = 0
    geometry: tuple[tuple[str, str], ...] = ()


def form_of(path: Path) -> str:
    """Name of the format."""
    return "NRRD" if path.suffix.lower() == ".nrrd" else "MetaImage"


def find_voxels(path: Path) -> VoxelData:
    """Read where a file's voxels are from its header.

    Raises:
        FileNotFoundError: If the file with the voxels is missing.
        ValueError: If it is no header, or the voxels are spread over several files or written as text.
    """
    with path.open("rb") as file:
        return (_find_in_nrrd if form_of(path) == "NRRD" else _find_in_meta)(path, file)


def with_geometry(header: bytes, geometry: tuple[tuple[str, str], ...]) -> bytes:
    """An NRRD header with the lines of another that say where the grid lies.

    Args:
        header: As ITK writes it, with the directions of three axes.
        geometry: As [`VoxelData`] has it.
    """
    other = dict(geometry)
    lines = []
    for line in header.decode().rstrip("\n").splitlines():
        field = line.split(":")[0]
        if field == "space directions":
            # Only the vectors: that of the channels is "none" and may be anywhere.
            vectors = iter(_VECTOR.findall(other[field]))
            line = _VECTOR.sub(lambda match: next(vectors), line)  # noqa: B023
        elif field in other:
            line = f"{field}: {other[field]}"
        lines.append(line)
    return "\n".join(lines).encode()


def _lines(path: Path, file: BinaryIO) -> Iterator[str]:
    left = _LONGEST_HEADER
    while left > 0 and (line := file.readline(left)):
        left -= len(line)
        yield os.fsdecode(line).rstrip("\r\n")
    raise damaged(path, form_of(path), "its header has no end")


def _find_in_nrrd(path: Path, file: BinaryIO) -> VoxelData:
    lines = _lines(path, file)
    if not next(lines).startswith("NRRD"):
        raise damaged(path, "NRRD", "it does not begin with NRRD")
    fields = {}
    for line in lines:
        if not line:
            break
        field, colon, content = line.partition(": ")
        if colon and line[0] != "#":
            fields[field.lower()] = content.strip()
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise ValueError(f"{printable(path)} has the encoding {encoding[:40]!r}, expected raw or gzip; save it so.")
    skips = [fields.get(name, "0") for name in ("line skip", "lineskip", "byte skip", "byteskip")]
    if any(skip != "0" for skip in skips):
        raise ValueError(
            f"{printable(path)} skips a part of its data file, expected voxels only; save it as one .nrrd file."
        )
    name = fields.get("data file", fields.get("datafile"))
    place, offset = (path, file.tell()) if name is None else (_beside(path, name), 0)
    kinds = fields.get("kinds", "").lower().split()
    channels = [axis for axis, kind in enumerate(kinds) if kind not in _SPATIAL]
    order = ">" if fields.get("endian", "").lower() == "big" else "<"
    return VoxelData(place, offset, encoding != "raw", order, channels[0] if channels else 0, _nrrd_geometry(fields))


def _nrrd_geometry(fields: dict[str, str]) -> tuple[tuple[str, str], ...]:
    vectors = _VECTOR.findall(fields.get("space directions", ""))
    if len(vectors) != 3 or any(vector.count(",") != 2 for vector in vectors) or "space" not in fields:
        return ()
    return tuple((name, fields[name]) for name in ("space", "space directions", "space origin") if name in fields)


def _find_in_meta(path: Path, file: BinaryIO) -> VoxelData:
    fields = {}
    for line in _lines(path, file):
        field, *content = map(str.strip, re.split("[=:]", line, maxsplit=1))
        fields[field] = content[0] if content else ""
        if field == "NDims" and not re.fullmatch("[1-9]", fields[field]):
            # ITK would write beyond its arrays, which ends the process.
            raise damaged(path, "MetaImage", f"its header says NDims = {printable(fields[field])[:20]}")
        if field == "ElementDataFile":
            break
    if fields.get("BinaryData", "True")[:1] not in "Tt1":
        raise ValueError(f"{printable(path)} holds its voxels as text, expected binary ones; save it so.")
    if fields.get("HeaderSize", "0") != "0":
        raise ValueError(
            f"{printable(path)} skips a part of its data file, expected voxels only; save it as one .mha file."
        )
    packed = _is_true(fields.get("CompressedData"))
    if "CompressedDataSize" in fields and not packed:
        raise damaged(path, "MetaImage", "its header has CompressedDataSize, but not CompressedData = True")
    order = ">" if _is_true(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB"))) else "<"
    name = fields["ElementDataFile"]
    place, offset = (path, file.tell()) if name.upper() == "LOCAL" else (_beside(path, name), 0)
    return VoxelData(place, offset, packed, order)


def _is_true(content: str | None) -> bool:
    return (content or "").startswith(("T", "t", "1"))


def _beside(path: Path, name: str) -> Path:
    """The file of the voxels, where a header names it."""
    if not name or name.upper().startswith("LIST") or "%" in name:
        raise ValueError(
            f"{printable(path)} has its voxels in several files ({printable(name)[:80]}), expected one; save it as "
            "one file."
        )
    if not os.path.isfile(path.parent / name):
        raise FileNotFoundError(
            f"{printable(path)} has its voxels in {printable(name)[:80]}, which is not there; copy that file too."
        )
    return path.parent / name
