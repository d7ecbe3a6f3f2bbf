"""Search of one directory, of which a part may be unreadable."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.text import join_or, printable
from .dicom.kinds import count_of
from .registry import FORMATS, file_kind

if TYPE_CHECKING:
    from .dicom.search import SeriesFiles

__all__ = ["KNOWN_FORMATS", "find_series", "left_out", "search_directory"]

KNOWN_FORMATS = join_or(list(dict.fromkeys(form.name for form in FORMATS)))
_SCREENSHOT = "an image{s} beside scans, taken for screenshots"
_HEADER_SUFFIXES = (".mhd", ".nhdr")
_VOXEL_SUFFIXES = (".raw", ".zraw", ".raw.gz")  # of the files that these headers refer to


def search_directory(
    directory: Path, unreadable: dict[Path, str]
) -> tuple[list[Path], list[SeriesFiles], dict[Path, str]]:
    """Return files of registered formats, DICOM series, and the kinds of skipped files."""
    own, screenshots = _own_files(directory)
    series, skipped = find_series(_dicom_candidates(directory, unreadable))
    if own and file_kind(own[0]) == "image" and any(one.is_volume for one in series):
        own, screenshots = [], own
    if not own and not series:
        for subdirectory in _subdirectories(directory):
            files, images = _own_files_below(subdirectory, unreadable)
            own += files
            screenshots += images
    skipped |= dict.fromkeys(screenshots, _SCREENSHOT)
    if not own and not series:
        kinds = Counter(skipped.values())
        others = f"; it holds {', '.join(count_of(kind, kinds[kind]) for kind in sorted(kinds))}" if skipped else ""
        raise FileNotFoundError(
            f"{printable(directory)} holds no scan, expected {KNOWN_FORMATS}{others}; check the directory."
        )
    return own, series, skipped


def _subdirectories(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_dir() and path.name[0] != ".")


def _own_files(directory: Path) -> tuple[list[Path], list[Path]]:
    """Return a directory's own files of registered formats, and the images beside volumes.

    Among them are links to nowhere, which fail when they are read.
    """
    visible = (path for path in directory.iterdir() if path.name[0] != "." and file_kind(path))
    files = sorted(path for path in visible if path.is_file() or not path.exists())
    volumes = [path for path in files if file_kind(path) != "image"]
    images = [path for path in files if file_kind(path) == "image"]
    return (volumes, images) if volumes else (images, [])


def _own_files_below(subdirectory: Path, unreadable: dict[Path, str]) -> tuple[list[Path], list[Path]]:
    """[`_own_files`] of a subdirectory, whose error doesn't stop the search."""
    try:
        return _own_files(subdirectory)
    except OSError as error:
        unreadable[subdirectory] = str(error)
        return [], []


def _dicom_candidates(directory: Path, unreadable: dict[Path, str]) -> list[Path]:
    """Return the files in a directory and below it that may be DICOM."""
    found = []

    def skip(error: OSError) -> None:
        unreadable[Path(error.filename)] = str(error)

    for root, directories, names in os.walk(directory, onerror=skip):
        directories[:] = sorted(name for name in directories if name[0] != "." and name != "__MACOSX")
        has_headers = any(name.lower().endswith(_HEADER_SUFFIXES) for name in names)
        for name in sorted(names):
            is_voxels = has_headers and name.lower().endswith(_VOXEL_SUFFIXES)
            try:
                if name[0] != "." and not is_voxels and not file_kind(name) and (path := Path(root, name)).is_file():
                    found.append(path)
            except OSError as error:  # the directory can be listed, its files can't be opened
                unreadable[Path(root)] = str(error)
    return found


def find_series(files: list[Path]) -> tuple[list[SeriesFiles], dict[Path, str]]:
    """Return the DICOM series of files, and the kinds of skipped files."""
    if not files:
        return [], {}
    from .dicom.search import search_series

    return search_series(files)


def left_out(directory: Path, unreadable: dict[Path, str]) -> list[str]:
    """Return a note if subdirectories hold scans, which are not searched for."""
    found = [one for one in _subdirectories(directory) if not one.is_symlink() and _own_files_below(one, unreadable)[0]]
    if not found:
        return []
    example = f"e.g. {printable(found[0].name)}: name them"
    return [f"left out {len(found)} directories with scans in {printable(directory)}, {example}"]
