"""Colours of labels, Matplotlib figures as files, what all charts share, and curves."""

import io
import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..utils.atomic import write_bytes
from ..utils.text import printable

__all__ = [
    "GREY",
    "MAX_LABELS",
    "add_legend",
    "draw_curve",
    "draw_sizes",
    "figure_jpeg",
    "finish_svg",
    "finite_column",
    "hex_colors",
    "label_colors",
    "running_mean",
    "save_png",
    "shorten",
]

GREY = "#7d8894"  # of axes and text, readable on white and on black
MAX_LABELS = 24  # that a chart shows


def label_colors(num_labels: int) -> np.ndarray:
    """Return one RGB colour for each label, of shape `(num_labels, 3)`, floats in [0, 1]; the background is black."""
    # Index 7 of tab10 is grey, which can't be seen on a scan.
    few = [color for index, color in enumerate(matplotlib.color_sequences["tab10"]) if index != 7]
    many = matplotlib.colormaps["gist_ncar"]
    count = num_labels - 1
    colors = few[:count] if count <= len(few) else [many(index / count)[:3] for index in range(count)]
    return np.array([(0.0, 0.0, 0.0), *colors])


def hex_colors(num_labels: int) -> list[str]:
    """Return [`label_colors`] for HTML, such as "#1f77b4"."""
    return [matplotlib.colors.to_hex(color) for color in label_colors(num_labels)]


def running_mean(values: Sequence[float] | np.ndarray, share: float = 0.05) -> np.ndarray:
    """Average each value with the values before it, over a window of `share` of all values."""
    if not len(values):
        return np.zeros(0)
    window = max(1, int(len(values) * share))
    padded = np.concatenate([np.full(window - 1, values[0]), values])
    return np.convolve(padded, np.ones(window) / window, mode="valid")


def finite_column(rows: Sequence[Mapping[Any, Any]], key: Hashable) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and the values of a column of a training's log where it holds finite numbers."""
    known = [(row["step"], row[key]) for row in rows if row.get(key) is not None and np.isfinite(row[key])]
    return np.array([step for step, _ in known], dtype=int), np.array([value for _, value in known], dtype=float)


def shorten(name: str, length: int = 20) -> str:
    """Shorten a label's name to `length` characters."""
    return printable(name if len(name) <= length else f"{name[: length - 1]}…")


def add_legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], **style: Any) -> None:
    """Add a legend outside the axes; names are shown literally, not read as formulas or hidden for an underscore."""
    legend = figure.legend(handles, ["·"] * len(names), frameon=False, **style)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(parse_math=False, text=name)


def finish_svg(figure: Figure, axis: Axes) -> bytes:
    """Return a chart as SVG, with a transparent ground, grey axes and a legend of the named curves above."""
    figure.patch.set_alpha(0)
    axis.patch.set_alpha(0)
    axis.tick_params(which="both", colors=GREY, labelsize=9)
    axis.xaxis.label.set(color=GREY, fontsize=9)
    for side, spine in axis.spines.items():
        spine.set(color=GREY, visible=side == "bottom")
    handles, names = axis.get_legend_handles_labels()
    if handles:
        add_legend(figure, handles, names, fontsize=8.5, labelcolor=GREY, loc="outside upper left", ncols=4)
    return _content(figure, format="svg", metadata={"Date": None})


def save_png(figure: Figure, path: str | os.PathLike[str], dpi: int) -> None:
    """Write a figure as a PNG, atomically."""
    write_bytes(path, _content(figure, format="png", dpi=dpi))


def figure_jpeg(figure: Figure) -> bytes:
    """Return a figure as a JPEG, for pages."""
    return _content(figure, format="jpeg", dpi=100, pil_kwargs={"quality": 88})


def _content(figure: Figure, **options: Any) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "samed_hf"}):
        # Characters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(content, **options)
    return content.getvalue()


def draw_sizes(
    frames: Sequence[int], sizes: Mapping[str, Sequence[float]], colors: Mapping[str, str], unit: str
) -> bytes:
    """Draw the size of each label over the frames of a scan, as SVG."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axis = figure.subplots()
    for name, values in [*sizes.items()][:MAX_LABELS]:
        axis.plot(frames, values, ".-", color=colors[name], linewidth=1.2, markersize=4, label=shorten(name))
    axis.set(xlabel=f"frame ({unit} of each label)", ylim=(0, None))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return finish_svg(figure, axis)


def draw_curve(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], *, title: str = "") -> None:
    """Draw the losses and the learning rate of a training as a PNG; values that aren't finite numbers are left out."""
    figure = Figure(figsize=(8, 4.5), facecolor="white")
    axis = figure.subplots()
    for key, name in (("loss", "loss"), ("cross_entropy", "cross-entropy"), ("dice", "Dice loss")):
        steps, values = finite_column(rows, key)
        line = axis.plot(steps, values, alpha=0.25, linewidth=0.8)[0]
        axis.plot(steps, running_mean(values), color=line.get_color(), label=name)
    steps, values = finite_column(rows, "validation_dice")
    if len(steps):
        axis.plot(steps, values, "ko-", markersize=4, label="validation DSC")
    axis.set(xlabel="optimizer step", ylabel="loss, DSC", ylim=(0, None), title=title)
    axis.grid(alpha=0.3)
    rate = axis.twinx()
    rate.plot(*finite_column(rows, "learning_rate"), color="gray", linestyle=":", label="learning rate")
    rate.set(ylabel="learning rate", ylim=(0, None))
    handles = [*axis.get_legend_handles_labels()[0], *rate.get_legend_handles_labels()[0]]
    axis.legend(handles=handles, loc="upper right", fontsize=9)
    figure.tight_layout()
    save_png(figure, path, dpi=110)
