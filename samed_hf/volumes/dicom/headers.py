"""Headers of DICOM files, read without warnings; invalid values are errors of one line."""

from __future__ import annotations

import logging
import math
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ...utils.text import printable
from ..file_checks import check_memory
from ..limits import InputLimits

__all__ = [
    "brief",
    "is_dicom",
    "is_usable_uid",
    "items",
    "numbers",
    "quiet",
    "read_file",
    "text",
    "value",
    "whole_number",
]

_CHUNK = 1 << 20  # bytes
_LARGEST = 1e6  # mm; larger than any scanner: the header is damaged, and the number would overflow further on


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom and highdicom, which warn about every odd value of every file; values are checked when used."""
    with warnings.catch_warnings(), pydicom.config.disable_value_validation(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        for logger in map(logging.getLogger, ("pydicom", "highdicom")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL + 1)
        yield


def is_dicom(path: str | Path) -> bool:
    """Whether a file looks like DICOM from its first bytes, whatever its name.

    It has "DICM" after a preamble of 128 bytes or, as from old exporters, starts with an element of group 2 or 8.
    """
    with Path(path).open("rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return True
    if len(start) < 132:
        return False
    if start[:2] == b"\x00\x08":
        return start[2:4] <= b"\x00\x18" and start[4:6].isalpha()
    group, element, length = (int.from_bytes(part, "little") for part in (start[:2], start[2:4], start[4:8]))
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    return group in (2, 8) and element <= 0x18 and (explicit or length <= 256)


def read_file(
    path: Path, *, pixels: bool = False, tags: Sequence[str] | None = None, limits: InputLimits | None = None
) -> Dataset:
    """Read a DICOM file, with or without preamble: the header, or of it only `tags`, and optionally the pixels.

    A deflated file is limited to the bytes of `limits`, by default `InputLimits.local()`, decompressed.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{printable(path)} does not exist or is not a file, expected a DICOM file; check the path."
        )
    if not is_dicom(path):
        raise ValueError(
            f"{printable(path)} is not DICOM, expected a file of a DICOM series; remove it from the directory."
        )
    _check_inflated(path, limits or InputLimits.local())
    try:
        return pydicom.dcmread(
            path, force=True, stop_before_pixels=not pixels, specific_tags=None if tags is None else list(tags)
        )
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        # A flipped bit can raise anything in pydicom: struct, Unicode, recursion, memory, zlib, a dozen of its own.
        raise _damaged(path, error) from error


def _check_inflated(path: Path, limits: InputLimits) -> None:
    """Refuse a deflated file that expands beyond the limits or the memory: pydicom decompresses all of it at once."""
    with path.open("rb") as file:
        try:
            read_preamble(file, force=True)
            meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
            if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
                return
            inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
            while (data := inflater.unconsumed_tail or file.read(_CHUNK)) and total <= limits.bytes:
                total += len(inflater.decompress(data, _CHUNK))
        except Exception:  # damaged: reading it raises the error
            return
    limits.check(path, bytes=total)
    check_memory(path, total)


def value(dataset: Dataset, keyword: str | tuple[int, int], path: Path) -> Any:
    """Return the value of an element, `None` if it is missing or empty; of a tag the element."""
    try:
        found = dataset.get(keyword)
    except Exception as error:
        # pydicom decodes a value when it is accessed, and fails in as many ways as in reading the file.
        raise _damaged(path, error, str(keyword)) from error
    return None if found is None or found == "" or (hasattr(found, "__len__") and len(found) == 0) else found


def items(holder: Dataset, sequence: str, path: Path) -> list[Dataset]:
    """Return the items of a sequence, none if it is missing."""
    found = value(holder, sequence, path) if sequence in holder else None
    return [item for item in found if isinstance(item, Dataset)] if isinstance(found, Sequence) else []


def numbers(
    dataset: Dataset, keyword: str, count: int, path: Path, *, positive: bool = False, default: Any = None
) -> tuple[float, ...]:
    """Return the `count` finite numbers of an element; a missing one is an error without `default`."""
    found = value(dataset, keyword, path)
    if found is None:
        if default is not None:
            return tuple(default)
        raise ValueError(
            f"{printable(path)} lacks {keyword}, which is required to read a volume; "
            "export the series again with its full headers, or leave this series out."
        )
    many = isinstance(found, Sequence) and not isinstance(found, str | bytes)
    try:
        result = tuple(float(number) for number in (found if many else [found]))
    except (TypeError, ValueError):
        result = ()
    if (
        len(result) != count
        or not all(math.isfinite(number) and abs(number) <= _LARGEST for number in result)
        or (positive and min(result) <= 0)
    ):
        what = f"{count} number{'s' if count > 1 else ''}{' above 0' if positive else ''}"
        raise ValueError(
            f"{printable(path)} has {keyword} {brief(found)!r}, expected {what}; the file is damaged or was "
            "written wrongly: copy or export it again."
        )
    return result


def whole_number(dataset: Dataset, keyword: str, path: Path, *, default: int | None = None) -> int:
    """Return the whole number of an element, at least 0; a missing one is an error without `default`."""
    number = numbers(dataset, keyword, 1, path, default=None if default is None else (default,))[0]
    if number != int(number) or number < 0:
        raise ValueError(
            f"{printable(path)} has {keyword} {number:g}, expected a whole number; copy or export the file again."
        )
    return int(number)


def text(dataset: Dataset, keyword: str) -> str:
    """Return an element as text of one line, empty if it is missing or cannot be decoded."""
    try:
        found = dataset.get(keyword)
    except Exception:
        return ""
    if isinstance(found, Sequence) and not isinstance(found, str | bytes):
        found = "\\".join(map(str, found))
    return "" if found is None else brief(found)


def is_usable_uid(uid: str) -> bool:
    """Whether other objects can refer to a UID. Leading zeros violate the standard and are in use."""
    return re.fullmatch(r"[0-9]+(\.[0-9]+)+", uid) is not None and len(uid) <= 64


def brief(what: object, longest: int = 100) -> str:
    """Return an object as printable text of one line."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in str(what)).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _damaged(path: Path, error: Exception, keyword: str = "its header") -> ValueError:
    return ValueError(
        f"{printable(path)} cannot be read as DICOM: {keyword} is damaged ({brief(error) or type(error).__name__}); "
        "copy or export the file again, or remove it from the directory."
    )
