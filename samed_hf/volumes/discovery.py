"""Search for scans among files and directories.

The scans of a directory are its own files of registered formats and the DICOM series in it and below it. If it has
neither, they are the files of its subdirectories. Images beside volumes are skipped as screenshots; hidden files are
ignored.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.text import printable
from .dicom.kinds import FOREIGN, LOCALIZER, NO_POSITION, count_of
from .directories import KNOWN_FORMATS, find_series, left_out, search_directory
from .registry import case_name, file_kind, format_of, label_suffix

if TYPE_CHECKING:
    from .dicom.search import SeriesFiles

__all__ = ["ScanFile", "find_scans", "search_scans"]

logger = logging.getLogger(__name__)

_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)  # nnU-Net's: case_0000, case_0001
_INDEX = "DICOMDIR"
_MOVING = (".gif", ".webp", ".avi", ".mp4", ".mov")


@dataclass(frozen=True)
class ScanFile:
    """One scan to read.

    Attributes:
        name: Name of the case, unique in a list: the file's name without suffix, or that of a DICOM series' directory.
        path: The file; of a DICOM series the directory if it holds no other scan, else the series' first file.
        kind: "nifti", "itk", "dicom" or "image".
        files: Files of a DICOM series, or one file for each channel; empty for a single file.
        suffix: Suffix of a label map in the scan's own format, e.g. ".nii.gz"; ".png" for an image. Of DICOM ".dcm", or
            another if its headers lack UIDs to which a DICOM segmentation could refer.
        notes: What the user should know of the search for it, e.g. that it is one echo of a series.
    """

    name: str
    path: Path
    kind: str
    files: tuple[Path, ...] = ()
    suffix: str = ""
    notes: tuple[str, ...] = ()


def find_scans(
    paths: str | Path | Iterable[str | Path], *, num_channels: int = 1, failed: dict[Path, str] | None = None
) -> list[ScanFile]:
    """List the scans among files and directories; skipped files are logged.

    Args:
        paths: Files and directories. A file of unknown suffix is accepted if it is DICOM; the files of one series may
            be listed one by one.
        num_channels: Number of images of a scan. With several, `case_0000.nii.gz`, `case_0001.nii.gz` and so on are
            one scan; with one, `_0000` is removed from the names if all files of a directory end so.
        failed: Gets the error of each path, and of each directory below one, that can't be searched. Without it, the
            first path's is raised, and directories below one are logged.

    Returns:
        Scans in the order of their paths, each once, with unique names; none in a directory is a `FileNotFoundError`.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    scans, notes = search_scans(paths, num_channels=num_channels, failed=failed)
    for note in notes:
        logger.info(note)
    return scans


def search_scans(
    paths: Iterable[str | Path], *, num_channels: int = 1, failed: dict[Path, str] | None = None
) -> tuple[list[ScanFile], list[str]]:
    """[`find_scans`] that returns its notes on skipped files and directories, a line each, instead of logging them."""
    files: dict[Path, Path] = {}
    dicom: dict[Path, Path] = {}
    series: list[SeriesFiles] = []
    skipped: dict[Path, str] = {}
    notes: list[str] = []
    unreadable: dict[Path, str] = {}
    for path in map(Path, paths):
        try:
            if path.is_file() and path.name.upper() == _INDEX:
                notes.append(f"searched the directory of {printable(path)}, an index of its files")
                path = path.parent
            if path.is_dir():
                own, found, others = search_directory(path, unreadable)
                files |= {_absolute(file): file for file in own}
                series += found
                skipped |= others
                # Subdirectories are not searched for files if the directory has files of its own.
                if any(file.parent == path for file in own):
                    notes += left_out(path, unreadable)
            elif not path.exists():
                raise FileNotFoundError(f"{printable(path)} does not exist, expected a scan or a directory of scans.")
            else:
                (files if file_kind(path) else dicom)[_absolute(path)] = path
        except (ValueError, OSError) as error:
            if failed is None:
                raise
            failed[path] = str(error)
    found, damaged, others = _listed_series(list(dicom.values()), failed)
    skipped |= others
    if failed is None:
        notes += [f"left out {printable(path)}: {unreadable[path]}" for path in unreadable]
    else:
        failed |= {path: reason for path, reason in unreadable.items() if path not in failed}
    scans = [
        *_file_scans(sorted(files.values()), num_channels),
        *_series_scans(series + found, set(dicom.values()), {file.parent for file in files.values()}),
        *damaged,
    ]
    for kind in sorted(set(skipped.values())):
        notes.append(f"skipped {_count([path for path in skipped if skipped[path] == kind], kind)}")
    return _make_names_unique(sorted(scans, key=lambda scan: (scan.path, scan.name))), notes


def _count(skipped: list[Path], kind: str) -> str:
    kinds = {path.suffix: path for path in reversed(skipped)}  # the first file of each suffix before the others
    names = ", ".join(printable(path.name) for path in [*dict.fromkeys([*reversed(kinds.values()), *skipped])][:3])
    return f"{count_of(kind, len(skipped))} ({names}{', …' if len(skipped) > 3 else ''})"


def _absolute(path: Path) -> Path:
    """Return one path for all spellings of it; a link to a file is not resolved."""
    return path.parent.resolve() / path.name


def _listed_series(
    files: list[Path], failed: dict[Path, str] | None
) -> tuple[list[SeriesFiles], list[ScanFile], dict[Path, str]]:
    """Return the series of files listed one by one, files that are DICOM by their suffix alone, and skipped files.

    Those that are DICOM by their suffix fail when they are read, so that the other scans of the list still can be.
    """
    series, skipped = find_series(files)
    damaged = [file for file in skipped if skipped[file] == FOREIGN]
    errors: dict[Path, str] = {}
    for file, kind in list(skipped.items()):
        if kind == FOREIGN and format_of(file) is None:
            is_moving = file.suffix.lower() in _MOVING
            way = "save its images as PNG files, or as the pages of a TIFF file" if is_moving else "convert it"
            errors[file] = f"{printable(file)} is of no known format, expected {KNOWN_FORMATS}; {way}."
        elif kind not in (FOREIGN, LOCALIZER, NO_POSITION):
            reason = "expected an image; name the images that it belongs to, or their directory."
            errors[file] = f"{printable(file)} is {count_of(kind)}, {reason}"
        if kind == FOREIGN or file in errors:
            del skipped[file]
    if errors and failed is None:
        raise ValueError(next(iter(errors.values())))
    if failed is not None:
        failed |= errors
    damaged = [file for file in damaged if file not in errors]
    return series, [ScanFile(case_name(file), file, "dicom", (file,), ".dcm") for file in damaged], skipped


def _file_scans(files: list[Path], num_channels: int) -> list[ScanFile]:
    groups: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        groups[path.parent].append(path)
    scans = []
    for group in groups.values():
        cases: dict[tuple[str, str, Path | None], list[Path]] = defaultdict(list)
        has_channels = _has_channels(group, num_channels)
        for path in group:
            match = _CHANNEL.fullmatch(case_name(path)) if has_channels else None
            one = None if match and num_channels > 1 else path  # x.png and x.jpg are two scans
            cases[match[1] if match else case_name(path), label_suffix(path), one].append(path)
        for (name, suffix, _), channels in cases.items():
            several = tuple(channels) if len(channels) > 1 else ()
            scans.append(ScanFile(name, channels[0], file_kind(channels[0]) or "", several, suffix))
    return scans


def _has_channels(files: list[Path], num_channels: int) -> bool:
    """Whether the numbers at the end of a directory's files number channels, rather than frames or cases."""
    matches = [match for path in files if (match := _CHANNEL.fullmatch(case_name(path)))]
    numbers = {int(match[2]) for match in matches}
    if num_channels == 1:
        return numbers == {0} and len(matches) == len(files)
    if not numbers or max(numbers) >= num_channels:
        return False
    images = [path for path in files if file_kind(path) == "image"]
    if numbers == {0} or not images:
        return True
    from .images import is_grey

    return all(is_grey(path) for path in images)


def _series_scans(series: list[SeriesFiles], listed: set[Path], others: set[Path]) -> list[ScanFile]:
    """Return the scans of DICOM series, named after their directory, with a number if it holds several.

    A series of one file is named after the file if the file is in `listed`, or beside other series or scans (`others`
    are the scans' directories); a part of a series has its name at the end.
    """
    seen: set[Path] = set()
    by_directory: dict[Path, dict[tuple[Path, ...], list[SeriesFiles]]] = defaultdict(lambda: defaultdict(list))
    for one in sorted(series, key=lambda one: -len(one.whole)):
        # If a directory and one of its subdirectories are both listed, the first has all files.
        if not seen.issuperset(files := {_absolute(file) for file in one.files}):
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


def _make_names_unique(scans: list[ScanFile]) -> list[ScanFile]:
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
        suffix = scans[index].path.suffix if scans[index].kind == "image" else scans[index].suffix
        names[index] += f"_{suffix.strip('.').replace('.', '_')}"
    for level in range(3):
        for index in equal_names():
            if level < len(directories[index].parents):
                names[index] = f"{[directories[index], *directories[index].parents][level].name}_{names[index]}"
    for count, index in enumerate(equal_names(), start=1):
        names[index] += f"-{count}"
    return [replace(scan, name=name) for scan, name in zip(scans, names, strict=True)]
