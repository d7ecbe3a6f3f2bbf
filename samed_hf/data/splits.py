"""Training and validation cases: divided by case, never by slice, and always the same."""

from __future__ import annotations

from collections import Counter

import numpy as np

from .dataset import CaseDataset

__all__ = ["divide_cases", "hold_out", "k_fold"]


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
        data.train, data.validation = k_fold(sorted({*data.train, *data.validation}), num_folds, fold or 0)
        data.notes.append(f"fold {fold or 0} of {num_folds} is held out, {len(data.validation)} cases")
    elif not data.train:
        raise ValueError(f"{data.root} has no case to train on: expected at least one image with its label.")
    elif not data.validation:
        data.train, data.validation = hold_out(data.train, num_validation)


def hold_out(cases: list[str], count: int | None) -> tuple[list[str], list[str]]:
    """Cases to train on, and `count` cases held out, spread evenly over the list; see [`divide_cases`]."""
    if count is None:
        count = max(1, len(cases) // 10) if len(cases) >= 5 else 0
    if count >= len(cases):
        raise ValueError(
            f"num_validation_cases is {count}, but there are {len(cases)} training cases: leave some to train."
        )
    held_out = {cases[(2 * index + 1) * len(cases) // (2 * count)] for index in range(count)}
    return [case for case in cases if case not in held_out], sorted(held_out)


def k_fold(cases: list[str], num_folds: int, fold: int) -> tuple[list[str], list[str]]:
    """Cases to train on and those of one fold, by a fixed permutation; the folds' sizes differ by one at most."""
    if not 2 <= num_folds <= len(cases) or not 0 <= fold < num_folds:
        raise ValueError(
            f"num_folds is {num_folds}, fold {fold} of {len(cases)} cases: expected 2 to {len(cases)} folds, and one "
            "of them counted from 0."
        )
    order = np.random.default_rng(0).permutation(len(cases))
    held_out = {cases[index] for index in order[fold::num_folds]}
    return [case for case in cases if case not in held_out], [case for case in cases if case in held_out]
