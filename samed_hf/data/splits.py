"""Training and validation cases: divided by case, never by slice, and always the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..utils.text import name_some
from .dataset import CaseDataset
from .folds import divide, k_folds, read_fold, units_of

__all__ = ["SPLIT_NAMES", "choose_fold", "choose_subset", "divide_cases", "hold_out", "shared_patients", "split_of"]

_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLIT_NAMES = tuple(name for names in _NAMES.values() for name in names)


def split_of(name: object) -> str | None:
    """The split that a usual name, perhaps with "set", stands for: "train", "validation", "test"; `None` for others."""
    word = re.sub(r"[_\- ]?set$", "", str(name).strip().lower())
    return next((split for split, names in _NAMES.items() if word in names), None)


def divide_cases(
    data: CaseDataset,
    *,
    num_validation: int | None = None,
    num_folds: int | None = None,
    fold: int | None = None,
    splits: str | Path | None = None,
) -> None:
    """Set a data set's training and validation cases, and those of the latter to score during a training.

    Validation cases that the data set declares are kept, unless `num_folds` or `splits` is given. Test cases stay.

    Args:
        data: changed in place.
        num_validation: training cases to hold out if there are none for validation; `None` for a tenth, and none of
            fewer than five. Of those that there are, how many to score, evenly spaced; `None` for all.
        num_folds, fold, splits: see [`choose_fold`].

    Raises:
        ValueError: no case, none left to train on, one in two splits, or an impossible number.
    """
    parts = {"training": data.train, "validation": data.validation, "test": data.test}
    counts = Counter(name for names in parts.values() for name in names)
    if splits is None and (repeated := [name for name, count in counts.items() if count > 1]):
        found = " and for ".join(split for split, names in parts.items() for name in names if name == repeated[0])
        raise ValueError(
            f"{data.root} lists {repeated[0]} for {found}: expected each case in one of them, since scores of a "
            "training case mean nothing; remove it from one."
        )
    choose_fold(data, num_folds=num_folds, fold=fold, splits=splits)
    if not data.train:
        raise ValueError(f"{data.root} has no case to train on: expected at least one image with its label.")
    if not data.validation:
        data.train, data.validation = hold_out(data.train, num_validation, data.groups)
        num_validation = None
    count = total = len(data.validation)
    if num_validation is not None and (count := min(num_validation, total)) < num_validation:
        data.notes.append(f"num_validation_cases is {num_validation}: all {total} validation cases are scored")
    data.selection = [data.validation[index * total // count] for index in range(count)]


def choose_fold(
    data: CaseDataset, *, num_folds: int | None = None, fold: int | None = None, splits: str | Path | None = None
) -> None:
    """Divide a data set's training and validation cases as a fold does, with a note; test cases stay.

    Args:
        data: changed in place.
        num_folds: number of folds into which all cases but the test cases are divided.
        fold: index of the fold that is held out; defaults to 0.
        splits: file of the folds instead, a list of `{"train": [...], "val": [...]}` as nnU-Net's `splits_final.json`.

    Raises:
        ValueError, FileNotFoundError: an impossible number, `fold` without folds, or a file that doesn't fit the data.
    """
    if num_folds is not None and splits is not None:
        raise ValueError(f"num_folds is {num_folds} and splits {str(splits)!r}: expected one of them.")
    if num_folds is None and splits is None:
        if fold is not None and not data.declares_folds:
            raise ValueError(f"fold is {fold}, but {data.root} declares no folds: give --num_folds too, or --splits.")
        return
    data.notes = [note for note in data.notes if note not in data.split_notes]
    fold = fold or 0
    if splits is not None:
        data.train, data.validation, num_folds = _read_splits(data, Path(splits), fold)
        if spare := sorted({*data.sources} - {*data.train, *data.validation, *data.test}):
            data.notes.append(f"fold {fold} of {Path(splits).name} leaves out {len(spare)} cases, e.g. {spare[0]}")
        data.notes += shared_patients(data)
    elif num_folds is not None:
        folds = k_folds(sorted({*data.train, *data.validation}), num_folds, data.groups)
        if not 0 <= fold < num_folds:
            raise ValueError(f"fold is {fold} of {num_folds} folds: expected one of them, counted from 0.")
        data.train, data.validation = folds[fold]
    data.notes.append(f"fold {fold} of {num_folds} is held out, {len(data.validation)} cases")


def _read_splits(data: CaseDataset, path: Path, fold: int) -> tuple[list[str], list[str], int]:
    if not path.is_file():
        raise FileNotFoundError(f"splits {str(path)!r} doesn't exist: expected a file such as splits_final.json.")
    train, validation, count = read_fold(path, fold)
    names, where = {*train, *validation}, f"fold {fold} of {path}"
    if not train or not validation:
        raise ValueError(f"{where} has {len(train)} cases in train, {len(validation)} in val: expected some in both.")
    if len(names) < len(train) + len(validation):
        twice = Counter([*train, *validation]).most_common(1)[0][0]
        raise ValueError(f"{where} names {twice} twice: expected each case once, in train or in val.")
    if wrong := sorted(names - {*data.sources}) or sorted(names & {*data.test}):
        what = "test cases" if wrong[0] in data.sources else "not among the cases"
        known = min({*data.sources} - {*data.test}, default="none")
        raise ValueError(f"{where} names {name_some(wrong)}, {what} of {data.root}: expected others, such as {known}.")
    return train, validation, count


def shared_patients(data: CaseDataset) -> list[str]:
    """A note on the patients with cases in two splits, if there are some."""
    splits: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        for name in getattr(data, split):
            if name in data.groups:
                splits.setdefault(data.groups[name], set()).add(split)
    shared = [group for group, found in splits.items() if len(found) > 1]
    return [f"{len(shared)} patients have cases in two splits: {name_some(shared)}"] if shared else []


def choose_subset(data: CaseDataset, num_cases: int) -> None:
    """Train on the first training cases of a fixed permutation, with a note: fewer ones are among more ones.

    Patients are not divided: as many as have at most so many cases, and at least one. Too many are a `ValueError`.
    """
    total = len(data.train)
    if not 1 <= num_cases <= total:
        raise ValueError(f"num_train_cases is {num_cases} of {total} training cases: expected 1 to {total}.")
    units = units_of(sorted(data.train), data.groups)
    order = [units[index] for index in np.random.default_rng(0).permutation(len(units))]
    sizes = Counter(data.groups.get(name, name) for name in data.train)
    count = max(1, int((np.cumsum([sizes[unit] for unit in order]) <= num_cases).sum()))
    data.train = divide(data.train, data.groups, {*order[:count]})[1]
    patients = f", {count} of {len(units)} patients" if len(units) < total else ""
    data.notes.append(f"trains on {len(data.train)} of {total} training cases{patients}")


def hold_out(
    cases: list[str], count: int | None, groups: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Cases to train on, and `count` cases held out, spread evenly over the list; see [`divide_cases`].

    With `groups`, the patient of each case that is not its patient's only one, `count` patients are held out.
    """
    units = units_of(cases, groups)
    if count is None:
        count = max(1, len(units) // 10) if len(units) >= 5 else 0
    if count >= len(units):
        raise ValueError(
            f"num_validation_cases is {count}, but there are {len(units)} training cases: leave some to train."
        )
    train, held_out = divide(cases, groups, {units[(2 * i + 1) * len(units) // (2 * count)] for i in range(count)})
    return train, sorted(held_out)
