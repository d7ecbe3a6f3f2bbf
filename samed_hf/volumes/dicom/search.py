"""The DICOM series in a directory."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydicom import Dataset
from pydicom.uid import UID

from ...utils.text import printable
from .headers import is_dicom, quiet, read_file, text

__all__ = ["SeriesFiles", "find_series"]

logger = logging.getLogger(__name__)

_TAGS = (
    *("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality"),
    *("ImageType", "NumberOfFrames", "Rows", "Columns", "ImagePositionPatient"),
)
# Files that are skipped, in the order of the message: singular and plural.
_FOREIGN = ("file that is not DICOM", "files that are not DICOM")
_OTHER = ("DICOM object that is not an image", "DICOM objects that are not images")
_LOCALIZER = ("localizer", "localizers")
_PLACELESS = ("image without a position", "images without a position")


@dataclass(frozen=True)
class SeriesFiles:
    """The files of one DICOM series.

    Attributes:
        uid: SeriesInstanceUID, empty where an anonymiser removed it.
        files: Its image files, sorted by path.
        description: SeriesDescription, empty where there is none.
        modality: E.g. "CT".
        number: SeriesNumber.
        study: StudyInstanceUID.
    """

    uid: str
    files: tuple[Path, ...]
    description: str
    modality: str
    number: int | None
    study: str = ""


class _Image(NamedTuple):
    path: Path
    header: Dataset

    @property
    def is_localizer(self) -> bool:
        return "LOCALIZER" in text(self.header, "ImageType").upper().split("\\")

    @property
    def has_place(self) -> bool:
        frames = text(self.header, "NumberOfFrames")
        return "ImagePositionPatient" in self.header or frames not in ("", "0", "1") or _is_enhanced(self.header)

    @property
    def series(self) -> tuple[str, str, str]:
        uid = text(self.header, "SeriesInstanceUID")
        return text(self.header, "StudyInstanceUID"), uid, "" if uid else str(self.path.parent)


@dataclass
class _Found:
    images: list[_Image] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)


def find_series(paths: str | Path | Iterable[str | Path]) -> list[SeriesFiles]:
    """Find the DICOM series among files and directories by their headers.

    Directories are searched recursively, except hidden ones and hidden files. File names and preambles don't matter.
    Files of other kinds and DICOM objects that are not images (DICOMDIR, reports, segmentations, presentation states,
    doses) are skipped; so are localizers and images without a position, such as scanned documents, if there are other
    images. Their number is logged at level DEBUG. A damaged DICOM file without readable UIDs is assigned to the only
    series in its directory, which then fails on reading and names the file. If the directory holds no series or
    several, its damaged files form a series without a UID.

    Args:
        paths: Files and directories.

    Returns:
        The series, sorted by study, series number and UID; empty if there is no DICOM image.

    Raises:
        FileNotFoundError: A path does not exist.
    """
    with quiet():
        found = _Found()
        for file in _walk([paths] if isinstance(paths, str | Path) else paths):
            _sort_in(file, found)
        series = _group(_worth_reading(found))
        _assign_damaged(found.damaged, series)
        result = sorted((_series(images, extra) for images, extra in series.values()), key=_order)
    counts = ((words, found.skipped[words]) for words in (_FOREIGN, _OTHER, _LOCALIZER, _PLACELESS))
    parts = [f"{count} {words[count > 1]}" for words, count in counts if count]
    if parts:
        logger.debug("skipped     %s", ", ".join(parts))
    return result


def _walk(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Yield every file once, in a fixed order."""
    seen: set[Path] = set()
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(
                f"{printable(path)} does not exist, expected a DICOM file or a directory; check the path."
            )
        for file in _files_in(path) if path.is_dir() else [path]:
            if file not in seen and file.is_file():
                seen.add(file)
                yield file


def _files_in(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def _sort_in(file: Path, found: _Found) -> None:
    """Read a file's header and put it where it belongs."""
    try:
        if not is_dicom(file):
            if file.suffix.lower() in (".dcm", ".ima"):
                found.damaged.append(file)
            else:
                found.skipped[_FOREIGN] += 1
            return
        header = read_file(file, tags=_TAGS)
    except (ValueError, OSError):
        # Not passed over: read_series names the file and the reason.
        found.damaged.append(file)
        return
    name = UID(text(header, "SOPClassUID")).name
    has_pixels = "Rows" in header and "Columns" in header
    if "Image Storage" in name or (has_pixels and name.startswith(("1.", "2."))) or (has_pixels and not name):
        found.images.append(_Image(file, header))
    elif name:
        found.skipped[_OTHER] += 1
    else:
        found.damaged.append(file)


def _worth_reading(found: _Found) -> list[_Image]:
    """The images without those that only help to find one's way, unless there are no others."""
    images = found.images
    for words, is_wanted in (
        (_LOCALIZER, lambda image: not image.is_localizer),
        (_PLACELESS, lambda image: image.has_place),
    ):
        wanted = [image for image in images if is_wanted(image)]
        if wanted:
            found.skipped[words] += len(images) - len(wanted)
            images = wanted
    return images


_Series = dict[tuple[str, str, str], tuple[list[_Image], list[Path]]]


def _group(images: list[_Image]) -> _Series:
    series: _Series = defaultdict(lambda: ([], []))
    for image in images:
        series[image.series][0].append(image)
    return series


def _assign_damaged(damaged: list[Path], series: _Series) -> None:
    """Add damaged files to the one series of their folder, or else make one of them."""
    folders: dict[Path, list[tuple[str, str, str]]] = defaultdict(list)
    for key, (images, _) in series.items():
        for folder in {image.path.parent for image in images}:
            folders[folder].append(key)
    for file in damaged:
        near = folders[file.parent]
        series[near[0] if len(near) == 1 else ("", "", f"{file.parent} (damaged)")][1].append(file)


def _series(images: list[_Image], damaged: list[Path]) -> SeriesFiles:
    first = images[0].header if images else Dataset()
    number = text(first, "SeriesNumber")
    return SeriesFiles(
        uid=text(first, "SeriesInstanceUID"),
        files=tuple(sorted([*(image.path for image in images), *damaged])),
        description=text(first, "SeriesDescription"),
        modality=text(first, "Modality"),
        number=int(number) if re.fullmatch(r"-?[0-9]{1,12}", number) else None,
        study=text(first, "StudyInstanceUID"),
    )


def _order(series: SeriesFiles) -> tuple:
    return series.study, series.number is None, series.number or 0, series.uid, series.files


def _is_enhanced(header: Dataset) -> bool:
    return UID(text(header, "SOPClassUID")).name.startswith(("Enhanced", "Legacy Converted"))
