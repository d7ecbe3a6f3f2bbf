"""What the cases of a data set tell together: the same scan twice, labels missing from a split, odd ones out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from ..data.dataset import CaseDataset
from ..data.layouts.synapse_dataset import SliceSource
from ..data.sources import ImageSource, ScanSource
from .measuring import CaseFacts
from .problems import Problem

__all__ = ["SPLITS", "check_cohort", "splits_of"]

SPLITS = ("train", "validation", "test")
_MIXED, _ODD_SPACING, _ODD_SIZE = 2.0, 3.0, 2.5
_ENOUGH = 5
_AXES = ("slices", "rows", "columns")


def splits_of(data: CaseDataset) -> dict[str, list[str]]:
    """The names of each split's cases."""
    return {split: list(getattr(data, split)) for split in SPLITS}


def check_cohort(data: CaseDataset, cases: Sequence[CaseFacts], num_failed: int) -> list[Problem]:
    """The faults of a data set that its cases show together.

    Args:
        data: the data set.
        cases: what is known of those that could be read.
        num_failed: how many could not.
    """
    return [
        *_same_names(data),
        *_same_content(cases, "image_digest", _same_scan),
        *_same_content(cases, "label_digest", _same_label),
        *_slices_apart(data),
        *_missing_classes(data, cases, num_failed),
        *_spacings(cases),
        *_sizes(cases),
        *_kinds(cases),
        *_splits(data),
        *_unused(data),
        *(Problem("note", "data-set", note) for note in data.notes),
    ]


def _same_names(data: CaseDataset) -> Iterable[Problem]:
    seen: dict[str, str] = {}
    for split, names in splits_of(data).items():
        for name in names:
            if name in seen:
                twice = "twice" if seen[name] == split else f"for {seen[name]} and for {split}"
                yield Problem("error", "leak", f"is listed {twice}: take it out of one.", name, split)
            seen[name] = split


def _same_content(
    cases: Sequence[CaseFacts], digest: str, describe: Callable[[list[CaseFacts]], Problem | None]
) -> Iterable[Problem]:
    groups: dict[str, list[CaseFacts]] = {}
    for facts in cases:
        if value := getattr(facts, digest):
            groups.setdefault(value, []).append(facts)
    for group in groups.values():
        if len(group) > 1 and (problem := describe(group)):
            yield problem


def _same_scan(group: list[CaseFacts]) -> Problem:
    first, *others = group
    named = _listed([f"{facts.name} ({facts.split})" for facts in others])
    if len({facts.split for facts in group}) > 1:
        text = f"({first.split}) is the same scan as {named}, intensity for intensity: scores of a case trained on say "
        return Problem("error", "leak", f"{text}nothing; keep it in one split.", first.name, first.split)
    text = f"is the same scan as {named}, intensity for intensity: it would count twice; keep one."
    return Problem("warning", "duplicate", text, first.name, first.split)


def _same_label(group: list[CaseFacts]) -> Problem | None:
    """Different scans with one label map; the same scans have been told already."""
    if len({facts.image_digest for facts in group}) < len(group):
        return None
    first, *others = group
    text = (
        f"has the label map of {_listed([facts.name for facts in others])}, voxel for voxel: to which does it belong?"
    )
    return Problem("warning", "same-label", text, first.name, first.split)


def _slices_apart(data: CaseDataset) -> Iterable[Problem]:
    """Pictures that look like slices of one patient, in two splits."""
    if not data.is_2d:
        return
    patients: dict[str, set[str]] = {}
    for split, names in splits_of(data).items():
        for name in names:
            match = re.fullmatch(r"(.*\d.*?)[_\-. ](?:\D*)\d+", name)
            if match:
                patients.setdefault(match[1], set()).add(split)
    if shared := [patient for patient, splits in patients.items() if len(splits) > 1]:
        yield Problem(
            "warning",
            "leak",
            f"Pictures called {shared[0]}… are in two splits{_and_more(len(shared) - 1, 'such name')}: if they are one "
            "patient's, keep them together, e.g. by calling them CASE_sliceNNN.",
        )


def _missing_classes(data: CaseDataset, cases: Sequence[CaseFacts], num_failed: int) -> Iterable[Problem]:
    for split, names in splits_of(data).items():
        counted = [facts.voxels for facts in cases if facts.split == split and facts.voxels is not None]
        if not names or not counted:
            continue
        total = np.sum(counted, axis=0)
        missing = [name for index, name in data.id2label.items() if index and not total[index]]
        if missing:
            unread = " that could be read" if num_failed else ""
            which = "nothing can be learnt of it" if split == "train" else "it can't be scored"
            text = f"No {split} case{unread} shows {_listed(missing)}: {which}."
            yield Problem("error" if split == "train" else "warning", "missing-class", text, None, split)


def _spacings(cases: Sequence[CaseFacts]) -> Iterable[Problem]:
    known = [facts for facts in cases if facts.spacing is not None]
    if not known:
        return
    spacings = np.array([facts.spacing for facts in known])
    low, high = spacings.min(axis=0), spacings.max(axis=0)
    for axis, name in enumerate(_AXES):
        if high[axis] > _MIXED * low[axis]:
            text = f"The spacing between {name} varies from {low[axis]:.3g} to {high[axis]:.3g} mm: slices are seen at "
            yield Problem("warning", "spacing", f"{text}different scales; resample them if scores suffer.")
    yield from _odd_ones(known, spacings, _ODD_SPACING, "spacing", "mm between", "is the header right?")
    apart = [f"{size:.3g}" for size in high]
    if len(known) > 1 and (spacings == 1).all() and not any(facts.oblique for facts in known):
        text = "All spacings are exactly 1 mm: if no scanner said so, millilitres and distances in mm are wrong."
        yield Problem("note", "spacing", text)
    elif (high > 50).any() or (low < 0.01).any():
        text = f"Spacings reach {' × '.join(apart)} mm: are they given in mm?"
        yield Problem("warning", "spacing", text)


def _sizes(cases: Sequence[CaseFacts]) -> Iterable[Problem]:
    sizes = np.array([facts.shape for facts in cases], dtype=float).reshape(-1, 3)
    # A scan may well have few slices or many.
    factors = np.array([2 * _ODD_SIZE, _ODD_SIZE, _ODD_SIZE])
    yield from _odd_ones(cases, sizes, factors, "size", "", "does it belong to the others?")


def _odd_ones(
    cases: Sequence[CaseFacts], values: np.ndarray, factor: float | np.ndarray, kind: str, unit: str, question: str
) -> Iterable[Problem]:
    """Cases that are far from the median, where there are enough of them to have one."""
    if len(cases) < _ENOUGH:
        return
    median = np.median(values, axis=0)
    odd = (values > factor * median) | (values * factor < median)
    for facts, row, strange in zip(cases, values, odd, strict=True):
        for axis in np.flatnonzero(strange):
            what = f"{row[axis]:.3g} {unit} {_AXES[axis]}".replace("  ", " ")
            text = f"has {what}, against {median[axis]:.3g} in the middle case: {question}"
            yield Problem("warning", kind, text, facts.name, facts.split)


def _kinds(cases: Sequence[CaseFacts]) -> Iterable[Problem]:
    orientations = Counter(facts.orientation for facts in cases if facts.orientation is not None)
    if len(orientations) > 1:
        text = f"The files have {_counted(orientations)}: all are brought into one orientation before they are cut."
        yield Problem("note", "orientation", text)
    oblique = [facts.name for facts in cases if facts.oblique > 10]
    if oblique:
        text = f"{_cases(len(oblique))} tilted by more than 10° ({_listed(oblique)}): cut along the nearest axes."
        yield Problem("note", "orientation", text)
    known = [facts for facts in cases if facts.sample is not None]
    if len({facts.whole for facts in known}) > 1:
        types = _counted(Counter(facts.image_type for facts in known))
        whole = _cases(sum(facts.whole for facts in known)).removesuffix(" is").removesuffix(" are")
        text = f"Intensities are stored as {types}; {whole} hold whole numbers alone: were some rescaled, others not?"
        yield Problem("note", "types", text)
    floats = sum(1 for facts in cases if (facts.label_type or "").startswith("float"))
    if floats:
        text = f"{_cases(floats)} stored with label maps of type float: fine, but larger; integers are safer."
        yield Problem("note", "types", text)


def _splits(data: CaseDataset) -> Iterable[Problem]:
    if not data.train:
        yield Problem("error", "splits", "There is no case to train on: expected at least one image with its label.")
    elif len(data.train) < _ENOUGH:
        text = f"There are {len(data.train)} cases to train on: what they teach will hardly hold for others."
        yield Problem("warning", "splits", text, None, "train")
    listed = {name for names in splits_of(data).values() for name in names}
    if spare := [name for name in data.sources if name not in listed]:
        yield Problem("note", "splits", f"{_cases(len(spare))} in no split ({_listed(spare)}), and not looked at.")
    if data.train and not data.validation and not data.test:
        text = "No case is held out by the data set: training holds out a tenth of five or more; --num_folds divides."
        yield Problem("note", "splits", text)


def _unused(data: CaseDataset) -> Iterable[Problem]:
    """Files beside the cases' own that no case uses: an image without label, a slice that no list names."""
    used: dict[Path, set[str]] = {}
    for source in data.sources.values():
        if isinstance(source, ScanSource):
            files = (*source.images, source.label)
        elif isinstance(source, ImageSource):
            files = (*source.images, *source.labels)
        elif isinstance(source, SliceSource):
            files = tuple(source.data.slice_path(name) for name in source.slices)
        else:
            continue
        for file in files:
            used.setdefault(file.parent, set()).add(file.name)
    for folder, names in sorted(used.items()):
        suffixes = {_suffix(name) for name in names}
        # On a system whose names ignore case, a list may write them otherwise.
        known = {name.lower() for name in names}
        spare = [
            path.name
            for path in sorted(folder.glob("[!.]*"))
            if path.name.lower() not in known and _suffix(path.name) in suffixes
        ]
        if spare:
            text = f"{folder} holds {len(spare)} {'file' if len(spare) == 1 else 'files'} that no case uses: "
            yield Problem("note", "unused", f"{text}{_listed(spare)}.")


def _suffix(name: str) -> str:
    return "".join(
        Path(name.lower()).suffixes[-2:] if name.lower().endswith(".gz") else Path(name.lower()).suffixes[-1:]
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _and_more(count: int, what: str) -> str:
    return f" (and {count} more {what}{'s' if count > 1 else ''})" if count else ""


def _counted(counts: Counter) -> str:
    return ", ".join(f"{name} in {count}" for name, count in counts.most_common())


def _cases(count: int) -> str:
    return "1 case is" if count == 1 else f"{count} cases are"
