"""DICOM series with the structure sets (RTSTRUCT) and segmentations (SEG) that refer to them, in any directories."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from ...utils.text import name_some, printable
from ...volumes.dicom import LabelObject, SeriesFiles, label_kind, search_series
from ...volumes.dicom.headers import quiet, read_file, text
from ...volumes.registry import file_kind
from ..dataset import CaseDataset
from ..dicom_source import DicomSource, read_regions, region_labels
from ..labels import find_labels_file, labels_of_names
from ..splits import split_of
from .records import Options

__all__ = ["is_dicom_dataset", "read_dicom"]


def is_dicom_dataset(root: Path) -> bool:
    """Return whether a directory holds a structure set or a segmentation, at any depth."""
    for parent, directories, names in os.walk(root):
        directories[:] = [name for name in directories if name[0] != "."]
        for file in (Path(parent, name) for name in names if name[0] != "." and not file_kind(name)):
            try:
                if file.is_file() and label_kind(file):
                    return True
            except (ValueError, OSError):  # a damaged file is named when it is read
                continue
    return False


def read_dicom(root: Path, options: Options) -> CaseDataset:
    """Describe DICOM series and the structure sets and segmentations of them; see [`read_data`] for the options.

    They are matched by the UIDs of series and images, whatever the directories, and a case is a series with its label.
    The labels are the names of all regions and segments, in the order in which they occur first; `label_names` or a
    file such as labels.json in `root` chooses some and their order. Where regions overlap, the later label wins.
    Directories called as splits at the top are splits. `image_column` chooses series by their modality or description,
    `label_column` "RTSTRUCT", "SEG" or labels of a series description.
    """
    series, others = search_series(root)
    notes: list[str] = []
    objects = read_regions(others, options.strict, notes)
    if wanted := options.image_column:
        series = [one for one in series if wanted.lower() in (one.modality.lower(), one.description.lower())]
    if wanted := options.label_column:
        objects = [one for one in objects if wanted.lower() in (one.kind.lower(), one.description.lower())]
    pairs = _match(root, series, objects, notes)
    splits = _divide(root, pairs, notes)
    used = {name: one for _, cases in splits for name, one in cases.items()}
    named = labels_of_names(options.label_names) if options.label_names else find_labels_file(root)
    labels = region_labels(root, [pairs[one] for one in used.values()], named, notes)
    about, layout = {"name": root.resolve().name}, "DICOM series with RTSTRUCT or SEG"
    data = CaseDataset(layout, root, labels.id2label, {}, about=about, notes=notes)
    data.explanation = "each DICOM series an image, the structure set or segmentation that refers to it its label"
    modalities = sorted({one.modality for one in used.values()})
    data.channel_names = (modalities[0] or "image",) if len(modalities) == 1 else ("image",)
    if len(modalities) > 1:
        notes.append(f"the series are of several modalities: {', '.join(modalities)}; --image_column CT chooses one")
    names = tuple(labels.id2label.values())[1:]
    for split, cases in splits:
        sources = {
            name: DicomSource(name, one.files, pairs[one].path, 1, labels.values, options.tolerance, names)
            for name, one in cases.items()
        }
        data.add_cases(split, sources)
    patients = Counter(pairs[one].patient for one in used.values())
    if len(patients) > 1:  # one for all is an anonymiser's
        data.groups = {name: pairs[one].patient for name, one in used.items() if patients[pairs[one].patient] > 1}
        data.groups = {name: patient for name, patient in data.groups.items() if patient}
    return data


def _match(
    root: Path, series: list[SeriesFiles], objects: list[LabelObject], notes: list[str]
) -> dict[SeriesFiles, LabelObject]:
    """Return the label of each series that has one, in the order of the directories."""
    by_image: dict[str, SeriesFiles] = {}
    labels: dict[SeriesFiles, list[LabelObject]] = defaultdict(list)
    for label in objects:
        found = [one for one in series if one.uid and one.uid in label.series]
        if label.images and (not found or len(found) > len(set(label.series))):  # or one of several parts of a series
            by_image = by_image or {_image_uid(file): one for one in series for file in one.files}
            found = list({by_image[uid]: 0 for uid in label.images if uid in by_image}) or found
        for one in found:
            labels[one].append(label)
        if not found:
            wanted = ", ".join(label.series) or "no series"
            notes.append(f"{printable(label.path)} is left out: it refers to {wanted}, which {root} does not hold")
    for one, several in labels.items():
        if len(several) > 1:
            listed = ", ".join(printable(label.path) for label in several)
            raise ValueError(
                f"{printable(one.files[0].parent)} has {len(several)} labels: {listed}; expected one structure set or "
                "segmentation for each series: choose by --label_column RTSTRUCT, SEG or a series description, or "
                "remove the others."
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


def _divide(root: Path, series: Iterable[SeriesFiles], notes: list[str]) -> list[tuple[str, dict[str, SeriesFiles]]]:
    """Return the cases of each split by name; all train if no directory at the top is called as a split."""
    tops: dict[str, list[SeriesFiles]] = defaultdict(list)
    for one in series:
        tops[one.files[0].relative_to(root).parts[0]].append(one)
    if not any(map(split_of, tops)):
        return [("train", _case_names(root, [one for found in tops.values() for one in found]))]
    if unknown := [top for top in tops if not split_of(top)]:
        notes.append(f"left out, as they are not called as a split (train, val, test): {name_some(unknown)}")
    return [(split, _case_names(root / top, tops[top])) for top in tops if (split := split_of(top))]
