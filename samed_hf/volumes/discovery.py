"""Search for scans among files and directories.

The scans of a directory are its own files of registered formats and the DICOM series in it and below it. If it has
neither, they are the files of its subdirectories. Images that lie beside volumes are skipped as screenshots; hidden
files are ignored.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.text import join_or, printable
from .naming import ScanFile, case_name, file_kind, label_suffix, make_names_unique
from .registry import FORMATS, format_of

if TYPE_CHECKING:
    from .dicom.search import SeriesFiles

__all__ = ["find_scans", "search_scans"]

logger = logging.getLogger(__name__)

_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)  # nnU-Net's: case_0000, case_0001
_HEADER_SUFFIXES = (".mhd", ".nhdr")
_VOXEL_SUFFIXES = (".raw", ".zraw", ".raw.gz")  # of the files that these headers refer to


def find_scans(paths: str | Path | Iterable[str | Path], *, num_channels: int = 1) -> list[ScanFile]:
    """List the scans among files and directories; skipped files are logged.

    Args:
        paths: Files and directories. A file of unknown suffix is accepted if it is DICOM; the files of one series may
            be listed one by one.
        num_channels: Number of images of a scan. With several, `case_0000.nii.gz`, `case_0001.nii.gz` and so on are
            one scan; with one, `_0000` is removed from the names if all files of a directory end so.

    Returns:
        Scans in the order of their paths, each once, with unique names.

    Raises:
        FileNotFoundError: If a path does not exist, or a directory holds no scan.
        ValueError: If a file in `paths` is of no known format.
    """
    scans, notes = search_scans([paths] if isinstance(paths, str | Path) else paths, num_channels=num_channels)
    for note in notes:
        logger.info(note)
    return scans


def search_scans(paths: Iterable[str | Path], *, num_channels: int = 1) -> tuple[list[ScanFile], list[str]]:
    """[`find_scans`] that returns its notes on skipped files and directories, a line each, instead of logging them."""
    files: dict[Path, Path] = {}
    dicom: dict[Path, Path] = {}
    series: list[SeriesFiles] = []
    skipped: list[Path] = []
    notes: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            own, found, foreign = _search_directory(path)
            files |= {_absolute(file): file for file in own}
            series += found
            skipped += foreign
            if left_out := _directories_left_out(path, own):
                example = f"e.g. {printable(left_out[0].name)}: name them"
                notes.append(f"left out {len(left_out)} directories with scans in {printable(path)}, {example}")
        elif not path.exists():
            raise FileNotFoundError(f"{printable(path)} does not exist, expected a scan or a directory of scans.")
        else:
            (files if file_kind(path) else dicom)[_absolute(path)] = path
    found, damaged = _listed_series(list(dicom.values()))
    scans = [
        *_file_scans(sorted(files.values()), num_channels),
        *_series_scans(series + found, set(dicom.values())),
        *damaged,
    ]
    if skipped:
        notes.append(_skipped_note(skipped))
    return make_names_unique(sorted(scans, key=lambda scan: (scan.path, scan.name))), notes


def _skipped_note(skipped: list[Path]) -> str:
    names = ", ".join(printable(path.name) for path in skipped[:3])
    count = f"{len(skipped)} files that are not scans" if len(skipped) > 1 else "1 file that is not a scan"
    has_images = any(file_kind(path) == "image" for path in skipped)
    reason = "; images beside scans count as screenshots" if has_images else ""
    return f"skipped {count} ({names}{', …' if len(skipped) > 3 else ''}){reason}"


def _known_formats() -> str:
    return join_or([form.name for form in FORMATS])


def _absolute(path: Path) -> Path:
    """Return one path for all spellings of it; a link to a file is not resolved."""
    return path.parent.resolve() / path.name


def _search_directory(directory: Path) -> tuple[list[Path], list[SeriesFiles], list[Path]]:
    """Return files of registered formats, DICOM series, and skipped files."""
    own, skipped = _own_files(directory)
    candidates = _dicom_candidates(directory)
    series = _find_series(candidates)
    if series:
        skipped += [file for file in own if file_kind(file) == "image"]
        own = [file for file in own if file_kind(file) != "image"]
    series_files = {file for one in series for file in one.files}
    skipped += [file for file in candidates if file not in series_files and file.name.upper() != "DICOMDIR"]
    if not own and not series:
        for subdirectory in sorted(path for path in directory.iterdir() if path.is_dir() and path.name[0] != "."):
            files, foreign = _own_files(subdirectory)
            own += files
            skipped += foreign
    if not own and not series:
        others = f"; none of its {len(skipped)} files is one" if skipped else ""
        raise FileNotFoundError(
            f"{printable(directory)} holds no scan, expected {_known_formats()}{others}; check the directory."
        )
    return own, series, skipped


def _directories_left_out(directory: Path, found: list[Path]) -> list[Path]:
    """Return subdirectories with scans that are not searched because the directory has scans of its own."""
    if not any(file.parent == directory for file in found):
        return []
    return sorted(
        path
        for path in directory.iterdir()
        if path.is_dir() and path.name[0] != "." and not path.is_symlink() and _own_files(path)[0]
    )


def _own_files(directory: Path) -> tuple[list[Path], list[Path]]:
    """Return a directory's own files of registered formats, and the images that lie beside volumes."""
    files = sorted(path for path in directory.iterdir() if path.name[0] != "." and file_kind(path) and path.is_file())
    volumes = [path for path in files if file_kind(path) != "image"]
    images = [path for path in files if file_kind(path) == "image"]
    return (volumes, images) if volumes else (images, [])


def _dicom_candidates(directory: Path) -> list[Path]:
    """Return the files in a directory and below it that may be DICOM."""
    found = []
    for root, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if name[0] != "." and name != "__MACOSX")
        has_headers = any(name.lower().endswith(_HEADER_SUFFIXES) for name in names)
        for name in sorted(names):
            is_voxels = has_headers and name.lower().endswith(_VOXEL_SUFFIXES)
            if name[0] != "." and not is_voxels and not file_kind(name) and (path := Path(root, name)).is_file():
                found.append(path)
    return found


def _find_series(files: list[Path]) -> list[SeriesFiles]:
    if not files:
        return []
    from .dicom.search import find_series

    return find_series(files)


def _listed_series(files: list[Path]) -> tuple[list[SeriesFiles], list[ScanFile]]:
    """Return the series of files listed one by one, and files that are DICOM by their suffix alone.

    The latter fail when they are read, so that the other scans of the list still can be.
    """
    series = _find_series(files)
    series_files = {file for one in series for file in one.files}
    others = [file for file in files if file not in series_files]
    for file in others:
        if format_of(file) is None:
            raise ValueError(f"{printable(file)} is of no known format, expected {_known_formats()}; convert it.")
    return series, [ScanFile(case_name(file), file, "dicom", (file,), ".dcm") for file in others]


def _file_scans(files: list[Path], num_channels: int) -> list[ScanFile]:
    groups: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        groups[path.parent].append(path)
    scans = []
    for group in groups.values():
        cases: dict[tuple[str, str], list[Path]] = defaultdict(list)
        has_channels = _has_channels(group, num_channels)
        for path in group:
            match = _CHANNEL.fullmatch(case_name(path))
            cases[match[1] if match and has_channels else case_name(path), label_suffix(path)].append(path)
        for (name, suffix), channels in cases.items():
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


def _series_scans(series: list[SeriesFiles], listed: set[Path]) -> list[ScanFile]:
    """Return the scans of DICOM series, named after their directory, with a number if it holds several.

    A series of one file is named after the file if the file is in `listed`, or lies beside other series.
    """
    seen: set[Path] = set()
    by_directory: dict[Path, list[SeriesFiles]] = defaultdict(list)
    for one in sorted(series, key=lambda one: -len(one.files)):
        # If a directory and one of its subdirectories are both listed, the first has all files.
        if not seen.issuperset(files := {_absolute(file) for file in one.files}):
            seen |= files
            by_directory[_common_directory(one.files)].append(one)
    scans = []
    for directory, found in by_directory.items():
        found.sort(key=lambda one: (one.number is None, one.number or 0, one.uid, one.files))
        numbers = {one.number for one in found}
        for count, one in enumerate(found, start=1):
            name, path = directory.resolve().name or "scan", directory
            if len(one.files) == 1 and (len(found) > 1 or one.files[0] in listed):
                name, path = case_name(one.files[0]), one.files[0]
            elif len(found) > 1:
                number = one.number if len(numbers) == len(found) and None not in numbers else count
                name, path = f"{name}_series-{number}", one.files[0]
            scans.append(ScanFile(name, path, "dicom", tuple(one.files), ".dcm"))
    return scans


def _common_directory(files: Iterable[Path]) -> Path:
    """Return the innermost directory that contains all files."""
    parents = {file.parent for file in files}
    return parents.pop() if len(parents) == 1 else Path(os.path.commonpath([path.resolve() for path in parents]))
