"""Names of scans, made from the names of their files."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from .registry import format_of, suffix_of

__all__ = ["ScanFile", "case_name", "file_kind", "label_suffix", "make_names_unique"]


@dataclass(frozen=True)
class ScanFile:
    """One scan to read.

    Attributes:
        name: Name of the case, unique in a list: the file's name without suffix, or that of a DICOM series' directory.
        path: The file; of a DICOM series the directory if it holds no other scan, else the series' first file.
        kind: "nifti", "itk", "dicom" or "image".
        files: Files of a DICOM series, or one file for each channel; empty for a single file.
        suffix: Suffix of a label map in the scan's own format, e.g. ".nii.gz"; ".png" for an image.
    """

    name: str
    path: Path
    kind: str
    files: tuple[Path, ...] = ()
    suffix: str = ""


def file_kind(path: str | Path) -> str | None:
    """Return the kind of a file by its suffix; `None` for DICOM, whose files often have none, and for other files."""
    form = format_of(path)
    return None if form is None or form.kind == "dicom" else form.kind


def case_name(path: str | Path) -> str:
    """Return the name of a file without directory and registered suffix."""
    name = Path(path).name
    return name[: len(name) - len(suffix_of(path))] or name


def label_suffix(path: Path) -> str:
    """Return the suffix of a label map in the format of a file; of an image ".png", which is lossless."""
    form = format_of(path)
    suffix = suffix_of(path)
    if form is None:
        return ".png"
    return suffix if suffix in form.writable else form.writable[0]


def make_names_unique(scans: list[ScanFile]) -> list[ScanFile]:
    """Rename scans of equal names: append the format, then prepend names of directories, then append a number.

    Names that differ in case alone are equal, as on some file systems.
    """
    directories = [Path(os.path.abspath(scan.path)).parent for scan in scans]  # links are not resolved
    names = [scan.name for scan in scans]

    def equal_names(*keys: list[Path]) -> list[int]:
        folded = [tuple(str(part).casefold() for part in parts) for parts in zip(names, *keys, strict=True)]
        counts = Counter(folded)
        return [index for index, key in enumerate(folded) if counts[key] > 1]

    for index in equal_names(directories):
        names[index] += f"_{scans[index].suffix.strip('.').replace('.', '_')}"
    for level in range(3):
        for index in equal_names():
            if level < len(directories[index].parents):
                names[index] = f"{[directories[index], *directories[index].parents][level].name}_{names[index]}"
    for count, index in enumerate(equal_names(), start=1):
        names[index] += f"-{count}"
    return [replace(scan, name=name) for scan, name in zip(scans, names, strict=True)]
