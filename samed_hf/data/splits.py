"""Training and validation cases: divided by case, never by slice, and always the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from .dataset import CaseDataset

__all__ = ["SPLIT_NAMES", "divide_cases", "hold_out", "k_fold", "split_of"]

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
    data: CaseDataset, *, num_validation: int | None = None, num_folds: int | None = None, fold: int | None = None
) -> None:
    """Set a data set's training and validation cases; its test cases stay.

    Validation cases that the data set declares are kept, unless `num_folds` is given.

    Args:
        data: changed in place.
        num_validation: training cases to hold out if the data set declares none for validation; `None` for a tenth,
            and none of fewer than five.
        num_folds: number of folds into which all cases but the test cases are divided.
        fold: index of the fold that is held out; defaults to 0.

    Raises:
        ValueError: no case, none left to train on, one in two splits, or an impossible number.
    """
    splits = {"training": data.train, "validation": data.validation, "test": data.test}
    counts = Counter(name for names in splits.values() for name in names)
    if repeated := [name for name, count in counts.items() if count > 1]:
        found = " and for ".join(split for split, names in splits.items() for name in names if name == repeated[0])
        raise ValueError(
            f"{data.root} lists {repeated[0]} for {found}: expected each case in one of them, since scores of a "
            "training case mean nothing; remove it from one."
        )
    if num_folds is not None:
        data.train, data.validation = k_fold(sorted({*data.train, *data.validation}), num_folds, fold or 0, data.groups)
        data.notes.append(f"fold {fold or 0} of {num_folds} is held out, {len(data.validation)} cases")
    elif not data.train:
        raise ValueError(f"{data.root} has no case to train on: expected at least one image with its label.")
    elif not data.validation:
        data.train, data.validation = hold_out(data.train, num_validation, data.groups)


def hold_out(
    cases: list[str], count: int | None, groups: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Cases to train on, and `count` cases held out, spread evenly over the list; see [`divide_cases`].

    With `groups`, the patient of each case that is not its patient's only one, `count` patients are held out.
    """
    units = _units(cases, groups)
    if count is None:
        count = max(1, len(units) // 10) if len(units) >= 5 else 0
    if count >= len(units):
        raise ValueError(
            f"num_validation_cases is {count}, but there are {len(units)} training cases: leave some to train."
        )
    train, held_out = _divide(cases, groups, {units[(2 * i + 1) * len(units) // (2 * count)] for i in range(count)})
    return train, sorted(held_out)


def k_fold(
    cases: list[str], num_folds: int, fold: int, groups: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Cases to train on and those of one fold, by a fixed permutation; the folds' sizes differ by one at most.

    With `groups`, as in [`hold_out`], patients are divided.
    """
    units = _units(cases, groups)
    if not 2 <= num_folds <= len(units) or not 0 <= fold < num_folds:
        raise ValueError(
            f"num_folds is {num_folds}, fold {fold} of {len(units)} cases: expected 2 to {len(units)} folds, and one "
            "of them counted from 0."
        )
    order = np.random.default_rng(0).permutation(len(units))
    return _divide(cases, groups, {units[index] for index in order[fold::num_folds]})


def _units(cases: Sequence[str], groups: Mapping[str, str] | None) -> list[str]:
    """What is divided, in the order of the cases: the groups, and the cases without one."""
    return list(dict.fromkeys((groups or {}).get(case, case) for case in cases))


def _divide(cases: Sequence[str], groups: Mapping[str, str] | None, held_out: set[str]) -> tuple[list[str], list[str]]:
    chosen = [(groups or {}).get(case, case) in held_out for case in cases]
    parts = [[case for case, out in zip(cases, chosen, strict=True) if out == part] for part in (False, True)]
    return parts[0], parts[1]
