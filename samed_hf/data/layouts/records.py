"""What a layout finds, an image and a label in files for each case, made into a data set."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from ...utils.text import name_some
from ...volumes.images import is_image_file
from ...volumes.registry import IMAGE_SUFFIXES, VOLUME_SUFFIXES, suffix_of
from ..dataset import CaseDataset, CaseSource
from ..dicom_source import DicomSource, read_regions, region_labels
from ..labels import Labels, find_labels_file, labels_of_names
from ..sources import ImageMaskSource, ImageSource, MaskSource, ScanSource, describe_images, require_files
from ..splits import shared_patients
from .folders import SLICE_NAME, find_mask_labels

__all__ = ["Found", "Options", "Record", "build_dataset", "name_some", "natural", "pattern", "split_names"]

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Record:
    """The files of a case; of 2-D images, those of one slice."""

    name: str
    images: tuple[Path, ...]  # one for each channel
    label: Path | tuple[Path, ...] | Mapping[str, Path]  # a label map, or a mask for each class
    split: str = "train"
    group: str = ""  # the patient, if there may be other cases of the same
    order: float = 0  # of a slice among those of its case; then by name


@dataclass(frozen=True)
class Options:
    """The arguments of [`read_data`] that a layout of files needs."""

    label_names: Sequence[str] | None = None
    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    case_column: str | None = None
    fold: int | None = None
    tolerance: float = 0.1
    strict: bool = True


@dataclass
class Found:
    """The cases of a layout, and what to say about them."""

    layout: str
    root: Path
    records: list[Record]
    explanation: str
    channels: tuple[str, ...] = ("image",)
    labels: Labels | None = None  # as the layout's own files name them
    notes: list[str] = field(default_factory=list)


def build_dataset(found: Found, options: Options) -> CaseDataset:
    """Check the records, find the labels and make a source of each case.

    Raises:
        ValueError, FileNotFoundError: no record, 2-D images beside scans, a case twice, or files that don't exist.
    """
    records, root = found.records, found.root
    is_2d = _is_2d(found)
    about = {"name": (root if root.is_dir() else root.absolute().parent).resolve().name}
    data = CaseDataset(found.layout, root, {}, {}, is_2d=is_2d, about=about, notes=list(found.notes))
    data.explanation, data.channel_names = found.explanation, found.channels
    if is_2d:
        describe_images(data, (record.images[0] for record in records))
    named = labels_of_names(options.label_names) if options.label_names else found.labels
    named = named or find_labels_file(root if root.is_dir() else root.parent)
    maps = [path for record in records for path in _map_files(record)]
    as_colors = False
    if any(isinstance(record.label, Mapping) for record in records):
        labels = _class_labels(records, named, data.notes)
    elif any(map(_may_be_dicom, maps)):
        labels = region_labels(root, read_regions(maps, options.strict, data.notes), named, data.notes)
    else:
        labels, as_colors = find_mask_labels(named, maps, is_2d, root, data.notes)
    data.id2label = labels.id2label
    for split in _SPLITS:
        cases: dict[str, list[Record]] = {}
        for record in records:
            if record.split == split:
                slice_of = SLICE_NAME.match(record.name) if is_2d else None
                cases.setdefault(slice_of["case"] if slice_of else record.name, []).append(record)
        for same in cases.values():
            same.sort(key=lambda record: (record.order, natural(record.images[0])))
        data.add_cases(split, {name: _source(same, labels, as_colors, data, options) for name, same in cases.items()})
    cases_of = {(record.group, record.name) for record in records}
    patients = Counter(group for group, _ in cases_of)
    data.groups = {record.name: record.group for record in records if record.group and patients[record.group] > 1}
    data.split_notes = shared_patients(data)
    data.notes += data.split_notes
    if options.strict:
        require_files(root, (file for source in data.sources.values() for file in source.files()))
    return data


def split_names(text: str | None) -> list[str]:
    """The names in an argument such as "t1,flair"."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def pattern(root: Path, records: Sequence[Record]) -> str:
    """Describe images and labels by what their names have in common, e.g. "image */ct.nii.gz, label */seg.nii.gz"."""
    images = zip(*(record.images for record in records), strict=True)
    labels = [record.label for record in records]
    parts = [f"image {_common(root, files)}" for files in images]
    if masks := [path for label in labels if isinstance(label, Mapping) for path in label.values()]:
        names = {path.parent.name for path in masks}
        where = f"*/{names.pop()}" if len(names) == 1 else f"{masks[0].parent.parent.name}/*"
        return ", ".join([*parts, f"a mask for each class {where}/*{suffix_of(masks[0])}"])
    return ", ".join([*parts, f"label {_common(root, [label for label in labels if isinstance(label, Path)])}"])


def _common(root: Path, files: Sequence[Path]) -> str:
    """What paths end in, and a star for what differs."""
    if len(set(files)) == 1:
        return files[0].name
    letters = zip(*(reversed(os.path.relpath(file, root)) for file in files), strict=False)
    end = "".join(one[0] for one in takewhile(lambda one: len(set(one)) == 1, letters))[::-1]
    return "*" + (end[end.index("/") :] if "/" in end else end.lstrip("0123456789"))


def natural(text: object) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them: 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", str(text))]


def _is_2d(found: Found) -> bool:
    if not found.records:
        raise FileNotFoundError(f"{found.root} ({found.layout}) has no case with an image and a label.")
    by_kind = {is_image_file(record.images[0]): record.images[0] for record in found.records}
    if len(by_kind) > 1:
        raise ValueError(
            f"{found.root} has 2-D images ({by_kind[True]}) and scans ({by_kind[False]}): expected one kind; list the "
            "cases to use in a cases.csv."
        )
    for what, files in (
        ("image", [record.images for record in found.records]),
        ("case", [] if True in by_kind else [record.name for record in found.records]),
    ):
        if twice := [one for one, count in Counter(files).items() if count > 1]:
            name = twice[0] if what == "case" else twice[0][0]
            raise ValueError(f"{found.root} ({found.layout}) has the {what} {name} twice: expected each once.")
    return True in by_kind


def _map_files(record: Record) -> tuple[Path, ...]:
    """The files of a label map."""
    label = record.label
    return () if isinstance(label, Mapping) else (label,) if isinstance(label, Path) else label


def _class_labels(records: Sequence[Record], named: Labels | None, notes: list[str]) -> Labels:
    """The classes that have mask files, or those named; files that are missing or not used are added to the notes."""
    if odd := [path for record in records for path in _map_files(record)]:
        raise ValueError(f"{odd[0]} is a label map, but other cases have a mask for each class: expected one kind.")
    counts = Counter(name for record in records if isinstance(record.label, Mapping) for name in record.label)
    labels = named or labels_of_names(sorted(counts))
    classes = list(labels.id2label.values())[1:]
    if not set(classes) & set(counts):
        raise ValueError(f"No mask file is called as a label ({name_some(classes)}): found {name_some(counts)}.")
    if unused := sorted(set(counts) - set(classes)):
        notes.append(f"{len(unused)} classes have masks but no label, and are not used: {name_some(unused)}")
    if missing := [f"{name} in {len(records) - counts[name]}" for name in classes if counts[name] < len(records)]:
        notes.append(f"no mask file, taken as absent, in some of {len(records)} cases: {name_some(missing, 10)}")
    return Labels(labels.id2label, tuple(range(len(labels.id2label))))


def _may_be_dicom(path: Path) -> bool:
    return suffix_of(path) not in (*VOLUME_SUFFIXES, *IMAGE_SUFFIXES)


def _source(
    records: Sequence[Record], labels: Labels, as_colors: bool, data: CaseDataset, options: Options
) -> CaseSource:
    """The source of a case, whose records are its slices if they are 2-D."""
    first, count = records[0], len(data.channel_names)
    classes = list(labels.id2label.values())[1:]
    if data.is_2d:
        if len(first.images) > 1:
            raise ValueError(f"{first.images[0]} is a 2-D image: expected one image for each case.")
        images = tuple(record.images[0] for record in records)
        if not isinstance(first.label, Mapping):
            maps = tuple(_map_files(record) for record in records)
            return ImageSource(first.name, images, maps, count, labels.values, as_colors)
        named = [record.label for record in records if isinstance(record.label, Mapping)]
        numbers = tuple(tuple(value for value, name in enumerate(classes, 1) if name in one) for one in named)
        paths = tuple(tuple(one[name] for name in classes if name in one) for one in named)
        return ImageMaskSource(first.name, images, paths, count, labels.values, numbers=numbers)
    if not isinstance(first.label, Mapping):
        if _may_be_dicom(label := _map_files(first)[0]):
            names = tuple(classes)
            return DicomSource(first.name, first.images, label, 1, labels.values, options.tolerance, names)
        return ScanSource(first.name, first.images, _map_files(first)[0], count, labels.values, options.tolerance)
    masks = tuple(first.label.get(name) for name in classes)
    directory = next(iter(first.label.values())).parent
    return MaskSource(first.name, first.images, directory, count, labels.values, options.tolerance, masks)
