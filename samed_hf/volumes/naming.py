"""What scans are called, and what their files' names say of them."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from ._checks import ITK_SUFFIXES, NIFTI_SUFFIXES, PICTURE_SUFFIXES

__all__ = ["DICOM_SUFFIXES", "ScanFile", "case_name", "file_kind", "label_suffix", "named_apart"]

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_KINDS = {"nifti": NIFTI_SUFFIXES, "itk": ITK_SUFFIXES, "picture": PICTURE_SUFFIXES}


@dataclass(frozen=True)
class ScanFile:
    """One scan to read.

    Attributes:
        name: Of the case, no two alike in one list: the file's name without suffix, or that of a DICOM series' folder.
        path: The file; of a DICOM series the folder where it lies alone in it, else its first file.
        kind: "nifti", "itk", "dicom" or "picture".
        files: Those of a DICOM series, or one for each channel; empty for a file that holds all.
        suffix: Of a label map in the scan's own format: ".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".dcm" or ".png".
    """

    name: str
    path: Path
    kind: str
    files: tuple[Path, ...] = ()
    suffix: str = ""


def file_kind(path: str | Path) -> str | None:
    """Kind of a file by its suffix, `None` for one that may be DICOM or anything else."""
    name = Path(path).name.lower()
    return next((kind for kind, suffixes in _KINDS.items() if name.endswith(suffixes)), None)


def case_name(path: str | Path) -> str:
    """Name of a file without its folder and without the suffix of a scan's format."""
    name = Path(path).name
    known = [*NIFTI_SUFFIXES, *ITK_SUFFIXES, *PICTURE_SUFFIXES, *DICOM_SUFFIXES]
    suffix = next((suffix for suffix in known if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)] or name


def label_suffix(path: Path) -> str:
    """Suffix of a label map in the format of a file; of a picture PNG, which loses nothing."""
    suffixes = [*NIFTI_SUFFIXES, *ITK_SUFFIXES]
    return next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), ".png")


def named_apart(scans: list[ScanFile]) -> list[ScanFile]:
    """Give scans of one name others: with the format within a folder, with the folder's name in front, a number."""
    homes = [Path(os.path.abspath(scan.path)).parent for scan in scans]  # links stay where they are
    names = [scan.name for scan in scans]

    def clashing(*keys: list) -> list[int]:
        # Some file systems know no capitals.
        full = [tuple(str(part).casefold() for part in parts) for parts in zip(names, *keys, strict=True)]
        counts = Counter(full)
        return [index for index, key in enumerate(full) if counts[key] > 1]

    for index in clashing(homes):
        names[index] += f"_{scans[index].suffix.strip('.').replace('.', '_')}"
    for level in range(3):
        for index in clashing():
            if level < len(homes[index].parents):
                names[index] = f"{[homes[index], *homes[index].parents][level].name}_{names[index]}"
    for count, index in enumerate(clashing(), start=1):
        names[index] += f"-{count}"
    return [replace(scan, name=name) for scan, name in zip(scans, names, strict=True)]
