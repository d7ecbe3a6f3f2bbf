"""The layout of a directory of images and one of masks, matched by file names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ...volumes import case_name, read_volume
from ...volumes.registry import IMAGE_SUFFIXES, VOLUME_SUFFIXES, suffix_of
from ..dataset import CaseDataset, CaseSource, as_labels
from ..labels import find_labels_file, labels_of_names, resolve_labels
from ..sources import ImageSource, ScanSource, image_channels, read_mask

__all__ = ["find_folders", "read_folders"]

_IMAGES = ("images", "image", "imgs", "img", "imagestr", "scans", "x")
_MASKS = ("masks", "mask", "labels", "label", "labelstr", "annotations", "segmentations", "segs", "seg", "gt", "y")
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SLICE = re.compile(r"^(?P<case>.+)_slice\d+$")
_WORD = re.compile(
    r"(^|[_\-. ])(images?|img|scan|labels?|masks?|seg|segmentation|gt|annotation|0000)(?=[_\-. ]|\d|$)", re.I
)

Pair = tuple[Path, Path]


def find_folders(root: Path) -> dict[str, Pair]:
    """Find the directories of images and masks of each split: "train", "validation", "test" → (images, masks).

    They may be in the directory itself (`images/`, `masks/`), in one for each split (`train/images/`, `train/masks/`),
    or hold one (`images/train/`, `masks/train/`).
    """
    inside = _subdirectories(root)
    pair = _image_and_mask(inside)
    if pair is not None:
        images, masks = map(_subdirectories, pair)
        nested = {_SPLITS[name]: (images[name], masks[name]) for name in images if name in _SPLITS and name in masks}
        return nested or {"train": pair}
    found = {split: _image_and_mask(_subdirectories(inside[name])) for name, split in _SPLITS.items() if name in inside}
    return {split: pair for split, pair in found.items() if pair is not None}


def read_folders(
    root: Path, label_names: list[str] | None = None, tolerance: float = 0.1, strict: bool = True
) -> CaseDataset:
    """Describe directories of images and masks; see [`read_data`] for the arguments.

    An image's mask has its name, perhaps with words like "mask" or "label" in it. Images called CASE_sliceNNN are the
    slices of one case; else each file is a case. A file labels.json, labels.txt (one name a line) or labels.csv (value,
    name) next to them names the labels; without one the labels are named after the values of the masks.
    """
    splits = {split: match_files(*pair, strict=strict) for split, pair in find_folders(root).items()}
    pairs = [pair for found in splits.values() for pair in found]
    kinds = {suffix_of(image) in IMAGE_SUFFIXES for image, _ in pairs}
    if len(kinds) > 1:
        raise ValueError(f"{root} holds 2-D images and scans: expected one of them; separate them.")
    is_2d = kinds.pop()
    named = labels_of_names(label_names) if label_names else find_labels_file(root)
    existing = (mask for _, mask in pairs if mask.is_file())
    maps = (read_mask(mask) if is_2d else as_labels(mask, read_volume(mask).array) for mask in existing)
    labels, notes = resolve_labels(named, maps, is_2d, root)
    layout = "directories of images and masks" if is_2d else "directories of scans and label maps"
    data = CaseDataset(layout, root, labels.id2label, {}, is_2d=is_2d, about={"name": root.resolve().name}, notes=notes)
    if is_2d:
        data.channel_names = image_channels(image for image, _ in pairs)
    for split, found in splits.items():
        sources: dict[str, CaseSource] = {}
        for name, files in sorted(_cases(found, is_2d).items()):
            images, masks = zip(*files, strict=True)
            if is_2d:
                sources[name] = ImageSource(name, images, masks, len(data.channel_names), labels.values)
            else:
                sources[name] = ScanSource(name, images[-1:], masks[-1], 1, labels.values, tolerance)
        data.add_cases(split, sources)
    return data


def match_files(images: Path, masks: Path, strict: bool = True) -> list[Pair]:
    """Each image with its mask, in the order of the images' names."""
    files = _files(images)
    if not files:
        raise FileNotFoundError(
            f"{images} holds no image: expected one of {', '.join(VOLUME_SUFFIXES + IMAGE_SUFFIXES)}."
        )
    by_key: dict[str, list[Path]] = {}
    for mask in _files(masks):
        by_key.setdefault(_key(mask), []).append(mask)
    pairs, missing = [], []
    for image in files:
        candidates = by_key.get(_key(image), [])
        exact = [mask for mask in candidates if case_name(mask) == case_name(image)]
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


def _cases(pairs: list[Pair], is_2d: bool) -> dict[str, list[Pair]]:
    """Group the files of one case: 2-D images by the name before `_sliceNNN`."""
    cases: dict[str, list[Pair]] = {}
    for pair in pairs:
        match = _SLICE.match(case_name(pair[0])) if is_2d else None
        cases.setdefault(match["case"] if match else case_name(pair[0]), []).append(pair)
    return cases


def _subdirectories(directory: Path) -> dict[str, Path]:
    """Return the subdirectories by their name in lower case."""
    return {path.name.lower(): path for path in sorted(directory.iterdir()) if path.is_dir() and path.name[0] != "."}


def _image_and_mask(directories: Mapping[str, Path]) -> Pair | None:
    images = next((directories[name] for name in _IMAGES if name in directories), None)
    masks = next((directories[name] for name in _MASKS if name in directories), None)
    return None if images is None or masks is None else (images, masks)


def _files(directory: Path) -> list[Path]:
    """Return the scans and 2-D images of a directory, without hidden files."""
    suffixes = VOLUME_SUFFIXES + IMAGE_SUFFIXES
    return sorted(path for path in directory.glob("[!.]*") if path.is_file() and suffix_of(path) in suffixes)


def _key(path: Path) -> str:
    """Return the name without words for image or mask, so that "img0001" and "label0001" match."""
    return re.sub(r"[_\-. ]+", "_", _WORD.sub(r"\1", case_name(path)).lower()).strip("_")
