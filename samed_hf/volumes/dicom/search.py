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

from ...utils.text import printable
from .headers import is_dicom, is_usable_uid, items, numbers, quiet, text
from .images import is_projection
from .kept_headers import read_header
from .kinds import CAPTURES, FOREIGN, LOCALIZER, NO_POSITION, count_of, is_image_class, kind_of
from .parts import KEYWORDS, ImageHeader, divide, split_stacks
from .phases import frame_names

__all__ = ["SeriesFiles", "find_series", "search_series"]

logger = logging.getLogger(__name__)

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
_SERIES = ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "Modality", "SeriesNumber")
_TEXTS = (*dict.fromkeys((*_UIDS, *_SERIES)), "SeriesDescription", "Rows", "Columns", *KEYWORDS)
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


@dataclass(frozen=True)
class SeriesFiles:
    """The files of one DICOM series, or of a part of it that is a scan of its own."""

    uid: str  # SeriesInstanceUID, empty if an anonymiser removed it
    files: tuple[Path, ...]  # sorted by path
    description: str  # SeriesDescription, may be empty
    modality: str  # e.g. "CT"
    number: int | None  # SeriesNumber
    study: str = ""  # StudyInstanceUID
    whole: tuple[Path, ...] = ()  # the files of the whole series, of which this may be a part
    part: str = ""  # name of the part, e.g. "echo-2"; empty for a whole series
    is_volume: bool = True  # whether its images have positions, unlike a radiograph, a photograph or a cine
    frames: int = 1  # of a multi-frame file
    lacks: str = ""  # why no DICOM segmentation can refer to it
    notes: tuple[str, ...] = ()


def find_series(paths: str | Path | Iterable[str | Path]) -> list[SeriesFiles]:
    """Find the DICOM series among files and directories by their headers.

    Directories are searched recursively, except hidden ones and hidden files. File names and preambles don't matter.
    Files of other kinds and DICOM objects that are not images (DICOMDIR, reports, segmentations, presentation states,
    doses) are skipped; so are localizers if there are other images, and secondary captures and others without a
    position beside a volume. Their number is logged at level DEBUG. Echoes, phases and other images at the same
    positions are series of their own, and so is each image without a position. Without SeriesInstanceUID, images are
    grouped by directory, number, description, size and direction. A damaged DICOM file without readable UIDs is
    assigned to the only series in its directory, which then fails on reading and names the file. If the directory
    holds no series or several, its damaged files form a series without a UID.

    Args:
        paths: Files and directories.

    Returns:
        The series, sorted by study, series number and UID; empty if there is no DICOM image.

    Raises:
        FileNotFoundError: If a path does not exist.
    """
    found, skipped = search_series(paths)
    if skipped:
        counts = Counter(skipped.values())
        logger.debug("skipped     %s", ", ".join(count_of(kind, count) for kind, count in counts.items()))
    return found


def search_series(paths: str | Path | Iterable[str | Path]) -> tuple[list[SeriesFiles], dict[Path, str]]:
    """[`find_series`] that also returns the skipped files with their kinds, for [`~.kinds.count_of`]."""
    images: dict[Path, ImageHeader] = {}
    damaged: list[Path] = []
    skipped: dict[Path, str] = {}
    with quiet():
        for file in dict.fromkeys(_walk([paths] if isinstance(paths, str | Path) else paths)):
            try:
                found = _image_header(file)
            except (ValueError, OSError):
                damaged.append(file)  # not skipped: read_series names the file and the reason
                continue
            if isinstance(found, str):
                skipped[file] = found
            else:
                images[file] = found
    images = _without_others(images, skipped)
    result = [part for files in _group(images, damaged) for part in _series(files, images)]
    result.sort(
        key=lambda one: (one.study, one.number is None, one.number or 0, one.uid, len(one.part), one.part, one.files)
    )
    return result, dict(sorted(skipped.items()))


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


def _image_header(file: Path) -> ImageHeader | str:
    """Return the header of an image, or the kind of another file; a `ValueError` or `OSError` for a damaged one."""
    if not is_dicom(file):
        if file.suffix.lower() in (".dcm", ".ima"):
            raise ValueError(f"{printable(file)} is not DICOM.")
        return FOREIGN
    header = read_header(file, searching=True)
    meta = getattr(header, "file_meta", Dataset())
    uid = text(header, "SOPClassUID") or text(meta, "MediaStorageSOPClassUID")
    is_image = is_image_class(uid)
    has_size = "Rows" in header and "Columns" in header
    if is_image and not has_size:
        raise ValueError(f"{printable(file)} has no size of an image.")  # cut short within its header
    if is_image or (is_image is None and has_size):
        return _kept(header, file)
    if not uid:
        raise ValueError(f"{printable(file)} has no SOPClassUID.")
    return kind_of(uid)


def _kept(header: Dataset, file: Path) -> ImageHeader:
    values = {keyword: found for keyword in _TEXTS if (found := text(header, keyword))}
    frames = text(header, "NumberOfFrames")
    groups = [item for keyword in _GROUPS for item in items(header, keyword, file)[:1]]
    return ImageHeader(
        file=file,
        values=values,
        position=_numbers(header, "ImagePositionPatient", 3, file),
        directions=_numbers(header, "ImageOrientationPatient", 6, file),
        is_slice=not is_projection(header, file),
        has_position="ImagePositionPatient" in header or any("PlanePositionSequence" in item for item in groups),
        frames=int(frames) if re.fullmatch(r"[0-9]{1,9}", frames) else 1,
    )


def _numbers(header: Dataset, keyword: str, count: int, file: Path) -> tuple[float, ...] | None:
    try:
        return numbers(header, keyword, count, file)
    except ValueError:
        return None


def _without_others(images: dict[Path, ImageHeader], skipped: dict[Path, str]) -> dict[Path, ImageHeader]:
    """Return the images to segment: those that are no localizers, and beside volumes no screenshots, if there are any.

    Images of radiography, ultrasound, endoscopy and so on have no position, and are scans beside volumes too.
    """
    slices = {file for file, one in images.items() if "LOCALIZER" not in one.text("ImageType").upper().split("\\")}
    kept = {file: one for file, one in images.items() if file in slices or not slices}
    skipped |= dict.fromkeys(images.keys() - kept, LOCALIZER)
    in_volumes = {file for file, one in kept.items() if one.is_slice and one.has_position}
    if in_volumes:
        others = {file: one for file, one in kept.items() if file not in in_volumes}
        screenshots = {file for file, one in others.items() if one.text("SOPClassUID") in CAPTURES}
        skipped |= dict.fromkeys(screenshots, NO_POSITION)
        kept = {file: one for file, one in kept.items() if file not in screenshots}
    return kept


def _group(images: dict[Path, ImageHeader], damaged: list[Path]) -> Iterable[list[Path]]:
    """Group images by series; a damaged file belongs to the only series of its directory, or to one of its own."""
    by_uid: dict[tuple[str, ...], list[ImageHeader]] = defaultdict(list)
    for one in images.values():
        by_uid[tuple(map(one.text, _SERIES))].append(one)
    series: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    keys: dict[Path, set[tuple[str, ...]]] = defaultdict(set)
    for key, group in by_uid.items():
        is_anonymous = _is_anonymous(group)
        for one in group:
            own = (*key, one.text("SeriesDescription"), str(one.file.parent)) if is_anonymous else key
            if not one.is_slice:
                own += (str(one.file),)  # a scan of its own
            series[own].append(one.file)
            keys[one.file.parent].add(own)
    for file in damaged:
        near = keys[file.parent]
        series[next(iter(near)) if len(near) == 1 else (f"{file.parent} (damaged)",)].append(file)
    return series.values()


def _is_anonymous(group: list[ImageHeader]) -> bool:
    """Whether UIDs don't tell series apart: they are missing, or the same for all images, which are no copies."""
    uids = {one.text("SOPInstanceUID") for one in group}
    is_constant = len(group) > 1 and len(uids) == 1 and uids != {""} and not _are_copies(group)
    return is_constant or not group[0].text("SeriesInstanceUID")


def _are_copies(group: list[ImageHeader]) -> bool:
    return len({(one.position, one.text("InstanceNumber")) for one in group}) == 1


def _series(files: list[Path], images: dict[Path, ImageHeader]) -> Iterator[SeriesFiles]:
    """Yield the scans of a series: its stacks, and of each stack the echoes, phases and so on."""
    headers = [images[file] for file in files if file in images]
    if len(headers) < len(files):
        yield _scan(headers, files, files)
        return
    stacks = split_stacks(headers)
    if min(map(len, stacks)) == 1 and not _is_anonymous(headers):
        stacks = [headers]  # read_series names the image that doesn't belong to it
    for index, stack in enumerate(stacks, 1):
        why, parts = divide(stack)
        for name, part in parts.items():
            names = [f"stack-{index}"] if len(stacks) > 1 else []
            notes = [f"one of {len(stacks)} stacks of different sizes or directions in a series"] if names else []
            if name:
                names.append(name)
                value = f": {found}" if (found := part[0].text(why)) else ""
                notes.append(f"one of {len(parts)} scans at the same positions in a series, told apart by {why}{value}")
            yield _scan(part, [one.file for one in part], files, "_".join(names), tuple(notes))


def _scan(
    headers: list[ImageHeader], files: list[Path], whole: list[Path], part: str = "", notes: tuple[str, ...] = ()
) -> SeriesFiles:
    first = headers[0] if headers else ImageHeader(files[0], {}, None, None)
    number = first.text("SeriesNumber")
    if headers and _is_anonymous(headers) and len(headers) > 1:
        notes += ("grouped by directory, number, description, size and direction, as no UID tells its series",)
    lacks = _lacks(headers)
    if not lacks and first.is_slice and first.frames > 1 and (count := len(frame_names(files))) > 1:
        lacks = f"it holds {count} images at each position, as of time points or echoes"
    if lacks:
        notes += (f"no DICOM segmentation can refer to it, as {lacks}",)
    return SeriesFiles(
        uid=first.text("SeriesInstanceUID"),
        files=tuple(sorted(files)),
        description=first.text("SeriesDescription"),
        modality=first.text("Modality"),
        number=int(number) if re.fullmatch(r"-?[0-9]{1,12}", number) else None,
        study=first.text("StudyInstanceUID"),
        whole=tuple(sorted(whole)),
        part=part,
        is_volume=first.is_slice,
        frames=first.frames,
        lacks=lacks,
        notes=notes,
    )


def _lacks(headers: list[ImageHeader]) -> str:
    """Say why no DICOM segmentation can refer to a scan; empty if one can."""
    for keyword in _UIDS:
        if any(not is_usable_uid(one.text(keyword)) for one in headers):
            return f"{keyword} is missing or invalid"
    uids = {one.text("SOPInstanceUID") for one in headers}
    if len(uids) < len({(one.position, one.file if one.position is None else "") for one in headers}):
        return "different images have one SOPInstanceUID"
    if len(headers) > 1 and any(one.frames > 1 for one in headers):
        return "it consists of several multi-frame files"
    return ""
