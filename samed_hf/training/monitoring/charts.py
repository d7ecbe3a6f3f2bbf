"""Curves of a training's report as SVG, readable in light and dark mode; rows are those of the log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...reporting.charts import GREY, MAX_LABELS, finish_svg, finite_column, label_colors, running_mean, shorten
from .log import numbers_of

__all__ = ["best_validation", "draw_gradient", "draw_label_losses", "draw_losses", "draw_rate", "draw_validation"]

_RED, _BLUE = "#d3495a", "#3b82d6"
_LOSSES = {"loss": ("loss", _BLUE), "cross_entropy": ("cross-entropy", "#d9822b"), "dice": ("Dice loss", "#2f9e6e")}
_WIDTH, _HEIGHT = 4.8, 2.4
_POINTS = 300
Rows = Sequence[Mapping[str, Any]]


def best_validation(rows: Rows) -> Mapping[str, Any] | None:
    """Return the first row with the highest "validation_dice", or `None` without a validation."""
    validated = [row for row in rows if (dice := row.get("validation_dice")) is not None and math.isfinite(dice)]
    return max(validated, key=lambda row: row["validation_dice"], default=None)


def draw_losses(rows: Rows, skipped: Sequence[int] = ()) -> bytes | None:
    """Draw the loss and its parts, each with its running mean over a twentieth of the run, and mark skipped steps."""
    columns = {key: finite_column(rows, key) for key in _LOSSES}
    if not any(len(steps) for steps, _ in columns.values()):
        return None
    figure, axis = _figure(1)
    for key, (steps, values) in columns.items():
        _plot(axis, steps, values, *_LOSSES[key])
    for index, step in enumerate(skipped):
        axis.axvline(step, color=_RED, linewidth=0.9, label="" if index else "skipped")
    axis.set_ylim(0, None)
    return finish_svg(figure, axis)


def draw_label_losses(rows: Rows, labels: Sequence[str]) -> bytes | None:
    """Draw the Dice loss of each label, the background first, as a running mean over a twentieth of the run."""
    curves = _label_curves(rows, labels, "dice")
    if not curves:
        return None
    figure, axis = _figure(-(-len(curves) // 4))
    for name, color, steps, values in curves:
        axis.plot(*_thin(steps, running_mean(values)), color=color, linewidth=1.3, label=name)
    axis.set_ylim(0, None)
    return finish_svg(figure, axis)


def draw_rate(rows: Rows) -> bytes | None:
    """Draw the learning rate of each step."""
    steps, values = finite_column(rows, "learning_rate")
    if not len(steps):
        return None
    figure, axis = _figure(0)
    axis.plot(*_thin(steps, values), color=_BLUE, linewidth=1.4)
    axis.set_ylim(0, None)
    axis.ticklabel_format(axis="y", scilimits=(-3, 3))
    axis.yaxis.get_offset_text().set(color=GREY, fontsize=8)
    return finish_svg(figure, axis)


def draw_gradient(rows: Rows, limit: float | None = None) -> bytes | None:
    """Draw the gradient's norm before clipping to `limit`, on a logarithmic axis if it varies much."""
    steps, values = finite_column(rows, "gradient_norm")
    if not len(steps):
        return None
    figure, axis = _figure(1)
    _plot(axis, steps, values, "gradient norm", _BLUE)
    if limit:
        axis.axhline(limit, color=GREY, linestyle="--", linewidth=1, label=f"clipped to {limit:g}")
    if values.min() > 0 and values.max() > 30 * values.min():
        axis.set_yscale("log")
    else:
        axis.set_ylim(0, None)
    return finish_svg(figure, axis)


def draw_validation(rows: Rows, labels: Sequence[str]) -> bytes | None:
    """Draw the Dice of each label and their mean at every validation, and mark the best one."""
    best = best_validation(rows)
    if best is None:
        return None
    curves = _label_curves(rows, labels, "validation_dice")
    figure, axis = _figure(-(-(len(curves) + 2) // 4))
    for name, color, steps, values in curves:
        axis.plot(steps, values, color=color, linewidth=1, marker=".", label=name)
    mean = finite_column(rows, "validation_dice")
    axis.plot(*mean, color=GREY, linewidth=2.4, marker="o", markersize=4, label="mean")
    axis.axvline(best["step"], color=_RED, linestyle="--", linewidth=1)
    axis.plot(best["step"], best["validation_dice"], "*", color=_RED, markersize=12, linestyle="", label="best")
    axis.set_xlim(0, None)
    axis.set_ylim(0, 1)
    return finish_svg(figure, axis)


def _label_curves(rows: Rows, labels: Sequence[str], column: str) -> list[tuple[str, Any, np.ndarray, np.ndarray]]:
    """Return name, colour, steps and values of the labels that have any."""
    numbers, colors = [numbers_of(row, labels) for row in rows], [GREY, *label_colors(len(labels))[1:]]
    curves = [
        (shorten(name), color, *finite_column(numbers, f"{column}/{name}"))
        for name, color in zip(labels[: MAX_LABELS + 1], colors, strict=False)
    ]
    return [curve for curve in curves if len(curve[2])]


def _plot(axis: Axes, steps: np.ndarray, values: np.ndarray, name: str, color: str) -> None:
    axis.plot(*_thin(steps, values), color=color, alpha=0.3, linewidth=0.8)
    axis.plot(*_thin(steps, running_mean(values)), color=color, linewidth=1.6, label=name)


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the minimum and the maximum of each of `_POINTS` ranges of a long curve."""
    if len(values) <= 2 * _POINTS:
        return steps, values
    kept: list[int] = []
    for part in np.array_split(np.arange(len(values)), _POINTS):
        kept += sorted({int(part[np.argmin(values[part])]), int(part[np.argmax(values[part])])})
    return steps[kept], values[kept]


def _figure(legend_rows: int) -> tuple[Figure, Axes]:
    figure = Figure((_WIDTH, _HEIGHT + 0.2 * legend_rows), layout="constrained")
    axis = figure.subplots()
    axis.grid(color=GREY, alpha=0.25, linewidth=0.6)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_xlabel("step")
    return figure, axis
