"""Training and validation cases: divided by case, never by slice, and always the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..utils.text import name_some
from .dataset import CaseDataset
from .folds import divide, k_fold, read_fold, units_of

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
    """Set a data set's training and validation cases, and those of the latter that choose an adapter; tests stay.

    Validation cases that the data set declares are kept, unless `num_folds` or `splits` is given.

    Args:
        data: changed in place.
        num_validation: training cases to hold out if there are none for validation; `None` for a tenth, and none of
            fewer than five. Of validation cases that there are, how many are scored during a training, evenly spaced;
            `None` for all.
        num_folds, fold, splits: see [`choose_fold`].

    Raises:
        ValueError: no case, none left to train on, one in two splits, or an impossible number.
    """
    parts = {"training": data.train, "validation": data.validation, "test": data.test}
    counts = Counter(name for names in parts.values() for name in names)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated and splits is None:
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
    if num_validation is not None:
        count = min(num_validation, total)
        if num_validation > total:
            data.notes.append(f"num_validation_cases is {num_validation}: all {total} validation cases are scored")
    data.selection = [data.validation[index * total // count] for index in range(count)]


def choose_fold(
    data: CaseDataset, *, num_folds: int | None = None, fold: int | None = None, splits: str | Path | None = None
) -> None:
    """Set a data set's training and validation cases as a fold divides them; test cases stay.

    Args:
        data: changed in place; notes on the folds that it declares itself are removed if they aren't used.
        num_folds: number of folds into which all cases but the test cases are divided.
        fold: index of the fold that is held out, from 0 [0].
        splits: file with the folds instead, a JSON list of {"train": [...], "val": [...]} as nnU-Net's
            `splits_final.json`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: `num_folds` and `splits`, or `fold` without folds; an impossible number; a file without that fold,
            or whose fold names a case twice, an unknown or a test case, or none to train on or to hold out.
    """
    if num_folds is not None and splits is not None:
        raise ValueError(f"num_folds is {num_folds} and splits {str(splits)!r}: expected one of them.")
    if num_folds is None and splits is None:
        if fold is not None and not data.declares_folds:
            raise ValueError(f"fold is {fold}, but {data.root} declares no folds: give --num_folds too, or --splits.")
        return
    data.notes = [note for note in data.notes if note not in data.split_notes]
    if num_folds is not None:
        data.train, data.validation = k_fold(sorted({*data.train, *data.validation}), num_folds, fold or 0, data.groups)
        data.notes.append(f"fold {fold or 0} of {num_folds} is held out, {len(data.validation)} cases")
    elif splits is not None:
        _use_splits(data, Path(splits), fold or 0)


def _use_splits(data: CaseDataset, path: Path, fold: int) -> None:
    """Divide the cases as a fold of a file does; see [`choose_fold`]."""
    if not path.is_file():
        raise FileNotFoundError(f"splits {str(path)!r} doesn't exist: expected a file such as splits_final.json.")
    train, validation, count = read_fold(path, fold)
    where, known = f"fold {fold} of {path}", set(data.sources)
    if not train or not validation:
        raise ValueError(f"{where} has {len(train)} cases in train, {len(validation)} in val: expected some in both.")
    if twice := [name for name, number in Counter([*train, *validation]).items() if number > 1]:
        parts = "both in train and in val" if {*train} & {twice[0]} and {*validation} & {twice[0]} else "twice"
        raise ValueError(f"{where} names {twice[0]} {parts}: expected each case once; remove it from one.")
    if tests := sorted({*train, *validation} & {*data.test}):
        raise ValueError(
            f"{where} names {tests[0]}, a test case of {data.root}: remove it; test cases stay as they are."
        )
    if unknown := sorted({*train, *validation} - known):
        others = f" (nor {len(unknown) - 1} others)" if len(unknown) > 1 else ""
        raise ValueError(
            f"{where} names {unknown[0]!r}, which isn't a case of {data.root}{others}: expected names such as "
            f"{min(known - {*data.test}, default='none')!r}; are these the folds of other data?"
        )
    data.train, data.validation, data.declares_folds = train, validation, True
    data.notes.append(f"fold {fold} of {count} of {path.name} is held out, {len(validation)} cases")
    if spare := sorted(known - {*train, *validation, *data.test}):
        data.notes.append(f"fold {fold} of {path.name} leaves out {len(spare)} cases, e.g. {spare[0]}")
    data.notes += shared_patients(data)


def shared_patients(data: CaseDataset) -> list[str]:
    """A note on the patients with cases in two splits, if there are some."""
    splits: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        for name in getattr(data, split):
            if name in data.groups:
                splits.setdefault(data.groups[name], set()).add(split)
    shared = [group for group, found in splits.items() if len(found) > 1]
    return [f"{len(shared)} patients have cases in two splits: {name_some(shared)}"] if shared else []


def choose_subset(data: CaseDataset, *, num_cases: int | None = None, fraction: float | None = None) -> None:
    """Train on some of a data set's training cases only; those of a smaller number are among those of a larger one.

    They are the first ones of a fixed permutation of the sorted names. A patient's cases stay in one set: as many
    patients as have at most so many cases, and at least one.

    Args:
        data: changed in place, with a note.
        num_cases: number of cases.
        fraction: share of the cases instead, in (0, 1].

    Raises:
        ValueError: more cases than there are, or a number out of range.
    """
    if num_cases is None and fraction is None:
        return
    total = len(data.train)
    count = num_cases if num_cases is not None else max(1, round((fraction or 0) * total))
    if not 1 <= count <= total or (fraction is not None and not 0 < fraction <= 1):
        given = f"num_train_cases is {num_cases}" if num_cases is not None else f"train_fraction is {fraction}"
        raise ValueError(f"{given}, but there are {total} training cases: expected 1 to {total}, or a share up to 1.")
    units, sizes = (
        units_of(sorted(data.train), data.groups),
        Counter(data.groups.get(name, name) for name in data.train),
    )
    order = [units[index] for index in np.random.default_rng(0).permutation(len(units))]
    fits = np.cumsum([sizes[unit] for unit in order]) <= count
    chosen = {*order[: max(1, int(fits.sum()))]}
    data.train = divide(data.train, data.groups, chosen)[1]
    patients = f", {len(chosen)} of {len(units)} patients" if len(units) < total else ""
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
