"""Scores over the number of training cases, from one cross-validation for each."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..reporting.formatting import score_titles
from ..reporting.html import data_uri, write_page
from ..utils.atomic import write_bytes, write_text
from .comparison import MEAN, compare_runs
from .pages import cautions, draw_learning_curve
from .summary import read_result

__all__ = ["write_learning_curve"]

_COLUMNS = ("size", "score", "label", "mean", "low", "high", "cases")


def write_learning_curve(output_dir: Path, sizes: Mapping[int, Path]) -> list[dict[str, Any]]:
    """Write `learning_curve.csv`, `learning_curve.svg` and the page `cv_report.html`.

    Args:
        output_dir: where the files are written.
        sizes: for each number of training cases the directory of [`write_cross_validation`].

    Returns:
        The rows of the CSV: for each size, score and label, and the mean over several labels, the mean over the
        out-of-fold cases, its 95 % BCa interval and the number of cases with the score.

    Raises:
        FileNotFoundError: a size isn't collected.
        ValueError: the sizes can't be compared; see [`compare_runs`].
    """
    sizes = dict(sorted(sizes.items()))
    found, summaries = (
        [read_result(path, name) for path in sizes.values()] for name in ("metrics.json", "cv_summary.json")
    )
    labels = [*found[0]["per_class"], *([MEAN] if len(found[0]["per_class"]) > 1 else [])]
    steps = {
        f"{a} to {b}": [test for test in compare_runs([sizes[a], sizes[b]]).tests if test.label == labels[-1]]
        for a, b in pairwise(sizes)
    }
    rows = [row for size, metrics in zip(sizes, found, strict=True) for row in _rows(size, metrics, labels)]
    writer = csv.DictWriter(table := io.StringIO(), _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(output_dir / "learning_curve.csv", table.getvalue())
    titles = score_titles(found[0])
    chart = draw_learning_curve(rows, *next(iter(titles.items())))
    write_bytes(output_dir / "learning_curve.svg", chart)
    write_page(
        output_dir / "cv_report.html",
        "samed_hf.studies",
        "learning_curve.html.j2",
        title=f"Learning curve: {output_dir.resolve().name}",
        subtitle=f"{len(found[0]['per_case'])} cases, each scored once for each size; protocol {found[0]['protocol']}",
        notes=list(dict.fromkeys(note for summary in summaries for note in cautions(summary))),
        chart=data_uri(chart, "image/svg+xml"),
        rows=rows,
        titles=titles,
        sizes={size: Path(os.path.relpath(path, output_dir)).as_posix() for size, path in sizes.items()},
        labels=labels,
        steps=steps,
    )
    return rows


def _rows(size: int, metrics: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
    rows = list[dict[str, Any]]()
    means = {MEAN: metrics["mean"]} | metrics["per_class"]
    intervals = {MEAN: metrics["intervals"]["mean"]} | metrics["intervals"]["per_class"]
    for score in metrics["mean"]:
        for label in labels:
            own = [label] if label in metrics["per_class"] else [*metrics["per_class"]]
            count = sum(any(case[name][score] is not None for name in own) for case in metrics["per_case"].values())
            values = (size, score, label, means[label][score], *(intervals[label][score] or (None, None)), count)
            rows.append(dict(zip(_COLUMNS, values, strict=True)))
    return rows
