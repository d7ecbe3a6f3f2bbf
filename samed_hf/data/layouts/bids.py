"""BIDS: raw images of subjects, label maps in derivatives or beside them, names of labels in dseg.tsv."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...volumes.registry import VOLUME_SUFFIXES, case_name, suffix_of
from ..dataset import CaseDataset
from ..labels import Labels, labels_from_mapping, read_text
from .listing import apply_splits
from .records import Found, Options, Record, build_dataset, name_some, split_names

__all__ = ["is_bids", "read_bids"]

_MANUAL = re.compile(r"[A-Za-z]+-(manual|auto)")  # x_T2w_lesion-manual, as the Spinal Cord Toolbox and ivadomed write
_LABELS = ("dseg", "seg", "mask", "msk", "label", "roi")
_DERIVED = ("desc", "label", "space", "seg", "atlas", "res", "den", "hemi")  # entities that don't name an image


@dataclass(frozen=True)
class _File:
    """A file and what its name says: `sub-01_ses-2_T1w` has the entities sub and ses and the suffix T1w."""

    path: Path
    entities: Mapping[str, str]
    suffix: str
    words: tuple[str, ...]  # between the entities, e.g. T1w of sub-01_T1w_label-lesion_mask

    def matches(self, wanted: str, root: Path) -> bool:
        """Whether a name is the suffix, an entity (`desc-manual`), its value or a directory of the file."""
        entities = (f"{key}-{value}" for key, value in self.entities.items())
        return wanted in (self.suffix, *self.words, *self.entities.values(), *entities, *self._directories(root))

    def _directories(self, root: Path) -> tuple[str, ...]:
        return self.path.relative_to(root).parts[:-1]


def is_bids(root: Path) -> bool:
    """Return whether a directory has subjects and one of the files or directories that BIDS requires."""
    marks = ("dataset_description.json", "participants.tsv", "derivatives")
    return any(path.is_dir() for path in root.glob("sub-*")) and any((root / mark).exists() for mark in marks)


def read_bids(root: Path, options: Options) -> CaseDataset:
    """Describe a BIDS directory; see [`read_data`] for the arguments.

    The label of an image has its entities (subject, session, run, …), perhaps fewer. Of several kinds of images
    `image_column` names those to use ("T1w", or "T1w,FLAIR" for two channels), of several kinds of labels
    `label_column` one: a suffix, an entity such as "desc-manual", or a directory of derivatives.

    Raises:
        ValueError, FileNotFoundError: several images or labels that could be meant, or none.
    """
    files = [_parse(path) for path in sorted(root.rglob("sub-*")) if suffix_of(path) in VOLUME_SUFFIXES]
    labels = [file for file in files if file.suffix in _LABELS or _MANUAL.fullmatch(file.suffix)]
    images = [file for file in files if file not in labels and "derivatives" not in file._directories(root)]
    images = images or [file for file in files if file not in labels]
    kinds = dict.fromkeys([*_LABELS, *(file.suffix for file in labels)])
    kind = next((kind for kind in kinds if any(file.suffix == kind for file in labels)), "")
    if options.label_column:
        labels = [file for file in labels if file.matches(options.label_column, root)]
        others = []
    else:  # dseg rather than masks, e.g. of the brain
        if kind not in _LABELS and len(kinds) > len(_LABELS) + 1:
            several = ", ".join(name for name in kinds if name not in _LABELS)
            raise ValueError(f"{root} (BIDS) has the labels {several}: expected one; choose by --label_column NAME.")
        others = [file.path.relative_to(root) for file in labels if file.suffix != kind]
        labels = [file for file in labels if file.suffix == kind]
    if not labels:
        wanted = options.label_column or "derivatives/NAME/…_dseg.nii.gz"
        raise FileNotFoundError(f"{root} (BIDS) has no label map: expected {wanted}, or list the cases in cases.csv.")
    drawn = {label.path.parent.name for label in labels}  # e.g. anat, whose images they are rather than those of func
    images = [image for image in images if image.path.parent.name in drawn] or images
    channels = tuple(_suffixes(images, labels, options, root))
    notes = [f"{len(others)} files beside the label maps *_{kind} not used: {name_some(others)}"] if others else []
    matched = _match(images, labels, channels, root)
    records = [_record(found, masks, len(channels)) for found, masks in matched]
    used = {path for record in records for path in record.images}
    if spare := [image.path for image in images if image.path not in used and image.suffix in channels]:
        some = name_some(path.relative_to(root) for path in spare)
        notes.append(f"{len(spare)} images without a label, not used: {some}")
    named, tables = _names(root, labels)
    subjects = len({record.group for record in records})
    shown = ", ".join(f"*_{channel}" for channel in channels)
    label = "/".join((*labels[0]._directories(root)[:2], f"*_{labels[0].suffix}"))
    explanation = (
        f"BIDS: {subjects} subjects, image {shown}, label {label}, names of "
        f"{tables[0].relative_to(root) if tables else 'no dseg.tsv'}"
    )
    records = apply_splits(root, records, options, notes)
    return build_dataset(Found("BIDS", root, records, explanation, channels, named, notes), options)


def _parse(path: Path) -> _File:
    *parts, suffix = case_name(path).split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    return _File(path, entities, suffix, tuple(part for part in parts if "-" not in part))


def _suffixes(images: Sequence[_File], labels: Sequence[_File], options: Options, root: Path) -> list[str]:
    """The kinds of images to use: those given, or the only one."""
    found = list(dict.fromkeys(image.suffix for image in images))
    if wanted := split_names(options.image_column):
        if missing := [name for name in wanted if name not in found]:
            raise ValueError(f"{root} (BIDS) has no image *_{missing[0]}: expected one of {', '.join(found)}.")
        return wanted
    drawn_on = {name for label in labels for name in (*label.words, label.entities.get("space", "")) if name in found}
    found = list(drawn_on) if len(drawn_on) == 1 else found
    if len(found) != 1:
        raise ValueError(
            f"{root} (BIDS) has images of the kinds {', '.join(found) or 'none'}: expected one; choose by "
            "--image_column NAME, or A,B for channels on one grid."
        )
    return found


def _match(
    images: Sequence[_File], labels: Sequence[_File], channels: Sequence[str], root: Path
) -> list[tuple[tuple[_File, ...], list[_File]]]:
    """The images, one for each channel, with their labels."""
    matched: dict[tuple[Path, ...], tuple[tuple[_File, ...], list[_File]]] = {}
    for label in labels:
        own = {key: value for key, value in label.entities.items() if key not in _DERIVED}
        found = []
        for channel in channels:
            fits = [i for i in images if i.suffix == channel and own.items() <= i.entities.items()]
            fits = [i for i in fits if i.path.parent == label.path.parent] or fits
            if len(fits) > 1:
                raise ValueError(
                    f"{label.path} could be the label of {fits[0].path.name} or {fits[1].path.name}: list the "
                    "cases in a cases.csv with the columns image and label."
                )
            found += fits
        if len(found) < len(channels):
            raise FileNotFoundError(f"{label.path} has no image *_{', *_'.join(channels)} of its entities in {root}.")
        key = tuple(image.path for image in found)
        matched.setdefault(key, (tuple(found), []))[1].append(label)
    return list(matched.values())


def _record(images: Sequence[_File], labels: Sequence[_File], num_channels: int) -> Record:
    """A label map, or masks of the classes that the entity `label` names."""
    paths = tuple(image.path for image in images)
    common = [f"{key}-{value}" for key, value in images[0].entities.items()]
    name, subject = "_".join(common), images[0].entities["sub"]
    classes = {label.entities.get("label", ""): label.path for label in labels}
    if all(label.suffix != "dseg" and "label" in label.entities for label in labels) and len(classes) == len(labels):
        return Record(name, paths, classes, group=f"sub-{subject}")
    if len(labels) > 1:
        raise ValueError(
            f"{paths[0]} could have the label {labels[0].path} or {labels[1].path}: choose by --label_column "
            "NAME, e.g. desc-manual or a directory of derivatives."
        )
    return Record(name, paths, labels[0].path, group=f"sub-{subject}")


def _names(root: Path, labels: Sequence[_File]) -> tuple[Labels | None, list[Path]]:
    """The labels that the nearest dseg.tsv of each label map names, if there is one; it must be the same for all."""
    named: dict[Path, Labels] = {}
    for label in labels:
        for directory in label.path.parents:
            tables = [path for path in sorted(directory.glob("*dseg.tsv")) if _applies(path, label)]
            if tables:
                table = max(tables, key=lambda path: len(path.name))
                if table not in named:
                    named[table] = _read_names(table)
                break
            if directory == root:
                break
    if len({str(one) for one in named.values()}) > 1:
        one, other = list(named)[:2]
        raise ValueError(f"{one} and {other} name other labels: choose one kind by --label_column NAME.")
    return next(iter(named.values()), None), list(named)


def _applies(table: Path, label: _File) -> bool:
    """Whether a table's entities are the label's too, as BIDS inherits."""
    *parts, _ = table.stem.split("_")
    entities = {f"{key}-{value}" for key, value in label.entities.items()}
    return all(part in entities or part in label.words for part in parts)


def _read_names(table: Path) -> Labels:
    rows = list(csv.DictReader(read_text(table).splitlines(), delimiter="\t"))
    try:
        names = {str(row["index"]).strip(): str(row["name"]).strip() for row in rows}
    except KeyError as error:
        raise ValueError(f"{table} has no column {error}: expected index and name.") from error
    if len(names) < len(rows):
        raise ValueError(f"{table} lists an index twice: expected each once.")
    if "0" not in names:
        names = {"0": "background", **names}
    return labels_from_mapping(names, table, names_first=False)
