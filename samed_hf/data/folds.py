"""Folds of a cross-validation: made, read and written as files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .labels import read_json

__all__ = ["divide", "k_folds", "note_rare_labels", "read_fold", "splits_of_folds", "units_of"]

_Labels = Mapping[str, Collection[Any]]  # of each case


def k_folds(
    cases: Sequence[str],
    num_folds: int,
    groups: Mapping[str, str] | None = None,
    *,
    strata: _Labels | None = None,
    seed: int = 0,
) -> list[tuple[list[str], list[str]]]:
    """Cases to train on and cases held out, for each fold; each case is held out once.

    Without `strata` the folds follow from a permutation of the cases in their order. With `strata` they don't depend
    on the order, and are made by iterative stratification (Sechidis et al., On the Stratification of Multi-label Data,
    ECML PKDD 2011, algorithm 1), except that no fold gets more than its share of the cases.

    Args:
        cases: names of the cases.
        num_folds: number of folds, whose sizes differ by one at most.
        groups: the patient of each case that is not its patient's only one: patients are divided, not cases.
        strata: the labels of each case, to be as frequent in each fold; a patient has those of all its cases.
        seed: of the permutation and of draws between equal folds.

    Raises:
        ValueError: fewer than two folds, or more than cases or patients.
    """
    cases = cases if strata is None else sorted(cases)
    units = units_of(cases, groups)
    if not 2 <= num_folds <= len(units):
        raise ValueError(f"num_folds is {num_folds} of {len(units)} cases: expected 2 to {len(units)} folds.")
    order = [units[index] for index in np.random.default_rng(seed).permutation(len(units))]
    held_out = [{*order[fold::num_folds]} for fold in range(num_folds)]
    if strata is not None:
        labels = _labels_of_units(cases, groups, strata)
        held_out = _stratify({unit: labels[unit] for unit in order}, num_folds, np.random.default_rng(seed))
    return [divide(cases, groups, chosen) for chosen in held_out]


def _stratify(left: dict[str, set[Any]], num_folds: int, generator: np.random.Generator) -> list[set[str]]:
    """Distribute the rarest label first, each unit to the fold with fewest of this label, then to the smallest one."""
    share, folds = divmod(len(left), num_folds), [set[str]() for _ in range(num_folds)]
    counts = [Counter[Any]() for _ in folds]  # of the labels in each fold
    while left:
        remaining = Counter(label for labels in left.values() for label in labels)
        rarest = min(remaining, key=lambda label: (remaining[label], str(label)), default=None)
        for unit in [unit for unit, labels in left.items() if not remaining or rarest in labels]:
            # As many folds as there are units over the equal share have one more.
            may_grow = sum(len(fold) > share[0] for fold in folds) < share[1]
            free = [index for index, fold in enumerate(folds) if len(fold) < share[0] + may_grow]
            keys = {index: (counts[index][rarest], len(folds[index])) for index in free}
            chosen = int(generator.choice([index for index in free if keys[index] == min(keys.values())]))
            folds[chosen].add(unit)
            counts[chosen].update(left.pop(unit))
    return folds


def note_rare_labels(num_folds: int, strata: _Labels, groups: Mapping[str, str] | None = None) -> list[str]:
    """A note on each label that fewer cases, or patients, have than there are folds."""
    counts = Counter(label for labels in _labels_of_units([*strata], groups, strata).values() for label in labels)
    unit = "patient" if groups else "case"
    return [
        f"the label {label} is in {count} {unit}{'s' * (count > 1)}: some of {num_folds} folds hold out none"
        for label, count in sorted(counts.items(), key=str)
        if count < num_folds
    ]


def splits_of_folds(folds: Sequence[tuple[Sequence[str], Sequence[str]]]) -> list[dict[str, list[str]]]:
    """Folds of [`k_folds`] as the content of nnU-Net's `splits_final.json`."""
    return [{"train": list(train), "val": list(validation)} for train, validation in folds]


def read_fold(path: Path, fold: int) -> tuple[list[str], list[str], int]:
    """The cases to train on and to hold out, sorted, of a file such as nnU-Net's, and its number of folds."""
    folds = read_json(path)
    count = len(folds) if isinstance(folds, list) else 0
    chosen = folds[fold] if 0 <= fold < count and isinstance(folds[fold], dict) else {}
    parts = [chosen.get(key) for key in ("train", "val")]
    if not all(isinstance(part, list) and all(isinstance(name, str | int) for name in part) for part in parts):
        content = f'{count} folds, counted from 0, in a list of {{"train": ["CASE", …], "val": […]}}'
        raise ValueError(f"{path} has no fold {fold} with train and val: expected one of its {content}.")
    train, validation = (sorted(map(str, part or ())) for part in parts)
    return train, validation, count


def units_of(cases: Sequence[str], groups: Mapping[str, str] | None) -> list[str]:
    """What is divided, in the order of the cases: the groups, and the cases without one."""
    return list(dict.fromkeys((groups or {}).get(case, case) for case in cases))


def _labels_of_units(cases: Sequence[str], groups: Mapping[str, str] | None, strata: _Labels) -> dict[str, set[Any]]:
    labels: dict[str, set[Any]] = {}
    for case in cases:
        labels.setdefault((groups or {}).get(case, case), set()).update(strata[case])
    return labels


def divide(cases: Sequence[str], groups: Mapping[str, str] | None, held_out: set[str]) -> tuple[list[str], list[str]]:
    """The cases in their order, those of the other units and those of the units held out."""
    chosen = [(groups or {}).get(case, case) in held_out for case in cases]
    parts = [[case for case, out in zip(cases, chosen, strict=True) if out == part] for part in (False, True)]
    return parts[0], parts[1]
