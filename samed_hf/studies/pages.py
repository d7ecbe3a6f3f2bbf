"""The page of a cross-validation, its charts and that of a learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..reporting.charts import GREY, MAX_LABELS, finish_svg, label_colors, shorten
from ..reporting.formatting import format_duration, format_interval, format_score, format_value, score_titles
from ..reporting.html import data_uri, write_page
from ..scoring.measures import HIGHER_IS_BETTER
from .comparison import MEAN

__all__ = ["cautions", "draw_learning_curve", "write_cv_page"]

_IMAGES, _CHARTS = 6, 4


def write_cv_page(
    output_dir: Path, summary: Mapping[str, Any], metrics: Mapping[str, Any], fold_of: Mapping[str, int]
) -> None:
    """Write `cv_report.html` from the content of `cv_summary.json` and `metrics.json` and the fold of each case."""
    titles = score_titles(metrics)
    charts = [(titles[key], _draw_cases(metrics, fold_of, key)) for key in list(titles)[:_CHARTS]]
    write_page(
        output_dir / "cv_report.html",
        "samed_hf.studies",
        "cross_validation.html.j2",
        title=f"Cross-validation: {output_dir.resolve().name}",
        subtitle=f"{len(summary['folds'])} folds, {len(fold_of)} cases, protocol {summary['protocol']}",
        notes=cautions(summary),
        summary=summary,
        metrics=metrics,
        titles=titles,
        facts=_facts(summary, titles),
        spread=_spread,
        charts=[{"caption": title, "source": data_uri(chart, "image/svg+xml")} for title, chart in charts],
        worst=_worst(output_dir, metrics, fold_of, titles),
        settings={key.replace("_", " "): value for key, value in summary["settings"].items() if value is not None},
    )


def _facts(summary: Mapping[str, Any], titles: Mapping[str, str]) -> list[tuple[str, str, str]]:
    facts = [(str(summary["cases"]), f"cases, each scored once, in {len(summary['folds'])} folds", "")]
    for key in list(titles)[:2]:
        ends = format_interval(key, summary["intervals"]["mean"][key])
        text = f"{titles[key]}, mean ± SD over cases; 95 % interval of the mean {ends}"
        facts.append((_spread(key, summary["over_cases"]["mean"][key]), text, ""))
    key = next(iter(titles))
    facts.append((_spread(key, summary["over_folds"]["mean"][key]), f"{titles[key]}, mean ± SD over folds", ""))
    return [*facts, (format_duration(summary["seconds"]), "of training", "")]


def cautions(summary: Mapping[str, Any]) -> list[str]:
    """What makes the scores of a cross-validation other than they seem."""
    notes = []
    if summary["random_base"]:
        notes.append("The base model has random weights: a demonstration, not a medical result.")
    if summary["synthetic"]:
        notes.append("The data are synthetic.")
    if (summary["settings"] | summary["differing_settings"]).get("early_stopping_patience"):
        notes.append(
            "Early stopping chose the adapter of each fold by the Dice of held-out cases, which are scored here too: "
            "the scores may be too high."
        )
    for name, values in summary["differing_settings"].items():
        notes.append(f"The folds were trained with different values of {name}: {format_value(values)}.")
    return notes


def _spread(key: str, values: Mapping[str, float | None]) -> str:
    """A mean with its standard deviation, if it has one."""
    text = format_score(key, values["mean"])
    return text if values["sd"] is None else f"{text} ± {format_score(key, values['sd'])}"


def _worst(
    output_dir: Path, metrics: Mapping[str, Any], fold_of: Mapping[str, int], titles: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The cases with the worst mean of the first score that has a direction, with their images if there are some."""
    # The number of lesions that were found depends on how many a case has.
    key = next((key for key in titles if key in HIGHER_IS_BETTER and key != "lesion_tp"), None)
    if key is None:
        return []
    means = {
        case: [row[key] for row in labels.values() if row[key] is not None]
        for case, labels in metrics["per_case"].items()
    }
    known, found = {case: fmean(values) for case, values in means.items() if values}, []
    for case in sorted(known, key=lambda case: (known[case] * (1 if HIGHER_IS_BETTER[key] else -1), case))[:_IMAGES]:
        image = output_dir / "images" / f"{case}.png"
        scores = ", ".join(f"{label} {format_score(key, row[key])}" for label, row in metrics["per_case"][case].items())
        text = f"{titles[key]} {format_score(key, known[case])}, fold {fold_of[case]}: {scores}"
        found.append({"name": case, "text": text, "image": image if image.is_file() else None})
    return found


def _draw_cases(metrics: Mapping[str, Any], fold_of: Mapping[str, int], key: str) -> bytes:
    """Each case as a point over its label, in the colour of its fold, and the mean of the label as a line."""
    labels = list(metrics["per_class"])[:MAX_LABELS]
    colors = label_colors(max(fold_of.values()) + 2)[1:]
    figure, axis = _figure(max(4.8, 0.55 * len(labels)))
    for fold, color in enumerate(colors):
        points = [
            (place + 0.6 * (number * 0.6180339887 % 1 - 0.5), row[label][key])  # spread evenly by the golden ratio
            for number, (case, row) in enumerate(metrics["per_case"].items())
            for place, label in enumerate(labels)
            if fold_of[case] == fold and row[label][key] is not None
        ]
        x, y = np.reshape(points, (-1, 2)).T
        axis.plot(x, y, "o", color=color, markersize=3.5, alpha=0.7, label=f"fold {fold}", markeredgewidth=0)
    for place, label in enumerate(labels):
        if (mean := metrics["per_class"][label][key]) is not None:
            axis.plot([place - 0.4, place + 0.4], [mean, mean], color=GREY, linewidth=2)
    axis.set_xticks(range(len(labels)), [shorten(label, 14) for label in labels], rotation=30 if len(labels) > 4 else 0)
    for text in axis.get_xticklabels():
        text.set_parse_math(False)
    return finish_svg(figure, axis)


def draw_learning_curve(rows: Sequence[Mapping[str, Any]], score: str, title: str) -> bytes:
    """Draw the mean of a score with its interval over the number of training cases, for each label and their mean."""
    own = [row for row in rows if row["score"] == score and row["mean"] is not None]
    names = [*dict.fromkeys(row["label"] for row in own)]
    labels = [*[name for name in names if name != MEAN][:MAX_LABELS], *(name for name in names if name == MEAN)]
    figure, axis = _figure(6.4)
    for place, (label, color) in enumerate(zip(labels, label_colors(len(labels) + 1)[1:], strict=True)):
        found = [row for row in own if row["label"] == label]
        # Beside each other, so that the intervals can be told apart.
        x = [row["size"] * 1.02 ** (place - (len(labels) - 1) / 2) for row in found]
        means = np.array([row["mean"] for row in found])
        ends = np.array([[row["mean"] if row[end] is None else row[end] for row in found] for end in ("low", "high")])
        style = {"color": GREY, "linewidth": 2.4} if label == MEAN else {"color": color, "linewidth": 1.2}
        options: dict[str, Any] = {"capsize": 2, "marker": "o", "markersize": 4, "label": shorten(label)} | style
        axis.errorbar(x, means, np.abs(ends - means), **options)
    sizes = sorted({row["size"] for row in own})
    axis.set(xscale="log", xlabel=f"training cases (logarithmic); {title}")
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.set_xticks([], minor=True)
    return finish_svg(figure, axis)


def _figure(width: float) -> tuple[Figure, Axes]:
    figure = Figure((width, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.grid(color=GREY, alpha=0.25, linewidth=0.6)
    return figure, axis
