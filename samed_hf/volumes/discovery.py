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

from ..utils.text import join_or, printable
from .dicom.kinds import FOREIGN, LOCALIZER, NO_POSITION, count_of
from .registry import FORMATS, case_name, file_kind, format_of, label_suffix

if TYPE_CHECKING:
    from .dicom.search import SeriesFiles

__all__ = ["ScanFile", "find_scans", "search_scans"]

logger = logging.getLogger(__name__)

_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)  # nnU-Net's: case_0000, case_0001
_INDEX = "DICOMDIR"
_SCREENSHOT = "an image{s} beside scans, taken for screenshots"
_KNOWN_FORMATS = join_or([form.name for form in FORMATS])
_HEADER_SUFFIXES = (".mhd", ".nhdr")
_VOXEL_SUFFIXES = (".raw", ".zraw", ".raw.gz")  # of the files that these headers refer to


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


def find_scans(paths: str | Path | Iterable[str | Path], *, num_channels: int = 1) -> list[ScanFile]:
    """List the scans among files and directories; skipped files are logged.

    Args:
        paths: Files and directories. A file of unknown suffix is accepted if it is DICOM; the files of one series may
            be listed one by one.
        num_channels: Number of images of a scan. With several, `case_0000.nii.gz`, `case_0001.nii.gz` and so on are
            one scan; with one, `_0000` is removed from the names if all files of a directory end so.

    Returns:
        Scans in the order of their paths, each once, with unique names; none in a directory is a `FileNotFoundError`.
    """
    scans, notes = search_scans([paths] if isinstance(paths, str | Path) else paths, num_channels=num_channels)
    for note in notes:
        logger.info(note)
    return scans


def search_scans(
    paths: Iterable[str | Path], *, num_channels: int = 1, failed: dict[str, Exception] | None = None
) -> tuple[list[ScanFile], list[str]]:
    """[`find_scans`] that returns its notes on skipped files and directories, a line each, instead of logging them.

    With `failed`, the error of a path is added to it, and the other paths are searched; they may hold no scan.
    """
    files: dict[Path, Path] = {}
    dicom: dict[Path, Path] = {}
    series: list[SeriesFiles] = []
    skipped: dict[Path, str] = {}
    notes: list[str] = []
    for given in paths:
        path = Path(given)
        try:
            if path.is_file() and path.name.upper() == _INDEX:
                notes.append(f"searched the directory of {printable(path)}, an index of its files")
                path = path.parent
            if path.is_dir():
                own, found, others = _search_directory(path)
                files |= {_absolute(file): file for file in own}
                series += found
                skipped |= others
                notes += _left_out(path, own)
            elif not path.exists():
                raise FileNotFoundError(f"{printable(path)} does not exist, expected a scan or a directory of scans.")
            else:
                (files if file_kind(path) else dicom)[_absolute(path)] = path
        except (ValueError, OSError) as error:
            if failed is None:
                raise
            failed[str(given)] = error
    found, damaged, others = _listed_series(list(dicom.values()), failed)
    skipped |= others
    scans = [
        *_file_scans(sorted(files.values()), num_channels),
        *_name_series(series + found, set(dicom.values()), {file.parent for file in files.values()}),
        *damaged,
    ]
    for kind in sorted(set(skipped.values())):
        notes.append(f"skipped {_count([path for path in skipped if skipped[path] == kind], kind)}")
    return _make_names_unique(sorted(scans, key=lambda scan: (scan.path, scan.name))), notes


def _left_out(directory: Path, own: list[Path]) -> list[str]:
    """Note the subdirectories with scans, which are not searched if the directory has files of its own."""
    has_own = any(file.parent == directory for file in own)
    found = [one for one in _subdirectories(directory) if has_own and not one.is_symlink() and _own_files(one)[0]]
    if not found:
        return []
    example = f"e.g. {printable(found[0].name)}: name them"
    return [f"left out {len(found)} directories with scans in {printable(directory)}, {example}"]


def _count(skipped: list[Path], kind: str) -> str:
    names = ", ".join(printable(path.name) for path in skipped[:3])
    return f"{count_of(kind, len(skipped))} ({names}{', …' if len(skipped) > 3 else ''})"


def _absolute(path: Path) -> Path:
    """Return one path for all spellings of it; a link to a file is not resolved."""
    return path.parent.resolve() / path.name


def _search_directory(directory: Path) -> tuple[list[Path], list[SeriesFiles], dict[Path, str]]:
    """Return files of registered formats, DICOM series, and the kinds of skipped files."""
    own, screenshots = _own_files(directory)
    series, skipped = _find_series(_dicom_candidates(directory))
    if own and file_kind(own[0]) == "image" and any(one.is_volume for one in series):
        own, screenshots = [], own
    if not own and not series:
        for subdirectory in _subdirectories(directory):
            files, images = _own_files(subdirectory)
            own += files
            screenshots += images
    skipped |= dict.fromkeys(screenshots, _SCREENSHOT)
    if not own and not series:
        kinds = Counter(skipped.values())
        others = f"; it holds {', '.join(count_of(kind, kinds[kind]) for kind in sorted(kinds))}" if skipped else ""
        raise FileNotFoundError(
            f"{printable(directory)} holds no scan, expected {_KNOWN_FORMATS}{others}; check the directory."
        )
    return own, series, skipped


def _subdirectories(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_dir() and path.name[0] != ".")


def _own_files(directory: Path) -> tuple[list[Path], list[Path]]:
    """Return a directory's own files of registered formats, and the images beside volumes."""
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


def _name_series(series: list[SeriesFiles], listed: set[Path], others: set[Path]) -> list[ScanFile]:
    if not series:
        return []
    from .dicom.scans import name_series

    return name_series(series, listed, others)


def _find_series(files: list[Path]) -> tuple[list[SeriesFiles], dict[Path, str]]:
    if not files:
        return [], {}
    from .dicom.search import search_series

    return search_series(files)


def _listed_series(
    files: list[Path], failed: dict[str, Exception] | None
) -> tuple[list[SeriesFiles], list[ScanFile], dict[Path, str]]:
    """Return the series of files listed one by one, files that are DICOM by their suffix alone, and skipped files.

    Those that are DICOM by their suffix fail when they are read, so that the other scans of the list still can be.
    """
    series, kinds = _find_series(files)
    skipped, damaged = {}, []
    for file, kind in kinds.items():
        if kind in (LOCALIZER, NO_POSITION):
            skipped[file] = kind
        elif kind == FOREIGN and format_of(file) is not None:
            damaged.append(ScanFile(case_name(file), file, "dicom", (file,), ".dcm"))
        else:
            what = "of no known format" if kind == FOREIGN else count_of(kind)
            expected = f"{_KNOWN_FORMATS}; convert it." if kind == FOREIGN else "an image; name the images instead."
            error = ValueError(f"{printable(file)} is {what}, expected {expected}")
            if failed is None:
                raise error
            failed[str(file)] = error
    return series, damaged, skipped


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
        names[index] += f"_{scans[index].suffix.strip('.').replace('.', '_')}"
    for level in range(3):
        for index in equal_names():
            if level < len(directories[index].parents):
                names[index] = f"{[directories[index], *directories[index].parents][level].name}_{names[index]}"
    for count, index in enumerate(equal_names(), start=1):
        names[index] += f"-{count}"
    return [replace(scan, name=name) for scan, name in zip(scans, names, strict=True)]
