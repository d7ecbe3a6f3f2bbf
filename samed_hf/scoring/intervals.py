"""Statistics over cases: bootstrap intervals of mean scores, and paired comparisons of two models."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

__all__ = ["PairedComparison", "compare_pairs", "holm", "mean_interval", "score_intervals"]

_BATCH = 1000  # bootstrap samples in memory at a time


class PairedComparison(NamedTuple):
    """The differences of one score between two models on the same cases, the second minus the first."""

    cases: int  # with a score of both
    left_out: int  # cases without one
    mean_difference: float | None  # `None` without cases
    interval: list[float] | None  # of the mean difference; `None` for fewer than two cases
    p_value: float | None  # of the two-sided Wilcoxon signed-rank test; `None` for fewer than two cases
    effect_size: float | None  # in [-1, 1]; `None` if no case differs
    wins: int  # cases in which the second has the higher score, or the lower one if lower is better
    ties: int
    losses: int


def score_intervals(
    metrics: Mapping[str, Any], *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """Return the intervals of all means in `metrics.json`, ready for JSON.

    Cases are drawn with replacement, and the means of the classes and over the classes are computed anew: the
    bias-corrected and accelerated bootstrap (BCa; Efron 1987) of scipy.

    Args:
        metrics: the content of `metrics.json`.
        level: confidence level in (0, 1).
        draws: number of bootstrap samples.
        seed: of the draws; the same scores and seed give the same intervals.

    Returns:
        `{"level", "method", "draws", "seed", "mean": {score: [low, high]}, "per_class": {label: {score: …}}}`; `None`
        for fewer than two cases with the score.
    """
    labels, cases = list(metrics["per_class"]), list(metrics["per_case"].values())
    mean: dict[str, Any] = {}
    per_class: dict[str, dict[str, Any]] = {label: {} for label in labels}
    for key in metrics["mean"]:
        values = np.array([[case[label][key] for label in labels] for case in cases], dtype=np.float64)
        options: dict[str, Any] = {"level": level, "draws": draws, "seed": seed}
        mean[key] = mean_interval(values, **options)
        for index, label in enumerate(labels):
            per_class[label][key] = mean_interval(values[:, [index]], **options)
    about = {"level": level, "method": "BCa bootstrap over cases", "draws": draws, "seed": seed}
    return about | {"mean": mean, "per_class": per_class}


def mean_interval(values: np.ndarray, *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> list[float] | None:
    """The BCa bootstrap interval over cases of the mean over classes of their means over cases.

    Args:
        values: scores of shape `(cases, classes)`, NaN where undefined.
        level, draws, seed: see [`score_intervals`].

    Returns:
        Both ends; `None` for fewer than two cases with a score.
    """
    values = values[~np.isnan(values).all(axis=1)]
    if len(values) < 2:
        return None

    def statistic(indices: np.ndarray, axis: int = -1) -> np.ndarray:
        drawn = values[np.moveaxis(indices, axis, -1)]
        return np.nanmean(np.nanmean(drawn, axis=-2), axis=-1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that no drawn case has; BCa of values that are all the same
        found = stats.bootstrap(
            (np.arange(len(values)),),
            statistic,
            n_resamples=draws,
            confidence_level=level,
            method="BCa",
            batch=_BATCH,
            rng=np.random.default_rng(seed),
        ).confidence_interval
        if np.isnan(found.low):  # every draw has the same mean
            return [float(statistic(np.arange(len(values))))] * 2
    return [float(found.low), float(found.high)]


def compare_pairs(
    first: Mapping[str, float | None],
    second: Mapping[str, float | None],
    *,
    lower_is_better: bool = False,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> PairedComparison:
    """Compare the scores of two models by the name of the case; a case without a score of both is left out.

    Differences of zero are left out of the ranks (Wilcoxon's rule), and the p-value is exact or the normal
    approximation as scipy's `method="auto"` chooses. Exact p-values are at least 2^(1 - n) with n cases that differ, so
    that fewer than six can't reach 0.05. The effect size is the matched-pairs rank-biserial correlation (Kerby 2014):
    the share of the rank sum in favour of the second model minus the share in favour of the first.

    Args:
        first, second: a score for each case; `None` or NaN if it is undefined.
        lower_is_better: turns the signs of `effect_size` and `wins`, not those of the differences.
        level, draws, seed: of the interval; see [`score_intervals`].

    Raises:
        ValueError: the cases differ, or there is none.
    """
    if first.keys() != second.keys() or not first:
        only = sorted(first.keys() ^ second.keys())[:3]
        raise ValueError(f"The scores are of different cases, e.g. {', '.join(only) or 'none'}: expected the same.")
    pairs = np.array([(first[case], second[case]) for case in first], dtype=np.float64)
    differences = (pairs[:, 1] - pairs[:, 0])[~np.isnan(pairs).any(axis=1)]
    count = len(differences)
    changed = differences[differences != 0] * (-1 if lower_is_better else 1)
    p_value = None if count < 2 else float(stats.wilcoxon(changed).pvalue) if len(changed) else 1.0
    effect = None
    if len(changed):
        ranks = stats.rankdata(np.abs(changed))
        effect = float(np.sum(ranks * np.sign(changed)) / ranks.sum())
    wins = int(np.sum(changed > 0))
    return PairedComparison(
        cases=count,
        left_out=len(pairs) - count,
        mean_difference=float(differences.mean()) if count else None,
        interval=mean_interval(differences[:, None], level=level, draws=draws, seed=seed),
        p_value=p_value,
        effect_size=effect,
        wins=wins,
        ties=count - len(changed),
        losses=len(changed) - wins,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple tests by Holm's step-down method (Holm 1979); in the order given."""
    order = np.argsort(p_values)
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted.tolist()
