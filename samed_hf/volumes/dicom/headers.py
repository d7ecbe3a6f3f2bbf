"""DICOM files and what stands in them: read in silence, odd values refused in one line."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ...utils.text import printable

__all__ = ["brief", "is_dicom", "numbers", "quiet", "read_file", "text", "transfer_syntax", "value", "whole_number"]

# Beyond the size of any scanner, in mm: a damaged header, and a number that would overflow further on.
_LARGEST = 1e6


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom and highdicom from remarking on every odd value of every file.

    What matters is checked where it is used; a series of 500 files from one careless exporter would otherwise print
    500 times the same line.
    """
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def is_dicom(path: str | Path) -> bool:
    """Whether a file looks like DICOM from its first bytes, whatever its name.

    Either "DICM" stands after a preamble of 128 bytes, or, as old exporters have it, the file starts at once with an
    element of group 2 or 8.

    Raises:
        OSError: The file cannot be read.
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


def read_file(path: Path, *, pixels: bool = False, tags: Sequence[str] | None = None) -> Dataset:
    """Read a DICOM file, with or without the preamble.

    Args:
        path: The file.
        pixels: Whether to read on to the pixels.
        tags: Keywords of the elements that are wanted; all by default.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read as DICOM.
        OSError: The file system refuses it.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{printable(path)} does not exist or is no file, expected a DICOM file; check the path."
        )
    if not is_dicom(path):
        raise ValueError(
            f"{printable(path)} is not DICOM, expected a file of a DICOM series; take it out of the folder."
        )
    try:
        return pydicom.dcmread(
            path, force=True, stop_before_pixels=not pixels, specific_tags=None if tags is None else list(tags)
        )
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        # Whatever a flipped bit brings up in pydicom: struct, Unicode, recursion, memory, zlib, a dozen of its own.
        raise _damaged(path, error) from error


def value(dataset: Dataset, keyword: str, path: Path) -> Any:
    """The value of an element, `None` where it is missing or empty.

    Raises:
        ValueError: The value cannot be made out.
    """
    try:
        found = dataset.get(keyword)
    except Exception as error:
        # pydicom decodes a value when it is asked for, and fails in as many ways as in reading the file.
        raise _damaged(path, error, keyword) from error
    return None if found is None or found == "" or (hasattr(found, "__len__") and len(found) == 0) else found


def numbers(
    dataset: Dataset, keyword: str, count: int, path: Path, *, positive: bool = False, default: Any = None
) -> tuple[float, ...]:
    """The numbers of an element.

    Args:
        dataset: The dataset, or the item of a sequence.
        keyword: The element's keyword, e.g. "PixelSpacing".
        count: How many numbers are expected.
        path: The file, for the message.
        positive: Whether they must be above 0.
        default: What stands for a missing element; `None` refuses it.

    Raises:
        ValueError: The element is missing without a default, or doesn't hold so many finite numbers.
    """
    found = value(dataset, keyword, path)
    if found is None:
        if default is not None:
            return tuple(default)
        raise ValueError(
            f"{printable(path)} lacks {keyword}, which a scan needs to be read as a volume; "
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
    """The whole number of an element, at least 0.

    Raises:
        ValueError: The element is missing without a default, or holds something else.
    """
    number = numbers(dataset, keyword, 1, path, default=None if default is None else (default,))[0]
    if number != int(number) or number < 0:
        raise ValueError(
            f"{printable(path)} has {keyword} {number:g}, expected a whole number; copy or export the file again."
        )
    return int(number)


def text(dataset: Dataset, keyword: str) -> str:
    """An element as text on one line, empty where it is missing or cannot be made out."""
    try:
        found = dataset.get(keyword)
    except Exception:
        return ""
    if isinstance(found, Sequence) and not isinstance(found, str | bytes):
        found = "\\".join(str(part) for part in found)
    return "" if found is None else brief(found)


def transfer_syntax(dataset: Dataset) -> UID:
    """How the file is encoded; where it doesn't say, how pydicom found it to be."""
    said = text(getattr(dataset, "file_meta", Dataset()), "TransferSyntaxUID")
    if said:
        return UID(said)
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def brief(what: object, longest: int = 100) -> str:
    """Something as printable text on one line."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in str(what)).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _damaged(path: Path, error: Exception, keyword: str = "its header") -> ValueError:
    reason = brief(error) or type(error).__name__
    return ValueError(
        f"{printable(path)} cannot be read as DICOM: {keyword} is damaged ({reason}); copy or export the file again, "
        "or take it out of the folder."
    )
