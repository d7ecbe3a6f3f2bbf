"""Images and labels beside each other: flat, a directory for each patient, a mask for each class (TotalSegmentator's).

In a directory, `x_seg` is the label of `x`, or of the sequences `x_t1` and `x_t2`; `seg` that of all images. Masks of
single classes, or label maps with the images' names, are in a subdirectory: `segmentations/liver`, `masks/x`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...volumes.registry import IMAGE_SUFFIXES, VOLUME_SUFFIXES, case_name, suffix_of
from .folders import image_and_mask, match_files, subdirectories

__all__ = ["LABEL_WORD", "Label", "Pair", "find_pairs", "image_files", "mask_files", "plain_stem"]

_WORDS = (
    r"label(?:s|map)?|masks?|msk|d?segs?|segmentations?|gt|(?:ground_?)?truth|anno(?:t|tations?)?|delineations?|roi"
)
LABEL_WORD = re.compile(rf"(?:^|(?<=[_\-. ]))({_WORDS})(?=[_\-. ]|\d|$)", re.I)

_IMAGE = re.compile(r"(?:^|(?<=[_\-. ]))(images?|imaging|img|scan|volume|vol|orig|0000)(?=[_\-. ]|\d|$)", re.I)
_DEPTH = 3

Label = Path | tuple[Path, ...] | Mapping[str, Path]


@dataclass
class Pair:
    """The images and labels in a directory that belong to each other."""

    where: Path
    key: str  # what their names have in common; "" where that is the directory only
    images: dict[str, Path]  # by the rest of their names
    labels: dict[str, Label] = field(default_factory=dict)  # likewise, or by "seg" or "mask"


def find_pairs(root: Path) -> list[Pair]:
    """Find images and labels that lie beside each other in a directory or up to three levels below it."""
    return [pair for where in _directories(root, _DEPTH) for pair in _pairs(where, where == root)]


def mask_files(directory: Path, images: bool = False) -> dict[str, Path]:
    """The files of a directory by their stems without words such as "mask" or, of `images`, "image"."""
    named: dict[str, Path] = {}
    for path in image_files(directory):
        if (other := named.setdefault(plain_stem(path, images), path)) != path:
            raise ValueError(f"{other} and {path} are called alike: keep one.")
    return named


def plain_stem(path: Path, images: bool = False) -> str:
    """The stem of a file without words such as "mask" or, of `images`, "image"."""
    return _join((_IMAGE if images else LABEL_WORD).sub("", case_name(path))) or case_name(path)


def image_files(directory: Path) -> list[Path]:
    """The volumes of a directory or, where there are none, its 2-D images."""
    files = [path for path in sorted(directory.glob("[!.]*")) if not path.is_dir()]
    volumes = [path for path in files if suffix_of(path) in VOLUME_SUFFIXES]
    return volumes or [path for path in files if suffix_of(path) in IMAGE_SUFFIXES]


def _directories(directory: Path, depth: int) -> Iterator[Path]:
    """Yield a directory and those below it; not the ones of masks in a directory with images."""
    yield directory
    if not depth:
        return
    has_images, folders = bool(image_files(directory)), image_and_mask(subdirectories(directory)) or ()
    for path in sorted(directory.iterdir()):
        is_of_masks = path in folders or (has_images and LABEL_WORD.fullmatch(path.name))
        if path.is_dir() and path.name[0] != "." and not is_of_masks:
            yield from _directories(path, depth - 1)


def _join(name: str) -> str:
    return re.sub(r"[_\-. ]+", "_", name).strip("_")


def _pairs(where: Path, is_root: bool) -> list[Pair]:
    """Match the files of a directory by their names; each file is in one pair, perhaps alone."""
    if not is_root and (folders := image_and_mask(subdirectories(where))):  # a patient's images/ and masks/
        matches = match_files(*folders, [])
        return [
            Pair(where, case_name(image), {"": image}, {"masks": masks[0] if len(masks) == 1 else masks})
            for image, masks in matches
        ]
    images: dict[Path, str] = {}
    labels: list[tuple[str, str, Path]] = []  # key, the word for labels, file
    for path in image_files(where):
        rest = case_name(path)
        if not is_root and (own := re.match(rf"{re.escape(where.name)}(?=[_\-. ]|$)", rest, re.I)):
            rest = rest[own.end() :]
        rest = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", rest)  # ManualSegmentation
        if words := list(LABEL_WORD.finditer(rest)):
            start, end = words[-1].span()
            labels.append((_join(rest[:start] + rest[end:]), words[-1][1].lower(), path))
        else:
            images[path] = _join(rest)
    pairs = _match(where, images, labels)
    matched = {path for pair in pairs for path in pair.images.values()}
    spare = [label for label in labels if label[2] not in {p for pair in pairs for p in pair.labels.values()}]
    left = {name: path for path, name in images.items() if path not in matched}
    if spare and not is_root and len(pairs) < 2 and (pairs or left):  # the directory says that they belong together
        if not pairs:
            pairs, left = [Pair(where, "", left)], {}
        pairs[0].labels |= {key or word: path for key, word, path in spare}
        spare = []
    pairs += [Pair(where, name, {name: path}) for name, path in left.items()]
    _add_directories(where, pairs)
    return [*pairs, *(Pair(where, key, {}, {word: path}) for key, word, path in spare)]


def _match(where: Path, images: Mapping[Path, str], labels: Sequence[tuple[str, str, Path]]) -> list[Pair]:
    """The pairs by name: `x` and `x_seg`; `x_t1`, `x_t2` and `x_seg`; or `x`, `x_liver_seg` and `x_spleen_seg`."""
    short = {path: _join(_IMAGE.sub("", name)) for path, name in images.items()}
    pairs: dict[str, Pair] = {}
    used: set[Path] = set()
    for stems in (images, short):
        for key in dict.fromkeys(key for key, _, _ in labels):
            same = [path for path, name in stems.items() if name.lower() == key.lower() and path not in used]
            if len(same) > 1:
                raise ValueError(
                    f"{same[0]} and {same[1]} could have the same label: keep one or list the cases in a "
                    "cases.csv with the columns image and label."
                )
            if same and key.lower() not in pairs:
                pairs[key.lower()] = Pair(where, key, {"": same[0]})
                used.add(same[0])
    for path, name in short.items():  # sequences of the label with the longest name in common
        keys = [key for key, _, _ in labels if name.lower().startswith(f"{key}_".lower().lstrip("_"))]
        if path in used or not keys:
            continue
        pair = pairs.setdefault(max(keys, key=len).lower(), Pair(where, max(keys, key=len), {}))
        if "" not in pair.images:
            pair.images[_join(name[len(pair.key) :])] = path
    spare = {_join(name).lower(): path for path, name in short.items()}
    for key, word, path in labels:
        if key.lower() in pairs:
            pairs[key.lower()].labels[word] = path
            continue
        begin = max((name for name in spare if key.lower().startswith(f"{name}_".lstrip("_"))), key=len, default="")
        if begin or (len(images) == 1 and "" in spare):
            image = spare[begin]
            own = next((pair for pair in pairs.values() if image in pair.images.values()), None)
            own = own or pairs.setdefault(begin, Pair(where, short[image], {"": image}))
            own.labels[_join(key[len(begin) :])] = path
    return list(pairs.values())


def _add_directories(where: Path, pairs: Sequence[Pair]) -> None:
    """Add the labels in subdirectories of masks: label maps of the images' names, or a mask for each class."""
    images = {case_name(path).lower(): pair for pair in pairs for path in pair.images.values()}
    for directory in sorted(where.iterdir()):
        if not images or not directory.is_dir() or not LABEL_WORD.fullmatch(directory.name):
            continue
        masks = mask_files(directory)
        if named := {name: path for name, path in masks.items() if name.lower() in images}:
            for name, path in named.items():
                images[name.lower()].labels[directory.name] = path
        elif masks and len(pairs) == 1:
            only = next(iter(masks)) if len(masks) == 1 else ""
            is_map = only.lower() == where.name.lower() or bool(LABEL_WORD.fullmatch(only))
            pairs[0].labels[directory.name] = next(iter(masks.values())) if is_map else masks
