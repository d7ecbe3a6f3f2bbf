"""The layout of a directory of images and one of masks, matched by file names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ...volumes import case_name, read_volume
from ...volumes.registry import IMAGE_SUFFIXES as PICTURES
from ...volumes.registry import VOLUME_SUFFIXES as SCANS
from ...volumes.registry import suffix_of as _suffix
from ..dataset import CaseDataset, CaseSource, as_labels
from ..labels import Labels, find_labels_file, labels_of_names, labels_of_values, match_label_values
from ..sources import ImageSource, ScanSource, count_channels, read_mask

__all__ = ["PICTURES", "find_folders", "read_folders"]

_IMAGES = ("images", "image", "imgs", "img", "imagestr", "scans", "x")
_MASKS = ("masks", "mask", "labels", "label", "labelstr", "annotations", "segmentations", "segs", "seg", "gt", "y")
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_SLICE = re.compile(r"^(?P<case>.+)_slice\d+$")
_WORD = re.compile(
    r"(^|[_\-. ])(images?|img|scan|labels?|masks?|seg|segmentation|gt|annotation|0000)(?=[_\-. ]|\d|$)", re.I
)

Pair = tuple[Path, Path]


def find_folders(root: Path) -> dict[str, Pair]:
    """Find the directories of images and masks of each split.

    They may be in the directory itself (`images/`, `masks/`), in one for each split (`train/images/`, `train/masks/`),
    or hold one (`images/train/`, `masks/train/`).

    Returns:
        "train", "validation", "test" → (images, masks); empty where there are none.
    """
    inside = _subfolders(root)
    pair = _image_and_mask(inside)
    if pair is not None:
        images, masks = (_subfolders(folder) for folder in pair)
        nested = {_SPLITS[name]: (images[name], masks[name]) for name in images if name in _SPLITS and name in masks}
        return nested or {"train": pair}
    found = {split: _image_and_mask(_subfolders(inside[name])) for name, split in _SPLITS.items() if name in inside}
    return {split: pair for split, pair in found.items() if pair is not None}


def read_folders(
    root: Path, label_names: list[str] | None = None, tolerance: float = 0.1, strict: bool = True
) -> CaseDataset:
    """Describe directories of images and masks.

    An image's mask has its name, perhaps with words like "mask" or "label" in it. Pictures called CASE_sliceNNN are the
    slices of one case; else each file is a case. A file labels.json, labels.txt (one name a line) or labels.csv (value,
    name) next to them names the labels; without one the labels are named after the values of the masks.

    Args:
        root: the directory.
        label_names: names of the labels instead, numbered from 0.
        tolerance: see [`ScanSource`].
        strict: refuse images without mask; else their cases fail when they are read.

    Raises:
        ValueError, FileNotFoundError: an image without mask, two masks for one, or no image at all.
    """
    splits = {split: match_files(*folders, strict=strict) for split, folders in find_folders(root).items()}
    pairs = [pair for found in splits.values() for pair in found]
    kinds = {_suffix(image) in PICTURES for image, _ in pairs}
    if len(kinds) > 1:
        raise ValueError(f"{root} holds 2-D images and scans: expected one of them; put them apart.")
    is_2d = kinds.pop()
    labels = labels_of_names(label_names) if label_names else find_labels_file(root)
    notes = []
    if labels is None:
        labels = labels_of_values(_label_maps(pairs, is_2d), root)
        notes.append(f"no labels.json names the labels: called after the values {', '.join(map(str, labels.values))}")
    elif is_2d:
        named, labels = labels, match_label_values(labels, _label_maps(pairs, is_2d), root)
        if named != labels:
            values = ", ".join(
                f"{value} {name}" for value, name in zip(labels.values, labels.id2label.values(), strict=True)
            )
            notes.append(f"the values of the masks are assigned to the labels in order: {values}")
    num_channels = count_channels([image for image, _ in pairs]) if is_2d else 1
    channels = ("R", "G", "B") if num_channels == 3 else ("image",)
    layout = "directories of images and masks" if is_2d else "directories of scans and label maps"
    about = {"name": root.resolve().name}
    data = CaseDataset(layout, root, labels.id2label, {}, channel_names=channels, is_2d=is_2d, about=about, notes=notes)
    for split, found in splits.items():
        sources = _image_cases(found, num_channels, labels) if is_2d else _scan_cases(found, labels, tolerance)
        if shared := sorted(set(sources) & set(data.sources)):
            raise ValueError(f"{root} has the case {shared[0]} in two splits: expected each case in one of them.")
        data.sources |= sources
        getattr(data, split).extend(sorted(sources))
    return data


def match_files(images: Path, masks: Path, strict: bool = True) -> list[Pair]:
    """Each image with its mask, in the order of the images' names.

    Raises:
        ValueError, FileNotFoundError: no image, an image without mask, or two for one.
    """
    files = _files(images)
    if not files:
        raise FileNotFoundError(f"{images} holds no image: expected one of {', '.join(SCANS + PICTURES)}.")
    by_key: dict[str, list[Path]] = {}
    for mask in _files(masks):
        by_key.setdefault(_key(mask), []).append(mask)
    pairs, missing = [], []
    for image in files:
        candidates = by_key.get(_key(image), [])
        exact = [mask for mask in candidates if _stem(mask) == _stem(image)]
        candidates = exact or candidates
        if len(candidates) > 1:
            raise ValueError(f"{image} could have the mask {candidates[0]} or {candidates[1]}: keep one.")
        if not candidates:
            missing.append(image)
        if candidates or not strict:
            pairs.append((image, candidates[0] if candidates else masks / image.name))
    if missing and strict:
        others = f" (nor have {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{missing[0]} has no mask in {masks}{others}: expected one of the same name.")
    return pairs


def _scan_cases(pairs: list[Pair], labels: Labels, tolerance: float) -> dict[str, CaseSource]:
    return {
        _stem(image): ScanSource(_stem(image), (image,), mask, 1, labels.values, tolerance) for image, mask in pairs
    }


def _image_cases(pairs: list[Pair], num_channels: int, labels: Labels) -> dict[str, CaseSource]:
    cases: dict[str, list[Pair]] = {}
    for image, mask in pairs:
        match = _SLICE.match(_stem(image))
        cases.setdefault(match["case"] if match else _stem(image), []).append((image, mask))
    return {
        name: ImageSource(
            name, tuple(image for image, _ in found), tuple(mask for _, mask in found), num_channels, labels.values
        )
        for name, found in cases.items()
    }


def _label_maps(pairs: list[Pair], is_2d: bool) -> Iterator:
    for mask in (mask for _, mask in pairs if mask.is_file()):
        yield read_mask(mask) if is_2d else as_labels(mask, read_volume(mask).array)


def _subfolders(folder: Path) -> dict[str, Path]:
    """Return the subdirectories by their name in lower case."""
    return {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."}


def _image_and_mask(folders: dict[str, Path]) -> Pair | None:
    images = next((folders[name] for name in _IMAGES if name in folders), None)
    masks = next((folders[name] for name in _MASKS if name in folders), None)
    return None if images is None or masks is None else (images, masks)


def _files(folder: Path) -> list[Path]:
    """Return the scans and 2-D images of a directory, without hidden files."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.name[0] != "." and _suffix(path) in SCANS + PICTURES
    )


def _stem(path: Path) -> str:
    return case_name(path)


def _key(path: Path) -> str:
    """Return the name without words for image or mask, so that "img0001" and "label0001" match."""
    return re.sub(r"[_\-. ]+", "_", _WORD.sub(r"\1", _stem(path)).lower()).strip("_")
