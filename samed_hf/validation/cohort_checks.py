"""Checks of all cases: scans that occur twice, labels missing from a split, outliers, unused files."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..data.dataset import CaseDataset
from ..reporting.formatting import format_counts, format_sides, plural
from ..utils.text import name_some
from .measuring import CaseFacts
from .problems import Problem

__all__ = ["SPLITS", "check_cohort", "splits_of"]

SPLITS = ("train", "validation", "test")
_MIXED_SPACING, _ODD_SPACING, _ODD_SIZE = 2.0, 3.0, 2.5  # factors
_OBLIQUE = 10  # degrees
_ENOUGH = 5  # cases
_AXES = ("slices", "rows", "columns")


def splits_of(data: CaseDataset) -> dict[str, list[str]]:
    """Return the names of each split's cases."""
    return {split: list(getattr(data, split)) for split in SPLITS}


def check_cohort(data: CaseDataset, cases: Sequence[CaseFacts], num_failed: int) -> list[Problem]:
    """Check the cases against each other; `num_failed` cases have no readable label."""
    sizes = np.array([facts.shape for facts in cases], dtype=float).reshape(-1, 3)
    return [
        *_splits(data),
        *_same_content(cases),
        *_missing_classes(data, cases, num_failed),
        *_spacings(cases),
        *_outliers(cases, sizes, "size", [2 * _ODD_SIZE, _ODD_SIZE, _ODD_SIZE]),  # the number of slices varies more
        *_files(cases),
        *_unused(data),
        *(Problem("note", "data-set", note) for note in data.notes),
    ]


def _splits(data: CaseDataset) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    patients: dict[str, set[str]] = {}
    for split, names in splits_of(data).items():
        for name in names:
            if name in seen:
                twice = "twice" if seen[name] == split else f"for {seen[name]} and for {split}"
                yield Problem("error", "leak", f"is listed {twice}: remove it from one.", name, split)
            seen[name] = split
            # 2-D images whose names are like those of one patient's slices.
            if data.is_2d and (match := re.fullmatch(r"(.*\d.*?)[_\-. ](?:\D*)\d+", name)):
                patients.setdefault(match[1], set()).add(split)
    if shared := [patient for patient, splits in patients.items() if len(splits) > 1]:
        others = f" (and {plural(len(shared) - 1, 'other such name')})" if len(shared) > 1 else ""
        text = (
            f"Images called {shared[0]}… are in two splits{others}: if they are of one patient, keep them in one "
            "split, e.g. by calling them CASE_sliceNNN."
        )
        yield Problem("warning", "leak", text)
    if not data.train:
        yield Problem("error", "splits", "There is no case to train on: expected at least one image with its label.")
    elif len(data.train) < _ENOUGH:
        text = f"There are only {plural(len(data.train), 'case')} to train on: the model will hardly generalize."
        yield Problem("warning", "splits", text, None, "train")
    if spare := [name for name in data.sources if name not in seen]:
        text = f"{_cases_are(len(spare))} in no split ({name_some(spare, 5)}), and not checked."
        yield Problem("note", "splits", text)
    if data.train and not data.validation and not data.test:
        text = "The data set holds no case out: training holds out a tenth of five or more; --num_folds divides them."
        yield Problem("note", "splits", text)


def _same_content(cases: Sequence[CaseFacts]) -> Iterator[Problem]:
    """Find cases with the same scan, and different scans with the same label map."""
    for first, *others in _groups(cases, "image_digest"):
        names = name_some([f"{facts.name} ({facts.split})" for facts in others], 5)
        if {facts.split for facts in others} == {first.split}:
            text = f"has the same intensities as {names}: the scan would count twice; keep one."
            yield Problem("warning", "duplicate", text, first.name, first.split)
        else:
            text = (
                f"({first.split}) is the same scan as {names}, with equal intensities: scores of a training case "
                "are not meaningful; keep it in one split."
            )
            yield Problem("error", "leak", text, first.name, first.split)
    for first, *others in _groups(cases, "label_digest"):
        if len({facts.image_digest for facts in (first, *others)}) > len(others):
            names = name_some([facts.name for facts in others], 5)
            text = f"has the same label map as {names}: to which scan does it belong?"
            yield Problem("warning", "same-label", text, first.name, first.split)


def _groups(cases: Sequence[CaseFacts], digest: str) -> list[list[CaseFacts]]:
    """Group the cases of which two or more have the same digest."""
    groups: dict[str, list[CaseFacts]] = {}
    for facts in cases:
        groups.setdefault(getattr(facts, digest), []).append(facts)
    return [group for value, group in groups.items() if value and len(group) > 1]


def _missing_classes(data: CaseDataset, cases: Sequence[CaseFacts], num_failed: int) -> Iterator[Problem]:
    for split, names in splits_of(data).items():
        counts = [facts.voxels for facts in cases if facts.split == split and facts.voxels]
        if not names or not counts:
            continue
        total = np.sum(counts, axis=0)
        if missing := [name for index, name in data.id2label.items() if index and not total[index]]:
            readable = "readable " if num_failed else ""
            effect = "it can't be learnt" if split == "train" else "it can't be scored"
            text = f"No {readable}{split} case has {name_some(missing, 5)}: {effect}."
            yield Problem("error" if split == "train" else "warning", "missing-class", text, None, split)


def _spacings(cases: Sequence[CaseFacts]) -> Iterator[Problem]:
    known = [facts for facts in cases if facts.spacing is not None]
    if not known:
        return
    spacings = np.array([facts.spacing for facts in known])
    low, high = spacings.min(axis=0), spacings.max(axis=0)
    for axis, name in enumerate(_AXES):
        if high[axis] > _MIXED_SPACING * low[axis]:
            text = (
                f"The spacing between {name} varies from {low[axis]:.3g} to {high[axis]:.3g} mm, and so does the scale "
                "of the slices; resample them if scores suffer."
            )
            yield Problem("warning", "spacing", text)
    yield from _outliers(known, spacings, "spacing", [_ODD_SPACING] * 3)
    if len(known) > 1 and (spacings == 1).all() and not any(facts.oblique for facts in known):
        text = "All spacings are exactly 1 mm: if they are placeholders, millilitres and distances in mm are wrong."
        yield Problem("note", "spacing", text)
    elif (high > 50).any() or (low < 0.01).any():
        yield Problem("warning", "spacing", f"Spacings reach {format_sides(high)} mm: are they in mm?")


def _outliers(cases: Sequence[CaseFacts], values: np.ndarray, kind: str, factors: Sequence[float]) -> Iterator[Problem]:
    """Find cases whose values `(cases, axes)` differ from the median by more than each axis' factor."""
    if len(cases) < _ENOUGH:
        return
    unit = "mm between " if kind == "spacing" else ""
    question = "is the header right?" if kind == "spacing" else "does it belong to the data set?"
    median = np.median(values, axis=0)
    odd = (values > np.multiply(factors, median)) | (values * factors < median)
    for case, axis in np.argwhere(odd):
        value = f"{values[case, axis]:.3g} {unit}{_AXES[axis]}"
        text = f"has {value}, the median case {median[axis]:.3g}: {question}"
        yield Problem("warning", kind, text, cases[case].name, cases[case].split)


def _files(cases: Sequence[CaseFacts]) -> Iterator[Problem]:
    """Find files of differing orientations and types of numbers."""
    orientations = Counter(facts.orientation for facts in cases if facts.orientation is not None)
    if len(orientations) > 1:
        counts = format_counts(dict(orientations.most_common()))
        text = f"The files have {counts}: all are brought into one orientation before they are cut."
        yield Problem("note", "orientation", text)
    if oblique := [facts.name for facts in cases if facts.oblique > _OBLIQUE]:
        text = f"{_cases_are(len(oblique))} tilted by more than {_OBLIQUE}° ({name_some(oblique, 5)}): they are cut "
        yield Problem("note", "orientation", f"{text}along the nearest axes.")
    known = [facts for facts in cases if facts.sample is not None]
    if len({facts.whole for facts in known}) > 1:
        types = format_counts(dict(Counter(str(facts.image_type) for facts in known).most_common()))
        whole = plural(sum(facts.whole for facts in known), "case")
        text = f"Intensities are stored as {types}; those of {whole} are whole numbers: were only some rescaled?"
        yield Problem("note", "types", text)
    if floats := sum((facts.label_type or "").startswith("float") for facts in cases):
        text = f"{_cases_are(floats)} stored with label maps of type float: this works, but integers are smaller."
        yield Problem("note", "types", text)


def _unused(data: CaseDataset) -> Iterator[Problem]:
    """Find files in the directory of the data, of the cases' suffixes, that no case uses: an image without a label."""
    used: dict[Path, set[str]] = {}
    for source in data.sources.values():
        for file in source.files():
            used.setdefault(file.parent, set()).add(file.name.lower())  # lists may differ in case
    suffixes = {_suffix(name) for names in used.values() for name in names}
    below = (path for path in Path(data.root).rglob("[!.]*") if path.is_dir()) if Path(data.root).is_dir() else ()
    for directory in sorted({*used, *below}):
        names = used.get(directory, set())
        files = [path.name for path in sorted(directory.glob("[!.]*"))]
        files = [file for file in files if file.lower() not in names and _suffix(file.lower()) in suffixes]
        if files:
            text = f"{directory} contains {plural(len(files), 'file')} that no case uses: {name_some(files, 5)}."
            yield Problem("note", "unused", text)


def _suffix(name: str) -> str:
    return "".join(Path(name).suffixes[-2:] if name.endswith(".gz") else Path(name).suffixes[-1:])


def _cases_are(count: int) -> str:
    return f"{plural(count, 'case')} {'is' if count == 1 else 'are'}"
