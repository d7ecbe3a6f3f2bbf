"""Scores over the number of training cases, from one cross-validation for each."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..data.labels import read_json
from ..reporting.formatting import format_score, score_titles
from ..reporting.html import data_uri, write_page
from ..scoring.intervals import mean_interval
from ..utils.atomic import write_bytes, write_text
from .pages import cautions, draw_learning_curve

__all__ = ["write_learning_curve"]

_COLUMNS = ("size", "score", "label", "mean", "low", "high", "cases")
_MEAN = "(mean)"  # in the column of labels
_FACTS = ("protocol", "distance_unit", "nsd_tolerance_mm", "lesion_min_iou")


def write_learning_curve(output_dir: Path, sizes: Mapping[int, Path]) -> list[dict[str, Any]]:
    """Write `learning_curve.csv`, `learning_curve.svg` and the page `cv_report.html`.

    Args:
        output_dir: where the files are written.
        sizes: for each number of training cases the directory of [`write_cross_validation`].

    Returns:
        The rows of the CSV: for each size, score and label ("(mean)": the mean over them) the mean over the
        out-of-fold cases, its 95 % BCa interval and the number of cases with the score.

    Raises:
        FileNotFoundError: a size isn't collected.
        ValueError: fewer than two sizes, or other cases, labels or scores than those of the first.
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes has {list(sizes)}: expected at least two numbers of training cases.")
    found = {size: _read(sizes[size]) for size in sorted(sizes)}
    first = next(iter(found.values()))
    for size, metrics in found.items():
        for name in ("per_case", "per_class", "mean"):
            if metrics[name].keys() != first[name].keys():
                raise ValueError(f"{sizes[size]} differs from {sizes[min(found)]} in {name}: expected the same names.")
        if differing := [name for name in _FACTS if metrics.get(name) != first.get(name)]:
            raise ValueError(f"{sizes[size]} differs from {sizes[min(found)]} in {differing[0]}: expected the same.")
    rows = [row for size, metrics in found.items() for row in _rows(size, metrics)]
    writer = csv.DictWriter(table := io.StringIO(), _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(output_dir / "learning_curve.csv", table.getvalue())
    titles = score_titles(first)
    key = next(iter(titles))
    chart = draw_learning_curve(rows, key, titles[key])
    write_bytes(output_dir / "learning_curve.svg", chart)
    write_page(
        output_dir / "cv_report.html",
        "samed_hf.studies",
        "learning_curve.html.j2",
        title=f"Learning curve: {output_dir.resolve().name}",
        notes=list(dict.fromkeys(note for path in sizes.values() for note in cautions(_read(path, "cv_summary.json")))),
        rows=rows,
        chart=data_uri(chart, "image/svg+xml"),
        score=format_score,
        subtitle=f"{len(first['per_case'])} cases, each scored once for each size; protocol {first['protocol']}",
        titles=titles,
        sizes={size: Path(os.path.relpath(path, output_dir)).as_posix() for size, path in sorted(sizes.items())},
        labels=[*first["per_class"], _MEAN],
        mean=_MEAN,
        steps=_steps(found),
    )
    return rows


def _read(directory: Path, name: str = "metrics.json") -> dict[str, Any]:
    if not (directory / name).is_file():
        raise FileNotFoundError(f"{directory} has no {name}: expected a cross-validation that is complete.")
    return dict(read_json(directory / name))


def _rows(size: int, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = list[dict[str, Any]]()
    means = metrics["per_class"] | {_MEAN: metrics["mean"]}
    intervals = metrics["intervals"]["per_class"] | {_MEAN: metrics["intervals"]["mean"]}
    for score in metrics["mean"]:
        known = ~np.isnan(_values(metrics, score))
        counts = [*known.sum(axis=0).tolist(), int(known.any(axis=1).sum())]
        for (label, row), count in zip(means.items(), counts, strict=True):
            values = (size, score, label, row[score], *(intervals[label][score] or (None, None)), count)
            rows.append(dict(zip(_COLUMNS, values, strict=True)))
    return rows


def _steps(found: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The paired difference of the mean over labels and cases between each size and the next, with its interval."""
    steps, sizes = list[dict[str, Any]](), list(found)
    for before, after in pairwise(sizes):
        for score in found[after]["mean"]:
            values = _values(found[after], score) - _values(found[before], score, like=found[after])
            known = values[~np.isnan(values).all(axis=1)]
            difference = float(np.nanmean(np.nanmean(known, axis=0))) if len(known) else None
            pair = mean_interval(known, level=0.95, draws=10_000, seed=0)
            steps.append({"sizes": (before, after), "score": score, "difference": difference, "interval": pair})
    return steps


def _values(metrics: Mapping[str, Any], score: str, like: Mapping[str, Any] | None = None) -> np.ndarray:
    """A score `(cases, labels)`, NaN where it is undefined, in the order of `like`'s cases and labels."""
    order = like or metrics
    rows = [[metrics["per_case"][case][label][score] for label in order["per_class"]] for case in order["per_case"]]
    return np.array(rows, dtype=np.float64)
