"""Data sets of images and labels beside each other, of a directory for each patient, or of a mask for each class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...volumes.registry import IMAGE_SUFFIXES, case_name, suffix_of
from ..dataset import CaseDataset
from ..labels import find_labels_file, labels_of_names
from ..splits import split_of
from .listing import apply_splits
from .pairs import LABEL_WORD, Label, Pair
from .records import Found, Options, Record, build_dataset, name_some, pattern, split_names

__all__ = ["named_classes", "read_patients", "refuse_raters"]

_RATER = re.compile(r"(rater|reader|observer|annotator|expert|r|v)?[_\-. ]?\d*|.*(auto|manual|aggregated).*", re.I)
_SEQUENCE = re.compile(
    r"(?:^|_)(?:3d)?(?:t[12]|flair|pd|adc|dwi|dti|swi|asl|dce|ktrans|hbv|ct|cbct|ncct|pet|suv|mri?|cb[fv]|mtt|tmax|water|fat)"
    r"[a-z0-9]{0,4}(?:_|$)",
    re.I,
)


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
    plain = {root, *(root / top for (top,) in filter(None, tops.values()) if has_splits)}
    if several := [where.name for where, count in counts.items() if count > 1 and where not in plain]:
        notes.append(
            f"{len(several)} directories hold several cases each, taken for one patient's: {name_some(several)}; the "
            "column patient of a cases.csv says otherwise"
        )
    records.sort(key=lambda record: record.name)
    is_flat = {pair.where for pair in used} == {root}
    layout = "images and labels in one directory" if is_flat else "a directory for each patient"
    explanation = pattern(root, records)
    records = records if has_splits else apply_splits(root, records, options, notes)
    return build_dataset(Found(layout, root, records, explanation, channels, notes=[*notes, *more]), options)


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
    numbers = [name for name in pair.labels if not LABEL_WORD.fullmatch(name)]
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
