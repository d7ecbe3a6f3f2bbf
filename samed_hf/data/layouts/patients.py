"""Images and labels beside each other: flat, a directory for each patient, a mask for each class (TotalSegmentator's).

In a directory, `x_seg` is the label of `x`, or of the sequences `x_t1` and `x_t2`; `seg` that of all images. Masks of
single classes, or label maps with the images' names, are in a subdirectory: `segmentations/liver`, `masks/x`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...volumes.registry import IMAGE_SUFFIXES, VOLUME_SUFFIXES, case_name, suffix_of
from ..dataset import CaseDataset
from ..labels import find_labels_file, labels_of_names
from ..splits import split_of
from .folders import image_and_mask, match_files, subdirectories
from .listing import apply_splits
from .records import Found, Options, Record, build_dataset, name_some, pattern, split_names

__all__ = ["find_pairs", "image_files", "mask_files", "named_classes", "plain_stem", "read_patients", "refuse_raters"]

_WORDS = (
    r"labels?|labelmap|masks?|msk|segs?|segmentations?|dseg|gt|ground_?truth|truth|annotations?|delineations?|annot|roi"
)
_LABEL = re.compile(rf"(?:^|(?<=[_\-. ]))({_WORDS})(?=[_\-. ]|\d|$)", re.I)
_IMAGE = re.compile(r"(?:^|(?<=[_\-. ]))(images?|imaging|img|scan|volume|vol|orig|0000)(?=[_\-. ]|\d|$)", re.I)
_RATER = re.compile(r"(rater|reader|observer|annotator|expert|r|v)?[_\-. ]?\d*|.*(auto|manual|aggregated).*", re.I)
_SEQUENCE = re.compile(
    r"(?:^|_)(?:3d)?(?:t[12]|flair|pd|adc|dwi|dti|swi|asl|dce|ktrans|hbv|ct|cbct|ncct|pet|suv|mri?|cb[fv]|mtt|tmax|water|fat)"
    r"[a-z0-9]{0,4}(?:_|$)",
    re.I,
)
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


def named_classes(root: Path, options: Options) -> dict[str, str]:
    """The labels that `label_names` or a file of the directory names, by their names in lower case."""
    named = labels_of_names(options.label_names) if options.label_names else find_labels_file(root)
    return {name.lower(): name for name in list(named.id2label.values())[1:]} if named else {}


def read_patients(root: Path, pairs: Sequence[Pair], options: Options) -> CaseDataset:
    """Describe what [`find_pairs`] found; see [`read_data`] for the arguments.

    Subdirectories called `train`, `val` or `test` are the splits; beside them, others are left out with a note.
    """
    notes = []
    tops = {pair.where: pair.where.relative_to(root).parts[:1] for pair in pairs}
    has_splits = any(split_of(top) for (top,) in filter(None, tops.values()))
    if has_splits and (odd := [pair for pair in pairs if not any(map(split_of, tops[pair.where]))]):
        some = name_some(sorted({str(pair.where.relative_to(root)) for pair in odd}))
        notes.append(f"beside the splits' directories, not used: {some}")
        pairs = [pair for pair in pairs if pair not in odd]
    used = [pair for pair in pairs if pair.images and pair.labels]
    for what, files in (
        ("images without a label", [p for pair in pairs if not pair.labels for p in pair.images.values()]),
        ("labels without an image", [p for pair in pairs if not pair.images for p in pair.labels.values()]),
    ):
        if files:
            some = name_some(path.relative_to(root) for path in files if isinstance(path, Path))
            notes.append(f"{len(files)} {what} in their directory, not used: {some}")
    channels, more = _channels(used, options)
    labels = _labels(used, options, named_classes(root, options))
    if merged := [label for label in labels if isinstance(label, tuple)]:
        notes.append(f"{len(merged)} images with several numbered masks, which are merged, e.g. {merged[0][0].name}")
    counts = Counter(pair.where for pair in used)
    leaves = Counter(where.name for where in counts)
    records = [
        _record(root, pair, channels, label, counts[pair.where] == 1, leaves[pair.where.name] > 1, has_splits)
        for pair, label in zip(used, labels, strict=True)
    ]
    if several := [where.name for where, count in counts.items() if count > 1 and where != root]:
        notes.append(
            f"{len(several)} directories hold several cases each, taken for one patient's: {name_some(several)}"
        )
    records.sort(key=lambda record: record.name)
    is_flat = {pair.where for pair in used} == {root}
    layout = "images and labels in one directory" if is_flat else "a directory for each patient"
    explanation = pattern(root, records)
    records = records if has_splits else apply_splits(root, records, options, notes)
    return build_dataset(Found(layout, root, records, explanation, channels, notes=[*notes, *more]), options)


def mask_files(directory: Path, images: bool = False) -> dict[str, Path]:
    """The files of a directory by their stems without words such as "mask" or, of `images`, "image"."""
    named: dict[str, Path] = {}
    for path in image_files(directory):
        if (other := named.setdefault(plain_stem(path, images), path)) != path:
            raise ValueError(f"{other} and {path} are called alike: keep one.")
    return named


def plain_stem(path: Path, images: bool = False) -> str:
    """The stem of a file without words such as "mask" or, of `images`, "image"."""
    return _join((_IMAGE if images else _LABEL).sub("", case_name(path))) or case_name(path)


def _directories(directory: Path, depth: int) -> Iterator[Path]:
    """Yield a directory and those below it; not the ones of masks in a directory with images."""
    yield directory
    if not depth:
        return
    has_images, folders = bool(image_files(directory)), image_and_mask(subdirectories(directory)) or ()
    for path in sorted(directory.iterdir()):
        is_of_masks = path in folders or (has_images and _LABEL.fullmatch(path.name))
        if path.is_dir() and path.name[0] != "." and not is_of_masks:
            yield from _directories(path, depth - 1)


def image_files(directory: Path) -> list[Path]:
    """The volumes of a directory or, where there are none, its 2-D images."""
    files = [path for path in sorted(directory.glob("[!.]*")) if not path.is_dir()]
    volumes = [path for path in files if suffix_of(path) in VOLUME_SUFFIXES]
    return volumes or [path for path in files if suffix_of(path) in IMAGE_SUFFIXES]


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
        if words := list(_LABEL.finditer(rest)):
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
        if not images or not directory.is_dir() or not _LABEL.fullmatch(directory.name):
            continue
        masks = mask_files(directory)
        if named := {name: path for name, path in masks.items() if name.lower() in images}:
            for name, path in named.items():
                images[name.lower()].labels[directory.name] = path
        elif masks and len(pairs) == 1:
            only = next(iter(masks)) if len(masks) == 1 else ""
            is_map = only.lower() == where.name.lower() or bool(_LABEL.fullmatch(only))
            pairs[0].labels[directory.name] = next(iter(masks.values())) if is_map else masks


def _channels(pairs: Sequence[Pair], options: Options) -> tuple[tuple[str, ...], list[str]]:
    """The images that every case has, as channels, and a note on those not used."""
    wanted = split_names(options.image_column)
    found = Counter(tuple(sorted(pair.images)) for pair in pairs)
    if not wanted and all(len(names) == 1 for names in found):
        counts = Counter(name for pair in pairs for name in pair.images)
        mixed = len(counts) > 1 and max(counts.values()) > 1
        shown = name_some([f"{name or 'no other'} in {count}" for name, count in counts.items()])
        note = f"images with different names are one channel: {shown}"
        return (next(iter(counts)) or "image" if len(counts) == 1 else "image",), [note] if mixed else []
    usual = found.most_common(1)[0][0]
    for pair in pairs:
        own = set(pair.images)
        if missing := sorted(set(wanted) - own if wanted else set(usual) ^ own):
            raise ValueError(
                f"{pair.where} has the images {', '.join(sorted(own))}, other cases {', '.join(usual)}: "
                f"{missing[0] or 'one'} isn't in all; add it, choose by --image_column A,B, or list the cases in a "
                "cases.csv."
            )
    if odd := [name for name in usual if not wanted and not _SEQUENCE.search(name)]:
        raise ValueError(
            f"{pairs[0].where} has the images {', '.join(usual)}: which is the image, or are they channels? {odd[0]!r} "
            "is no usual name of a sequence. Choose by --image_column NAME (A,B for channels), or list the cases in a "
            "cases.csv."
        )
    channels = tuple(wanted or usual[:3])
    left_out = [name for name in usual if name not in channels]
    note = f"{', '.join(left_out)} not used; the channels are {', '.join(channels)}: --image_column A,B,… names others"
    return channels, [note] if left_out else []


def _labels(pairs: Sequence[Pair], options: Options, given: Mapping[str, str]) -> list[Label]:
    """The label of each pair: the only one, the one asked for, or the masks of the `given` classes."""
    names = {name for pair in pairs for name in pair.labels}
    labels: list[Label] = []
    for pair in pairs:
        found = {name: label for name, label in pair.labels.items() if options.label_column in (None, name)}
        masks = {given[name.lower()]: path for name, path in found.items() if name.lower() in given}
        if len(names) > 1 and len(masks) == len(found) and all(isinstance(path, Path) for path in masks.values()):
            labels.append(masks)  # type: ignore[arg-type]
        elif len(found) == 1:
            labels += found.values()
        elif _are_numbered(pair):
            labels.append(tuple(path for path in found.values() if isinstance(path, Path)))
        else:
            several = " or ".join(pair.labels)
            raise ValueError(
                f"{next(iter(pair.images.values()))} could have the label {several} in {pair.where}: expected one. "
                "Choose by --label_column NAME, name all by --label_names if each is the mask of a class, or list the "
                "cases in a cases.csv with the columns image and label."
            )
    for label in labels:
        if isinstance(label, Mapping):
            refuse_raters(label, options)
    return labels


def _are_numbered(pair: Pair) -> bool:
    """Whether the labels are numbered masks of a 2-D image, `x_mask`, `x_mask_1`, …, which are one label map."""
    is_2d = all(suffix_of(image) in IMAGE_SUFFIXES for image in pair.images.values())
    numbers = [name for name in pair.labels if not _LABEL.fullmatch(name)]
    return is_2d and len(pair.labels) - len(numbers) < 2 and all(name.isdigit() for name in numbers)


def refuse_raters(masks: Mapping[str, Path], options: Options) -> None:
    """Refuse masks that are called as the readings of several raters, unless `label_names` names the classes."""
    if not options.label_names and len(masks) > 1 and all(map(_RATER.fullmatch, masks)):
        raise ValueError(
            f"{next(iter(masks.values()))} is one of the masks {name_some(masks)}: are they of classes, or several "
            "readings? Name the classes by --label_names, or list the cases in a cases.csv."
        )


def _record(
    root: Path, pair: Pair, channels: Sequence[str], label: Label, is_single: bool, is_session: bool, has_splits: bool
) -> Record:
    """A case called after its directory, and after its files where the directory holds several."""
    parts = pair.where.relative_to(root).parts
    split, parts = (split_of(parts[0]) or "train", parts[1:]) if has_splits else ("train", parts)
    images = tuple(pair.images.values()) if len(pair.images) == 1 else tuple(pair.images[one] for one in channels)
    stem = case_name(images[0])
    if "" in pair.images and (not parts or (not is_single and stem.startswith(parts[-1]))):
        name = "-".join([*parts[:-1], stem])
    else:
        name = "-".join([*parts, *([pair.key] if pair.key and not (parts and is_single) else [])])
    # Directories of the same name under several others are sessions, and those others the patients.
    group = "-".join(parts[:-1] if is_session and len(parts) > 1 else parts)
    return Record(name or pair.where.resolve().name, images, label, split, group)
