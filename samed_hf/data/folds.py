"""Folds of a cross-validation: made, read and written as files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .labels import read_json

__all__ = ["balanced_folds", "divide", "k_fold", "k_folds", "note_rare_labels", "read_fold", "splits_of_folds"]
__all__ += ["units_of"]


def k_fold(
    cases: Sequence[str],
    num_folds: int,
    fold: int,
    groups: Mapping[str, str] | None = None,
    *,
    strata: Mapping[str, Collection[Any]] | None = None,
    seed: int = 0,
) -> tuple[list[str], list[str]]:
    """Cases to train on and those of one fold; see [`k_folds`]."""
    if not 0 <= fold < num_folds:
        raise _no_folds(num_folds, fold, len(units_of(cases, groups)))
    return k_folds(cases, num_folds, groups, strata=strata, seed=seed)[fold]


def k_folds(
    cases: Sequence[str],
    num_folds: int,
    groups: Mapping[str, str] | None = None,
    *,
    strata: Mapping[str, Collection[Any]] | None = None,
    seed: int = 0,
) -> list[tuple[list[str], list[str]]]:
    """Cases to train on and cases held out, for each fold; each case is held out once.

    Without `strata` the folds follow from a permutation of the cases in their order. With `strata` they are those of
    [`balanced_folds`], and do not depend on the order of the cases.

    Args:
        cases: names of the cases.
        num_folds: the sizes of the folds differ by one at most.
        groups: the patient of each case that is not its patient's only one: patients are divided, not cases.
        strata: the labels of each case, whose frequencies are made as equal as possible; a patient has those of all
            its cases. [`note_rare_labels`] finds those that can't be in every fold.
        seed: of the permutation.

    Raises:
        ValueError: fewer than two folds, or more than cases or patients; a case without an entry in `strata`.
    """
    if strata is not None:
        cases = sorted(cases)
    units = units_of(cases, groups)
    if not 2 <= num_folds <= len(units):
        raise _no_folds(num_folds, 0, len(units))
    order = np.random.default_rng(seed).permutation(len(units))
    if strata is None:
        held_out = [{units[index] for index in order[fold::num_folds]} for fold in range(num_folds)]
    else:
        labels = _labels_of_units(cases, groups, strata)
        held_out = balanced_folds({units[index]: labels[units[index]] for index in order}, num_folds, seed)
    return [divide(cases, groups, units_of_fold) for units_of_fold in held_out]


def note_rare_labels(
    num_folds: int, strata: Mapping[str, Collection[Any]], groups: Mapping[str, str] | None = None
) -> list[str]:
    """A note on each label that fewer cases (or patients) have than there are folds: some folds can't have it."""
    counts = Counter(label for labels in _labels_of_units([*strata], groups, strata).values() for label in labels)
    what = "patients" if groups else "cases"
    return [
        f"the label {label} is in {count} {what}, fewer than the {num_folds} folds: some held-out folds lack it"
        for label, count in sorted(counts.items(), key=str)
        if count < num_folds
    ]


def splits_of_folds(folds: Sequence[tuple[Sequence[str], Sequence[str]]]) -> list[dict[str, list[str]]]:
    """Folds of [`k_folds`] as the content of nnU-Net's `splits_final.json`."""
    return [{"train": list(train), "val": list(validation)} for train, validation in folds]


def _no_folds(num_folds: int, fold: int, count: int) -> ValueError:
    return ValueError(
        f"num_folds is {num_folds}, fold {fold} of {count} cases: expected 2 to {count} folds, and one of them counted "
        "from 0."
    )


def _labels_of_units(
    cases: Sequence[str], groups: Mapping[str, str] | None, strata: Mapping[str, Collection[Any]]
) -> dict[str, set[Any]]:
    """The labels of each patient, or of each case without one."""
    if missing := [case for case in cases if case not in strata]:
        raise ValueError(f"strata has no labels of {missing[0]}: expected an entry for each of {len(cases)} cases.")
    labels: dict[str, set[Any]] = {}
    for case in cases:
        labels.setdefault((groups or {}).get(case, case), set()).update(strata[case])
    return labels


def balanced_folds(labels: Mapping[str, Collection[Any]], num_folds: int, seed: int = 0) -> list[set[str]]:
    """Divide units (cases or patients) into folds by iterative stratification.

    The rarest label among the units that are left is distributed first: each unit with it goes to the fold that has
    fewest units with this label, of several to the smallest one, of several to one drawn at random. Units without
    labels are last. The algorithm is that of Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-label
    Data, ECML PKDD 2011 (algorithm 1), for folds of equal sizes; in addition a fold is full when it has its share of
    the units, so that sizes differ by one at most.

    Args:
        labels: the labels of each unit, in the order in which units of one label are distributed.
        num_folds: number of folds, at least 1.
        seed: of the draws.

    Returns:
        The units of each fold.
    """
    generator, share = np.random.default_rng(seed), divmod(len(labels), num_folds)
    folds: list[set[str]] = [set() for _ in range(num_folds)]
    counts: list[Counter[Any]] = [Counter() for _ in range(num_folds)]  # of the labels in each fold

    def is_open(fold: set[str]) -> bool:
        larger = sum(len(one) > share[0] for one in folds)
        return len(fold) < share[0] or (len(fold) == share[0] and larger < share[1])

    left = dict(labels)
    while left:
        remaining = Counter(label for found in left.values() for label in {*found})
        rarest = min(remaining, key=lambda label: (remaining[label], str(label)), default=None)
        for unit in [unit for unit, found in left.items() if not remaining or rarest in found]:
            free = [index for index in range(num_folds) if is_open(folds[index])]
            keys = {index: (counts[index][rarest], len(folds[index])) for index in free}
            equal = [index for index in free if keys[index] == min(keys.values())]
            chosen = equal[int(generator.integers(len(equal)))]
            folds[chosen].add(unit)
            counts[chosen].update({*left.pop(unit)})
    return folds


def read_fold(path: Path, fold: int) -> tuple[list[str], list[str], int]:
    """The sorted cases to train on and to hold out of a file such as nnU-Net's splits_final.json, its number of folds.

    Raises:
        ValueError: the file has no such fold.
    """
    folds = read_json(path)
    count = len(folds) if isinstance(folds, list) else 0
    chosen = folds[fold] if 0 <= fold < count and isinstance(folds[fold], dict) else {}
    parts = [chosen.get(key) for key in ("train", "val")]
    if not all(isinstance(part, list) and all(isinstance(name, str | int) for name in part) for part in parts):
        raise ValueError(
            f"{path} has no fold {fold} with train and val: expected one of its {count} folds, counted from 0, in a "
            'list of {"train": ["CASE", …], "val": […]}.'
        )
    train, validation = (sorted(map(str, part or ())) for part in parts)
    return train, validation, count


def units_of(cases: Sequence[str], groups: Mapping[str, str] | None) -> list[str]:
    """What is divided, in the order of the cases: the groups, and the cases without one."""
    return list(dict.fromkeys((groups or {}).get(case, case) for case in cases))


def divide(cases: Sequence[str], groups: Mapping[str, str] | None, held_out: set[str]) -> tuple[list[str], list[str]]:
    """The cases in their order, those of the other units and those of the units held out."""
    chosen = [(groups or {}).get(case, case) in held_out for case in cases]
    parts = [[case for case, out in zip(cases, chosen, strict=True) if out == part] for part in (False, True)]
    return parts[0], parts[1]
