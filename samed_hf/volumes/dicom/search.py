"""Search for the DICOM series of a directory."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
_NO_POSITION = ("image without a position", "images without a position")


@dataclass(frozen=True)
class SeriesFiles:
    """The files of one DICOM series."""

    uid: str  # SeriesInstanceUID, empty if an anonymiser removed it
    files: tuple[Path, ...]  # sorted by path
    description: str  # SeriesDescription, may be empty
    modality: str  # e.g. "CT"
    number: int | None  # SeriesNumber
    study: str = ""  # StudyInstanceUID


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
        FileNotFoundError: If a path does not exist.
    """
    images: dict[Path, Dataset] = {}
    damaged: list[Path] = []
    skipped: Counter[tuple[str, str]] = Counter()
    with quiet():
        for file in dict.fromkeys(_walk([paths] if isinstance(paths, str | Path) else paths)):
            try:
                found = _image_header(file)
            except (ValueError, OSError):
                damaged.append(file)  # not skipped: read_series names the file and the reason
                continue
            if isinstance(found, Dataset):
                images[file] = found
            else:
                skipped[found] += 1
        for words, is_kept in ((_LOCALIZER, _is_no_localizer), (_NO_POSITION, _has_position)):
            if kept := {file: header for file, header in images.items() if is_kept(header)}:
                skipped[words] += len(images) - len(kept)
                images = kept
        result = [_series(files, images) for files in _group(images, damaged)]
    counts = ((words, skipped[words]) for words in (_FOREIGN, _OTHER, _LOCALIZER, _NO_POSITION))
    if parts := [f"{count} {words[count > 1]}" for words, count in counts if count]:
        logger.debug("skipped     %s", ", ".join(parts))
    return sorted(result, key=lambda one: (one.study, one.number is None, one.number or 0, one.uid, one.files))


def _walk(paths: Iterable[str | Path]) -> Iterator[Path]:
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(
                f"{printable(path)} does not exist, expected a DICOM file or a directory; check the path."
            )
        if path.is_file():
            yield path
        for root, directories, files in os.walk(path):
            directories[:] = sorted(name for name in directories if not name.startswith(".") and name != "__MACOSX")
            for name in sorted(files):
                if not name.startswith(".") and (file := Path(root, name)).is_file():
                    yield file


def _image_header(file: Path) -> Dataset | tuple[str, str]:
    """Return the header of an image, or why a file is skipped; a `ValueError` or `OSError` for a damaged one."""
    if not is_dicom(file):
        if file.suffix.lower() in (".dcm", ".ima"):
            raise ValueError(f"{printable(file)} is not DICOM.")
        return _FOREIGN
    header = read_file(file, tags=_TAGS)
    name = UID(text(header, "SOPClassUID")).name
    has_pixels = "Rows" in header and "Columns" in header
    if "Image Storage" in name or (has_pixels and (not name or name.startswith(("1.", "2.")))):
        return header
    if not name:
        raise ValueError(f"{printable(file)} has no SOPClassUID.")
    return _OTHER


def _is_no_localizer(header: Dataset) -> bool:
    return "LOCALIZER" not in text(header, "ImageType").upper().split("\\")


def _has_position(header: Dataset) -> bool:
    is_enhanced = UID(text(header, "SOPClassUID")).name.startswith(("Enhanced", "Legacy Converted"))
    return is_enhanced or "ImagePositionPatient" in header or text(header, "NumberOfFrames") not in ("", "0", "1")


def _group(images: dict[Path, Dataset], damaged: list[Path]) -> Iterable[list[Path]]:
    """Group images by series; a damaged file belongs to the only series of its directory, or to one of its own."""
    series: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    keys: dict[Path, set[tuple[str, str, str]]] = defaultdict(set)
    for file, header in images.items():
        uid = text(header, "SeriesInstanceUID")
        key = text(header, "StudyInstanceUID"), uid, "" if uid else str(file.parent)
        series[key].append(file)
        keys[file.parent].add(key)
    for file in damaged:
        near = keys[file.parent]
        series[next(iter(near)) if len(near) == 1 else ("", "", f"{file.parent} (damaged)")].append(file)
    return series.values()


def _series(files: list[Path], images: dict[Path, Dataset]) -> SeriesFiles:
    first = images.get(files[0], Dataset())
    number = text(first, "SeriesNumber")
    return SeriesFiles(
        uid=text(first, "SeriesInstanceUID"),
        files=tuple(sorted(files)),
        description=text(first, "SeriesDescription"),
        modality=text(first, "Modality"),
        number=int(number) if re.fullmatch(r"-?[0-9]{1,12}", number) else None,
        study=text(first, "StudyInstanceUID"),
    )
