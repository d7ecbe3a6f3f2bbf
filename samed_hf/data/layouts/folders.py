"""The layout of a directory of images and one of masks, matched by file names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ...volumes import case_name, read_volume
from ...volumes.images import is_image_file
from ...volumes.registry import IMAGE_SUFFIXES, VOLUME_SUFFIXES, suffix_of
from ..dataset import CaseDataset, CaseSource, as_labels
from ..labels import Labels, find_labels_file, labels_of_names, resolve_labels
from ..sources import ImageSource, ScanSource, are_colored, describe_images, read_mask
from ..splits import SPLIT_NAMES, split_of

__all__ = ["SLICE_NAME", "find_folders", "find_mask_labels", "image_and_mask", "match_files", "read_folders"]
__all__ += ["subdirectories"]

_IMAGES = ("images", "image", "imgs", "img", "imagestr", "scans", "x")
_MASKS = ("masks", "mask", "labels", "label", "labelstr", "annotations", "segmentations", "segs", "seg", "gt", "y")
SLICE_NAME = re.compile(r"^(?P<case>.+?)[_\-. ](slice|slc|z)[_\-. ]?(?P<number>\d+)$", re.I)
_MASK_WORD = r"(?:labels?|masks?|seg|segmentation|gt|ground_?truth|annotations?)"
_WORD = re.compile(rf"(^|[_\-. ])(images?|img|scan|{_MASK_WORD}|0000)(?=[_\-. ]|\d|$)", re.I)
_NUMBERED = re.compile(rf"^(?P<stem>.+)[_\-. ]{_MASK_WORD}[_\-. ]*\(?\d+\)?$", re.I)  # a further mask of STEM
_SPLIT_END, _MASK_END = re.compile("_(training|test)$"), re.compile(r"_(manual\d?|l|anno)$")  # of DRIVE, CamVid, GlaS
_IGNORED = {".txt", ".md", ".json", ".csv", ".tsv", ".jsonl", ".db", ".ini", ".zraw", ".raw"}

Pair = tuple[Path, Path]  # the directories of images and of masks
Match = tuple[Path, tuple[Path, ...]]  # an image and its masks


def find_folders(root: Path) -> dict[str, Pair]:
    """Find the directories of images and masks of each split: "train", "validation", "test" → (images, masks).

    They may be in the directory itself (`images/`, `masks/`), in one for each split (`train/images/`, `train/masks/`),
    or hold one (`images/train/`, `masks/train/`).
    """
    inside = subdirectories(root)
    pair = image_and_mask(inside)
    if pair is not None:
        images, masks = map(subdirectories, pair)
        found = {name: (images[name], masks[name]) for name in images if split_of(name) and name in masks}
        if not found:
            return {"train": pair}
    else:
        pairs = {name: image_and_mask(subdirectories(inside[name])) for name in inside if split_of(name)}
        found = {name: pair for name, pair in pairs.items() if pair is not None} or _find_by_words(inside)
    splits: dict[str, Pair] = {}
    for name, pair in found.items():
        split = split_of(name) or "train"
        if (other := splits.setdefault(split, pair)) != pair:
            raise ValueError(f"{root} has two directories for {split}, {other[0]} and {pair[0]}: keep one.")
    return splits


def _find_by_words(inside: Mapping[str, Path]) -> dict[str, Pair]:
    """Directories of which one of two, in each split, has a word for masks in its name: `x_Input`, `x_GroundTruth`."""
    found: dict[str, tuple[list[Path], list[Path]]] = {}
    for path in inside.values():
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", path.name)
        split = next(filter(split_of, words), "train")
        is_mask = any(re.fullmatch(_MASK_WORD, word, re.I) for word in [*words, "_".join(words[-2:])])
        if any(path.glob("[!.]*.*")):
            found.setdefault(split, ([], []))[is_mask].append(path)
    if not all(len(images) == 1 and len(masks) < 2 for images, masks in found.values()):
        return {}
    return {split: (images[0], masks[0]) for split, (images, masks) in found.items() if masks}


def read_folders(
    root: Path, label_names: list[str] | None = None, tolerance: float = 0.1, strict: bool = True
) -> CaseDataset:
    """Describe directories of images and masks; see [`read_data`] for the arguments.

    An image's mask has its name, perhaps with words like "mask" or "label" in it, and a number if there are several.
    Images called CASE_sliceN are the slices of one case in the order of their numbers; else each file is a case. A file
    labels.json, labels.txt (one name a line), labels.csv (value, name) or class_dict.csv (name, r, g, b) next to them
    names the labels; without one the labels are named after the values or colours of the masks.
    """
    notes: list[str] = []
    folders = find_folders(root)
    splits = {split: match_files(*pair, notes, strict=strict) for split, pair in folders.items()}
    _note_outside(root, notes)
    matches = [match for found in splits.values() for match in found]
    kinds = {is_image_file(image) for image, _ in matches}
    if len(kinds) > 1:
        raise ValueError(f"{root} holds 2-D images and scans: expected one of them; separate them.")
    is_2d = kinds.pop()
    named = labels_of_names(label_names) if label_names else find_labels_file(root)
    labels, as_colors = find_mask_labels(named, [mask for _, masks in matches for mask in masks], is_2d, root, notes)
    layout = "directories of images and masks" if is_2d else "directories of scans and label maps"
    about = {"name": root.resolve().name}
    data = CaseDataset(layout, root, labels.id2label, {}, is_2d=is_2d, about=about, notes=notes)
    shown = [", ".join(str(one.relative_to(root)) for one in kind) for kind in zip(*folders.values(), strict=True)]
    data.explanation = f"{'2-D images' if is_2d else 'scans'} of {shown[0]}, masks of their names in {shown[1]}"
    if is_2d:
        describe_images(data, (image for image, _ in matches))
    for split, found in splits.items():
        sources: dict[str, CaseSource] = {}
        for name, files in sorted(_cases(found, is_2d, notes).items()):
            images, masks = zip(*files, strict=True)
            if is_2d:
                sources[name] = ImageSource(name, images, masks, len(data.channel_names), labels.values, as_colors)
            else:
                sources[name] = ScanSource(name, images, masks[0][0], 1, labels.values, tolerance)
        data.add_cases(split, sources)
    return data


def find_mask_labels(
    named: Labels | None, masks: list[Path], is_2d: bool, root: Path, notes: list[str]
) -> tuple[Labels, bool]:
    """The labels, and whether the masks give them as colours."""
    masks = [mask for mask in masks if mask.is_file()]
    as_colors = is_2d and ((named is not None and not named.values) or are_colored(masks))
    maps = (
        (mask, read_mask(mask, as_colors=as_colors) if is_2d else as_labels(mask, read_volume(mask).array))
        for mask in masks
    )
    labels, found = resolve_labels(named, maps, is_2d, root, as_colors=as_colors)
    notes += found
    return labels, as_colors


def match_files(images: Path, masks: Path, notes: list[str], strict: bool = True) -> list[Match]:
    """Each image with its masks, in the order of the images' names; what is left out is added to `notes`."""
    files = _files(images, notes)
    if not files:
        raise FileNotFoundError(
            f"{images} holds no image: expected one of {', '.join(VOLUME_SUFFIXES + IMAGE_SUFFIXES)} in it, or a "
            "cases.csv with the columns image and label."
        )
    found = _masks_of(files, _files(masks, notes), masks, notes)
    merged = [image for image in files if len(found[image]) > 1]
    if merged and suffix_of(merged[0]) not in IMAGE_SUFFIXES:
        first, second = found[merged[0]][:2]
        raise ValueError(f"{merged[0]} has the label maps {first} and {second}: expected one; keep or merge them.")
    _note_files(notes, "images with several masks, which are merged", merged)
    missing = [image for image in files if not found[image]]
    if missing and (strict or len(missing) == len(files)):
        others = f" (nor have {len(missing) - 1} others)" if len(missing) > 1 else ""
        odd = {path.suffix for path in masks.iterdir()} - {*VOLUME_SUFFIXES, *IMAGE_SUFFIXES, ".gz"}
        unread = f" Files {', '.join(sorted(odd))} in it are not read: save masks as PNG." if odd - {""} else ""
        raise FileNotFoundError(
            f"{missing[0]} has no mask in {masks}{others}: expected one of the same name, or the pairs in a cases.csv "
            f"with the columns image and label.{unread}"
        )
    return [(image, tuple(found[image]) or (masks / image.name,)) for image in files]


def _masks_of(images: list[Path], masks: list[Path], directory: Path, notes: list[str]) -> dict[Path, list[Path]]:
    """The masks of each image by their names: that of its name, and the numbered ones."""
    by_key: dict[str, Path] = {}
    for image in images:
        if (other := by_key.setdefault(_key(case_name(image)), image)) != image:
            raise ValueError(f"{other} and {image} would have the same mask: expected one image of a name; keep one.")
    for name in [name for name in by_key if _SPLIT_END.search(name)]:
        by_key.setdefault(_SPLIT_END.sub("", name), by_key[name])
    own: dict[Path, Path] = {}
    numbered: dict[Path, list[Path]] = {image: [] for image in images}
    left_out = []
    for mask in masks:
        key, further = _key(case_name(mask)), _NUMBERED.match(case_name(mask))
        key = key if key in by_key else _MASK_END.sub("", key)
        if key in by_key:
            if (other := own.setdefault(by_key[key], mask)) != mask:
                raise ValueError(f"{by_key[key]} could have the mask {other} or {mask}: keep one.")
        elif further and (stem := _key(further["stem"])) in by_key:
            numbered[by_key[stem]].append(mask)
        elif begun := next((image for name, image in by_key.items() if key.startswith(f"{name}_")), None):
            raise ValueError(
                f"{mask} has no image, and its name begins with that of {begun}: expected masks of one image to be "
                f"called {case_name(begun)}_mask_1{suffix_of(mask)}, …; rename or remove it."
            )
        else:
            left_out.append(mask)
    _note_files(notes, f"masks in {directory} without an image, left out", left_out)
    return {image: [*([own[image]] if image in own else []), *numbered[image]] for image in images}


def _cases(matches: list[Match], is_2d: bool, notes: list[str]) -> dict[str, list[Match]]:
    """Group the files of one case: 2-D images by the name before `_sliceN`, ordered by N."""
    cases: dict[str, dict[int | None, Match]] = {}
    for match in matches:
        stem = case_name(match[0])
        found = SLICE_NAME.match(stem) if is_2d else None
        case = cases.setdefault(found["case"] if found else stem, {})
        number = int(found["number"]) if found else None
        if number in case or None in case or (number is None and case):
            other = next(iter(case.values())) if number not in case else case[number]
            raise ValueError(
                f"{match[0]} and {other[0]} are the same slice of a case, or a case and one of its slices, by their "
                "names CASE_sliceN: rename one."
            )
        case[number] = match
    grouped = {name: [case[number] for number in sorted(case, key=lambda n: n or 0)] for name, case in cases.items()}
    if slices := [len(case) for case in grouped.values() if len(case) > 1]:
        notes.append(f"{sum(slices)} images called CASE_sliceN are the slices of {len(slices)} cases, in order of N")
    return grouped


def subdirectories(directory: Path) -> dict[str, Path]:
    """Return the subdirectories by their name in lower case."""
    return {path.name.lower(): path for path in sorted(directory.iterdir()) if path.is_dir() and path.name[0] != "."}


def image_and_mask(directories: Mapping[str, Path]) -> Pair | None:
    """The directory of images and the one of masks, by their usual names."""
    images = next((directories[name] for name in _IMAGES if name in directories), None)
    masks = next((directories[name] for name in ("1st_manual", *_MASKS) if name in directories), None)  # DRIVE
    return None if images is None or masks is None else (images, masks)


def _files(directory: Path, notes: list[str]) -> list[Path]:
    """Return the scans and 2-D images of a directory, without hidden files, no two of one name."""
    files = sorted(path for path in directory.glob("[!.]*") if path.is_file())
    known = [path for path in files if suffix_of(path) in VOLUME_SUFFIXES or is_image_file(path)]
    others = [path for path in files if path not in known and path.suffix.lower() not in _IGNORED]
    _note_files(notes, f"files in {directory} that are neither images nor scans, left out", others)
    by_name: dict[str, Path] = {}
    for path in known:
        if (other := by_name.setdefault(case_name(path).lower(), path)) != path:
            raise ValueError(f"{other} and {path} have the same name {case_name(path)}: expected one file; keep one.")
    return known


def _note_outside(root: Path, notes: list[str]) -> None:
    """Name the directories beside and in those of images and masks, e.g. of a split of unknown name."""
    used = {directory for pair in find_folders(root).values() for directory in pair}
    above = {parent for one in used for parent in one.parents if parent == root or root in parent.parents}
    outside = [
        child for one in sorted(used | above) for child in subdirectories(one).values() if child not in used | above
    ]
    outside += [path for one in sorted(above) for path in sorted(one.glob("[!.]*")) if suffix_of(path)]
    _note_files(notes, f"directories and images of no split ({', '.join(SPLIT_NAMES)}), left out", outside)


def _note_files(notes: list[str], what: str, paths: list[Path]) -> None:
    if paths:
        more = f" and {len(paths) - 3} others" if len(paths) > 3 else ""
        notes.append(f"{what}: {', '.join(path.name for path in paths[:3])}{more}")


def _key(name: str) -> str:
    """Return a file's name without words for image or mask, so that "img0001" and "label0001" match."""
    return re.sub(r"[_\-. ]+", "_", _WORD.sub(r"\1", name).lower()).strip("_")
