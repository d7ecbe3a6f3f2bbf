"""DICOM series whose labels are volumes: `masks/x.nii.gz` of `images/x/`, or `seg.nii.gz` in a patient's directory."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from ...volumes.dicom import search_series
from ...volumes.registry import VOLUME_SUFFIXES, suffix_of
from ..splits import split_of
from .folders import find_folders
from .pairs import find_pairs, image_files, mask_files
from .records import Found, Record, name_some

__all__ = ["find_labelled_series"]


def find_labelled_series(root: Path) -> Found | None:
    """Find DICOM series with a volume as label; `None` if there are none, or if the images are volumes too.

    Raises:
        ValueError: a label could belong to several series, or a series has several labels.
    """
    labels = _labels(root)
    if not labels or not all(suffix_of(path) in VOLUME_SUFFIXES for _, path, _ in labels):
        return None
    series, _ = search_series(root)
    records, owners = [], defaultdict(list)
    for directory, label, split in labels:
        for one in (one for one in series if directory in one.files[0].parents):
            owners[directory].append(one)
        if len(owners[directory]) > 1 or (owners[directory] and [where for where, _, _ in labels].count(directory) > 1):
            raise ValueError(
                f"{directory} holds {len(owners[directory])} DICOM series, and {label} may not be the label of each: "
                "expected one series and one label; list them in a cases.csv with the columns image and label."
            )
        for one in owners[directory]:
            where = Path(os.path.commonpath([file.parent for file in one.files]))
            records.append(Record(directory.name, (where,), label, split))
    if not records:
        return None
    used = [one for found in owners.values() for one in found]
    notes = []
    if lost := [label.name for directory, label, _ in labels if not owners[directory]]:
        notes.append(f"{len(lost)} labels without a DICOM series, not used: {name_some(lost)}")
    if bare := [str(one.files[0].parent.relative_to(root)) for one in series if one not in used]:
        notes.append(f"{len(bare)} DICOM series without a label, not used: {name_some(bare)}")
    modalities = {one.modality for one in used}
    channels = (modalities.pop() or "image",) if len(modalities) == 1 else ("image",)
    return Found("DICOM series with label maps", root, records, _EXPLANATION, channels, notes=notes)


_EXPLANATION = "each directory with a DICOM series an image, the volume of its name or in its directory the label"


def _labels(root: Path) -> list[tuple[Path, Path, str]]:
    """Return the directory that holds a label's series, the label and the split of each; none if there are images."""
    if folders := find_folders(root):
        if any(image_files(images) for images, _ in folders.values()):
            return []
        return [
            (images / name, path, split)
            for split, (images, masks) in folders.items()
            for name, path in mask_files(masks).items()
        ]
    pairs = find_pairs(root)
    if any(pair.images for pair in pairs):
        return []
    tops = {pair.where: (*pair.where.relative_to(root).parts, "")[0] for pair in pairs}
    return [
        (pair.where, label, split_of(tops[pair.where]) or "train")
        for pair in pairs
        for label in pair.labels.values()
        if isinstance(label, Path)
    ]
