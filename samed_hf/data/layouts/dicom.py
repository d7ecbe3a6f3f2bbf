"""DICOM series with the structure sets (RTSTRUCT) and segmentations (SEG) that refer to them, in any directories."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from ...utils.text import printable
from ...volumes.dicom import LabelObject, SeriesFiles, find_series, read_label_object
from ...volumes.dicom.headers import is_dicom, quiet, read_file, text
from ...volumes.registry import file_kind
from ..dataset import CaseDataset
from ..dicom_source import DicomSource
from ..labels import find_labels_file, labels_of_names

__all__ = ["is_dicom_directory", "read_dicom"]

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def is_dicom_directory(root: Path) -> bool:
    """Return whether a directory holds DICOM files, at any depth."""
    return any(file.name.upper() != "DICOMDIR" and is_dicom(file) for file in _files(root))


def read_dicom(
    root: Path, label_names: list[str] | None = None, tolerance: float = 0.1, strict: bool = True
) -> CaseDataset:
    """Describe DICOM series and the structure sets and segmentations of them; see [`read_data`] for the arguments.

    They are matched by the UIDs of series and images, whatever the directories, and a case is a series with its label.
    The labels are the names of all regions and segments, in the order in which they occur first; `label_names` or a
    file such as labels.json in `root` chooses some and their order. Where regions overlap, the later label wins.
    Directories train, val and test at the top are splits.
    """
    series = find_series(root)
    images = {file for one in series for file in one.files}
    objects: list[LabelObject] = []
    notes: list[str] = []
    for file in _files(root):
        try:
            if file not in images and (found := read_label_object(file)):
                objects.append(found)
        except (ValueError, OSError) as error:
            if strict:
                raise
            notes.append(f"left out: {error}")
    pairs = _match(root, series, objects, notes)
    named = labels_of_names(label_names) if label_names else find_labels_file(root)
    labels = list(named.id2label.values()) if named else None
    splits = _divide(root, pairs, notes)
    used = [one for _, cases in splits for one in cases.values()]
    names = _label_names(root, [pairs[one] for one in used], labels, notes)
    modalities = {one.modality for one in used}
    if len(modalities) > 1:
        notes.append(f"the series are of several modalities: {', '.join(sorted(modalities))}")
    about = {"name": root.resolve().name}
    data = CaseDataset("DICOM series with RTSTRUCT or SEG", root, dict(enumerate(names)), {}, about=about, notes=notes)
    data.channel_names = (modalities.pop() or "image",) if len(modalities) == 1 else ("image",)
    values = tuple(range(len(names)))
    for split, cases in splits:
        sources = {
            name: DicomSource(name, one.files, pairs[one].path, 1, values, tolerance, tuple(names[1:]))
            for name, one in cases.items()
        }
        data.add_cases(split, sources)
    return data


def _files(root: Path) -> Iterator[Path]:
    """Yield the files that may be DICOM."""
    for parent, directories, names in os.walk(root):
        directories[:] = sorted(name for name in directories if name[0] != "." and name != "__MACOSX")
        for name in sorted(names):
            if name[0] != "." and not file_kind(name) and (file := Path(parent, name)).is_file():
                yield file


def _match(
    root: Path, series: list[SeriesFiles], objects: list[LabelObject], notes: list[str]
) -> dict[SeriesFiles, LabelObject]:
    """Return the label of each series that has one, in the order of the directories."""
    by_uid = {one.uid: one for one in series if one.uid}
    by_image: dict[str, SeriesFiles] = {}
    labels: dict[SeriesFiles, list[LabelObject]] = defaultdict(list)
    for label in objects:
        found = [by_uid[uid] for uid in dict.fromkeys(label.series) if uid in by_uid]
        if not found and label.images:
            by_image = by_image or {_image_uid(file): one for one in series for file in one.files}
            found = list({by_image[uid].files: by_image[uid] for uid in label.images if uid in by_image}.values())
        for one in found:
            labels[one].append(label)
        if not found:
            wanted = ", ".join(label.series) or "no series"
            notes.append(f"{printable(label.path)} is left out: it refers to {wanted}, which {root} does not hold")
        notes += [f"{printable(label.path.relative_to(root))}: {note}" for note in label.notes]
    for one, several in labels.items():
        if len(several) > 1:
            listed = ", ".join(printable(label.path) for label in several)
            raise ValueError(
                f"{printable(one.files[0].parent)} has {len(several)} labels: {listed}; expected one structure set or "
                "segmentation for each series: move the others out of the data set."
            )
    if not labels:
        raise FileNotFoundError(
            f"{root} holds {len(series)} DICOM series and no label of one: expected a structure set (RTSTRUCT) or a "
            f"segmentation (SEG) that refers to one of them{'; ' if notes else ''}{'; '.join(notes[:3])}."
        )
    if bare := [one for one in series if one not in labels]:
        notes.append(f"{len(bare)} series without a label left out, e.g. {printable(bare[0].files[0].parent)}")
    return {one: labels[one][0] for one in sorted(labels, key=lambda one: one.files)}


def _image_uid(file: Path) -> str:
    with quiet():
        return text(read_file(file, tags=["SOPInstanceUID"]), "SOPInstanceUID")


def _case_names(root: Path, series: Collection[SeriesFiles]) -> dict[str, SeriesFiles]:
    """Name each series by the directories that distinguish it, from the patient's on, and by its number if need be."""
    directories = {one: Path(os.path.commonpath([file.parent for file in one.files])) for one in series}
    common = Path(os.path.commonpath(directories.values())) if len(series) > 1 else root
    parts = {one: path.relative_to(common).parts or (common.resolve().name,) for one, path in directories.items()}
    names: dict[str, SeriesFiles] = {}
    for one, own in parts.items():
        others = [parts[other] for other in parts if other is not one]
        depth = next((n for n in range(1, len(own)) if all(other[:n] != own[:n] for other in others)), len(own))
        name = "_".join(own[: 1 if len(series) == 1 else depth])
        if own in others:
            name += f"_series-{one.number if one.number is not None else one.uid}"
        names[name if name not in names else f"{name}_{one.uid}"] = one
    return names


def _label_names(root: Path, labels: list[LabelObject], wanted: list[str] | None, notes: list[str]) -> list[str]:
    """Return the names of the labels, the background first, and note what is left out or lacking."""
    counts = Counter(name for label in labels for name in dict.fromkeys(label.names.values()))
    found = [name for name in counts if name.lower() != "background"]
    names = found if wanted is None else wanted[1:]
    if not set(names) & set(found):
        raise ValueError(
            f"{root} has the regions {_some(counts)}, none of them called {_some(names)}: name some of them."
        )
    if left_out := [name for name in counts if name not in names]:
        notes.append(f"regions that are no label, and count as background: {_some(left_out)}")
    alike = defaultdict(list)
    for name in counts:
        alike["".join(name.split()).casefold()].append(name)
    for several in alike.values():
        if len(several) > 1:
            notes.append(f"{', '.join(map(repr, several))} differ only in case or spacing and are not the same label")
    if rare := [f"{name} in {counts[name]}" for name in names if counts[name] < len(labels)]:
        notes.append(f"of {len(labels)} cases some lack a region, which is background there: {_some(rare, 12)}")
    return ["background", *names]


def _some(names: Iterable[str], count: int = 8) -> str:
    listed = list(names)
    return ", ".join(listed[:count]) + (f" and {len(listed) - count} more" if len(listed) > count else "")


def _divide(root: Path, series: Iterable[SeriesFiles], notes: list[str]) -> list[tuple[str, dict[str, SeriesFiles]]]:
    """Return the cases of each split by name; all train if no directory at the top is called as a split."""
    tops = {one: one.files[0].relative_to(root).parts[0] for one in series}
    if not {top.lower() for top in tops.values()} & set(_SPLITS):
        return [("train", _case_names(root, tops))]
    divided = defaultdict(list)
    for one, top in tops.items():
        divided[top].append(one)
    if unknown := [top for top in divided if top.lower() not in _SPLITS]:
        notes.append(f"left out, as they are not called train, val or test: the directories {_some(unknown)}")
    known = [(top, found) for top, found in divided.items() if top not in unknown]
    return [(_SPLITS[top.lower()], _case_names(root / top, found)) for top, found in known]
