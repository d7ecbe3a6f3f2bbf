"""Confidence intervals of scores, by bootstrap over cases."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["mean_interval", "score_intervals"]

_BATCH = 1000  # bootstrap samples in memory at a time


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


def mean_interval(values: np.ndarray, *, level: float, draws: int, seed: int) -> list[float] | None:
    """The interval of the mean over classes of their means over cases, of scores `(cases, classes)`, NaN if undefined.

    `None` for fewer than two cases with a score.
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
