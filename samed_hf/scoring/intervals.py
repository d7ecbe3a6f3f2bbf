"""Statistics over cases: bootstrap intervals of means, and paired comparisons of two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

__all__ = ["Interval", "PairedComparison", "compare_pairs", "holm", "mean_interval"]

_DRAWS = 10_000


class Interval(NamedTuple):
    """A confidence interval; both ends are `None` where it is undefined: for fewer than two cases."""

    low: float | None
    high: float | None


class PairedComparison(NamedTuple):
    """The differences of one score between two models on the same cases, the second minus the first."""

    cases: int
    mean_difference: float
    interval: Interval  # of the mean difference
    p_value: float | None  # of the two-sided Wilcoxon signed-rank test; `None` for fewer than two cases
    effect_size: float | None  # matched-pairs rank-biserial correlation in [-1, 1]; `None` if no case differs


def mean_interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0, draws: int = _DRAWS) -> Interval:
    """Bootstrap the mean over cases: bias-corrected and accelerated (BCa; Efron 1987), from scipy.

    Args:
        values: one score for each case.
        level: confidence level in (0, 1).
        seed: of the random draws; equal values and seed give the same interval.
        draws: number of bootstrap samples.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return Interval(None, None)
    if np.ptp(array) == 0:  # BCa is undefined, and every bootstrap sample has the same mean
        return Interval(float(array[0]), float(array[0]))
    found = stats.bootstrap(
        (array,), np.mean, n_resamples=draws, confidence_level=level, method="BCa", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def compare_pairs(first: Mapping[str, float], second: Mapping[str, float], *, seed: int = 0) -> PairedComparison:
    """Compare the scores of two models by the name of the case.

    Raises:
        ValueError: the cases differ, or there is none.
    """
    if first.keys() != second.keys() or not first:
        only = sorted(first.keys() ^ second.keys())[:3]
        raise ValueError(f"The scores are of different cases, e.g. {', '.join(only) or 'none'}: expected the same.")
    differences = np.array([second[case] - first[case] for case in first], dtype=np.float64)
    changed = differences[differences != 0]
    p_value = None if len(differences) < 2 else float(stats.wilcoxon(changed).pvalue) if len(changed) else 1.0
    effect = None
    if len(changed):
        ranks = stats.rankdata(np.abs(changed))
        effect = float(np.sum(ranks * np.sign(changed)) / ranks.sum())
    interval = mean_interval(differences, seed=seed)
    return PairedComparison(len(differences), float(differences.mean()), interval, p_value, effect)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple tests by Holm's step-down method (Holm 1979); in the order given."""
    order = np.argsort(p_values)
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted.tolist()
