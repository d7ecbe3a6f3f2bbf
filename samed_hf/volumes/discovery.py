"""Finding scans among files and folders.

A folder gives its own files of known suffixes and the DICOM series in it and below it; one with neither gives the files
of the folders in it. Pictures count where no volume lies beside them: there they are screenshots. Hidden files don't.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..utils.text import printable
from .naming import DICOM_SUFFIXES, ScanFile, case_name, file_kind, label_suffix, named_apart

__all__ = ["find_scans"]

_KNOWN = "NIfTI, NRRD, MHA or MHD, DICOM, PNG, JPEG, TIFF or BMP"
_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)  # nnU-Net's: case_0000, case_0001


def find_scans(
    paths: str | Path | Iterable[str | Path], *, num_channels: int = 1, report: Callable[[str], None] = print
) -> list[ScanFile]:
    """List the scans among files and folders, see above.

    Args:
        paths: Files and folders. A file of unknown suffix is taken if it is DICOM; the files of one series may be named
            one by one.
        num_channels: Images of a scan. With several, `case_0000.nii.gz`, `case_0001.nii.gz` and so on are one scan;
            with one, `_0000` goes from the names where all files of a folder end so.
        report: Told in one line how many foreign files were skipped.

    Returns:
        Scans in the order of their paths, each once. Where two have the same name, the folder's is put in front.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder holds no scan.
        ValueError: If a file named by itself is of no known format.
    """
    files: dict[Path, Path] = {}
    dicom: dict[Path, Path] = {}
    series: list[Any] = []
    skipped: list[Path] = []
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if path.is_dir():
            own, found, foreign = _in_folder(path)
            files |= {_real(file): file for file in own}
            series += found
            skipped += foreign
            if inside := _left_out(path, own):
                example = f"e.g. {printable(inside[0].name)}: name them"
                report(f"left out {len(inside)} folders with scans in {printable(path)}, {example}")
        elif not path.exists():
            raise FileNotFoundError(f"{printable(path)} does not exist, expected a scan or a folder of scans.")
        else:
            (files if file_kind(path) else dicom)[_real(path)] = path
    found, damaged = _named_series(list(dicom.values()))
    scans = [
        *_file_scans(sorted(files.values()), num_channels),
        *_series_scans(series + found, set(dicom.values())),
        *damaged,
    ]
    if skipped:
        names = ", ".join(printable(path.name) for path in skipped[:3])
        count = f"{len(skipped)} files that are no scans" if len(skipped) > 1 else "1 file that is no scan"
        pictures = any(file_kind(path) == "picture" for path in skipped)
        beside = "; pictures beside scans count as screenshots" if pictures else ""
        report(f"skipped {count} ({names}{', …' if len(skipped) > 3 else ''}){beside}")
    return named_apart(sorted(scans, key=lambda scan: (scan.path, scan.name)))


def _real(path: Path) -> Path:
    """The same for every way of writing a path; links stay files of their own."""
    return path.parent.resolve() / path.name


def _in_folder(folder: Path) -> tuple[list[Path], list[Any], list[Path]]:
    """Files of known suffixes, DICOM series, and foreign files."""
    own, skipped = _own_files(folder)
    candidates = _candidates(folder)
    series = _find_series(candidates) if candidates else []
    if series:
        skipped += [file for file in own if file_kind(file) == "picture"]
        own = [file for file in own if file_kind(file) != "picture"]
    of_series = {file for one in series for file in one.files}
    skipped += [file for file in candidates if file not in of_series and file.name.upper() != "DICOMDIR"]
    if not own and not series:
        for inside in sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."):
            files, foreign = _own_files(inside)
            own += files
            skipped += foreign
    if not own and not series:
        also = f"; its {len(skipped)} files are none" if skipped else ""
        raise FileNotFoundError(f"{printable(folder)} holds no scan, expected {_KNOWN}{also}; check the folder.")
    return own, series, skipped


def _left_out(folder: Path, taken: list[Path]) -> list[Path]:
    """Folders inside whose scans aren't taken, because the folder has scans of its own."""
    if not any(file.parent == folder for file in taken):
        return []
    inside = sorted(
        path for path in folder.iterdir() if path.is_dir() and path.name[0] != "." and not path.is_symlink()
    )
    return [path for path in inside if _own_files(path)[0]]


def _own_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """A folder's own files of known suffixes, and the pictures that lie beside volumes."""
    files = sorted(path for path in folder.iterdir() if path.name[0] != "." and file_kind(path) and path.is_file())
    volumes = [path for path in files if file_kind(path) != "picture"]
    pictures = [path for path in files if file_kind(path) == "picture"]
    return (volumes, pictures) if volumes else (pictures, [])


def _candidates(folder: Path) -> list[Path]:
    """The files in a folder and below it that may be DICOM."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "__MACOSX")
        has_headers = any(name.lower().endswith(".mhd") for name in names)  # their voxels lie beside them
        for name in sorted(names):
            is_voxels = has_headers and name.lower().endswith((".raw", ".zraw"))
            if name[0] != "." and not is_voxels and not file_kind(name) and (path := Path(root, name)).is_file():
                found.append(path)
    return found


def _find_series(files: list[Path]) -> list[Any]:
    from .dicom.series import find_series

    return find_series(files)


def _named_series(files: list[Path]) -> tuple[list[Any], list[ScanFile]]:
    """Series of files that were named one by one, and files that are DICOM by their names alone.

    These are left to fail when they are read: other scans of the list can still be.
    """
    series = _find_series(files) if files else []
    taken = {file for one in series for file in one.files}
    left = [file for file in files if file not in taken]
    for file in left:
        if not file.name.lower().endswith(DICOM_SUFFIXES):
            raise ValueError(f"{printable(file)} is of no known format, expected {_KNOWN}; convert it.")
    return series, [ScanFile(case_name(file), file, "dicom", (file,), ".dcm") for file in left]


def _file_scans(files: list[Path], num_channels: int) -> list[ScanFile]:
    groups: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        groups[path.parent].append(path)
    scans = []
    for inside in groups.values():
        cases: dict[tuple[str, str], list[Path]] = defaultdict(list)
        has_channels = _has_channels(inside, num_channels)
        for path in inside:
            match = _CHANNEL.fullmatch(case_name(path))
            cases[match[1] if match and has_channels else case_name(path), label_suffix(path)].append(path)
        for (name, suffix), channels in cases.items():
            several = tuple(channels) if len(channels) > 1 else ()
            scans.append(ScanFile(name, channels[0], file_kind(channels[0]) or "", several, suffix))
    return scans


def _has_channels(files: list[Path], num_channels: int) -> bool:
    """Whether the numbers at the end of a folder's files are those of channels, rather than of frames or cases."""
    matches = [match for path in files if (match := _CHANNEL.fullmatch(case_name(path)))]
    numbers = {int(match[2]) for match in matches}
    if num_channels == 1:
        return numbers == {0} and len(matches) == len(files)
    if not numbers or max(numbers) >= num_channels:
        return False
    pictures = [path for path in files if file_kind(path) == "picture"]
    if numbers == {0} or not pictures:
        return True
    from .images import is_grey

    return all(is_grey(path) for path in pictures)


def _series_scans(series: list[Any], named: set[Path]) -> list[ScanFile]:
    """Scans of DICOM series: called after their folder, with a number where it holds several.

    A series of one file is called after it where it was named by itself, or lies beside others.
    """
    taken: set[Path] = set()
    kept: dict[Path, list[Any]] = defaultdict(list)
    for one in sorted(series, key=lambda one: -len(one.files)):
        # Of a folder and another inside, both named, the first has it all.
        if not taken.issuperset(files := {_real(file) for file in one.files}):
            taken |= files
            kept[_folder(one.files)].append(one)
    scans = []
    for folder, inside in kept.items():
        inside.sort(key=lambda one: (one.number is None, one.number or 0, one.uid, one.files))
        numbers = {one.number for one in inside}
        for count, one in enumerate(inside, start=1):
            name, path = folder.resolve().name or "scan", folder
            if len(one.files) == 1 and (len(inside) > 1 or one.files[0] in named):
                name, path = case_name(one.files[0]), one.files[0]
            elif len(inside) > 1:
                number = one.number if len(numbers) == len(inside) and None not in numbers else count
                name, path = f"{name}_series-{number}", one.files[0]
            scans.append(ScanFile(name, path, "dicom", tuple(one.files), ".dcm"))
    return scans


def _folder(files: Iterable[Path]) -> Path:
    """The innermost folder that holds them all."""
    parents = {file.parent for file in files}
    return parents.pop() if len(parents) == 1 else Path(os.path.commonpath([path.resolve() for path in parents]))
