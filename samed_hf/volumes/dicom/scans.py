"""The scans of DICOM series: their names, and the formats of their label maps."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from ..discovery import ScanFile
from ..registry import case_name
from .search import SeriesFiles

__all__ = ["name_series"]


def name_series(series: list[SeriesFiles], listed: set[Path], others: set[Path]) -> list[ScanFile]:
    """Return the scans of DICOM series, named after their directory, with a number if it holds several.

    A series of one file is named after the file if the file is in `listed`, or beside other series or scans (`others`
    are the scans' directories); a part of a series has its name at the end.
    """
    seen: set[Path] = set()
    by_directory: dict[Path, dict[tuple[Path, ...], list[SeriesFiles]]] = defaultdict(lambda: defaultdict(list))
    for one in sorted(series, key=lambda one: -len(one.whole)):
        # If a directory and one of its subdirectories are both listed, the first has all files.
        if not seen.issuperset(files := {file.parent.resolve() / file.name for file in one.files}):
            seen |= files
            parents = {file.parent for file in one.whole}
            common = os.path.commonpath([path.resolve() for path in parents]) if len(parents) > 1 else parents.pop()
            by_directory[Path(common)][one.whole].append(one)
    scans = []
    for directory, wholes in by_directory.items():
        found = sorted(
            (parts[0].number is None, parts[0].number or 0, parts[0].uid, whole) for whole, parts in wholes.items()
        )
        numbers = [wholes[whole][0].number for *_, whole in found if len(whole) > 1]
        has_numbers = len(set(numbers)) == len(numbers) and None not in numbers
        for count, (*_, whole) in enumerate(found, start=1):
            name, path = directory.resolve().name or "scan", directory
            if len(whole) == 1 and (len(found) > 1 or whole[0] in listed or directory in others):
                name, path = case_name(whole[0]), whole[0]
            elif len(found) > 1:
                name, path = f"{name}_series-{wholes[whole][0].number if has_numbers else count}", whole[0]
            for one in wholes[whole]:
                own = (f"{name}_{one.part}", one.files[0]) if one.part else (name, path)
                scans.append(ScanFile(*own, "dicom", one.files, _suffix(one), one.notes))
    return scans


def _suffix(series: SeriesFiles) -> str:
    """Return the suffix of a series' label map: DICOM-SEG if UIDs allow it."""
    if not series.lacks:
        return ".dcm"
    if series.is_volume:
        return ".nii.gz"
    return ".tif" if series.frames > 1 else ".png"
