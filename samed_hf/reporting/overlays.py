"""What a person looks at: the table of scores, overlays of truth and prediction, the training curve."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from ..utils.atomic import write_bytes

__all__ = [
    "OverlayRow",
    "draw_curve",
    "draw_overlay",
    "draw_rows",
    "format_scores",
    "label_colors",
    "running_mean",
    "write_examples",
]


def format_scores(metrics: Mapping[str, Any]) -> str:
    """The scores of each label and their mean as a table in plain text; "-" where nothing is defined."""
    unit = metrics.get("distance_unit", "voxel")
    width = max(len("label"), *(len(name) for name in metrics["per_class"]))
    head = f"{'label':<{width}}  {'DSC':>6}  {f'HD95 ({unit})':>12}  {'cases':>5}"
    lines = [head, "-" * len(head)]
    for name, row in metrics["per_class"].items():
        note = f"  (no HD95 in {row['hd95_undefined']})" if row.get("hd95_undefined") else ""
        lines.append(f"{name:<{width}}  {_dice(row)}  {_hd95(row)}  {row.get('cases', ''):>5}{note}")
    lines += ["-" * len(head), f"{'mean':<{width}}  {_dice(metrics['mean'])}  {_hd95(metrics['mean'])}"]
    lines.append(f"protocol {metrics['protocol']}, {len(metrics['per_case'])} cases; DSC from 0 to 1")
    return "\n".join(lines)


def _dice(row: Mapping[str, float | None]) -> str:
    return f"{'-':>6}" if row["dice"] is None else f"{row['dice']:>6.4f}"


def _hd95(row: Mapping[str, float | None]) -> str:
    return f"{'-':>12}" if row["hd95"] is None else f"{row['hd95']:>12.2f}"


def label_colors(num_labels: int) -> np.ndarray:
    """One RGB colour for each label, of shape `(num_labels, 3)`, floats in [0, 1]; the background is black."""
    # Of the ten of tab10, grey would vanish on a scan.
    few = [color for index, color in enumerate(matplotlib.colormaps["tab10"].colors) if index != 7]
    many = matplotlib.colormaps["gist_ncar"]
    count = num_labels - 1
    colors = few[:count] if count <= len(few) else [many(index / count)[:3] for index in range(count)]
    return np.array([(0.0, 0.0, 0.0), *colors])


def draw_overlay(
    path: str | os.PathLike,
    image: np.ndarray,
    label: np.ndarray,
    prediction: np.ndarray,
    id2label: Mapping[int, str],
    *,
    title: str = "",
    spacing: Sequence[float] | None = None,
    slices: Sequence[int] | None = None,
    rows_run_up: bool = True,
) -> None:
    """Draw image, truth and prediction of a few slices, one row each, as a PNG.

    Args:
        path: the PNG file.
        image: of shape `(slices, y, x)`, or `(slices, channels, y, x)` of which the first channel is shown, in [0, 1].
        label: truth, the same shape.
        prediction: the same shape.
        id2label: names for the legend.
        title: line above.
        spacing: mm along the three axes, for the right proportions.
        slices: which slices; defaults to three spread over those with most labels.
        rows_run_up: the first row is the lowest or hindmost, as in BTCV's scans; it is drawn below.
    """
    image = image[:, 0] if image.ndim == 4 else image
    if rows_run_up:
        image, label, prediction = (array[:, ::-1] for array in (image, label, prediction))
    slices = _representative_slices(label) if slices is None else list(slices)
    shown = [array[slices] for array in (image, label, prediction)]
    box = _bright_box((shown[0] > 0.05) | (shown[1] > 0) | (shown[2] > 0))
    aspect = 1.0 if spacing is None else spacing[1] / spacing[2]
    rows = [
        OverlayRow(*(array[index][box] for array in (image, label, prediction)), f"image, slice {index}", aspect=aspect)
        for index in slices
    ]
    draw_rows(path, rows, id2label, title=title)


class OverlayRow(NamedTuple):
    """A slice to be drawn: image, truth and prediction beside each other.

    Attributes:
        image: of shape `(y, x)`, or `(y, x, 3)` in colour, in [0, 1]; the first row is drawn on top.
        label: truth, of shape `(y, x)`, integer.
        prediction: the same shape, integer.
        name: above the image.
        result: above the prediction.
        aspect: height of a pixel, its width being 1.
    """

    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    name: str
    result: str = "prediction"
    aspect: float = 1.0


def draw_rows(
    path: str | os.PathLike, rows: Sequence[OverlayRow], id2label: Mapping[int, str], *, title: str = ""
) -> None:
    """Draw slices, also of different sizes, below each other as a PNG, with the colours of their labels.

    Args:
        path: the PNG file.
        rows: at least one slice.
        id2label: names for the legend.
        title: line above.
    """
    colors = label_colors(len(id2label))
    heights = [3.0 * row.aspect * row.image.shape[0] / row.image.shape[1] + 0.3 for row in rows]
    figure = Figure(figsize=(9.4, sum(heights) + 1.0), facecolor="white", layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False, gridspec_kw={"height_ratios": heights})
    for line, row in zip(axes, rows, strict=True):
        image = np.clip(row.image, 0, 1)
        image = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
        names, masks = (row.name, "truth", row.result), (None, row.label, row.prediction)
        for axis, name, mask in zip(line, names, masks, strict=True):
            picture = image if mask is None else _blend(image, mask, colors)
            axis.imshow(picture, aspect=row.aspect, interpolation="nearest")
            # Names are shown as they are, not read as formulas.
            axis.set_title(name, fontsize=10, parse_math=False)
            axis.set_axis_off()
    present = np.unique(np.concatenate([np.union1d(row.label, row.prediction) for row in rows]))
    patches = [Patch(color=colors[value], label="·") for value in present if value]
    if patches:
        legend = figure.legend(
            handles=patches, loc="outside lower center", ncols=min(4, len(patches)), frameon=False, fontsize=9
        )
        for text, value in zip(legend.get_texts(), present[present > 0], strict=True):
            text.set(parse_math=False, text=id2label[int(value)])
    figure.suptitle(title, fontsize=11, parse_math=False)
    _save(figure, path)


def write_examples(folder: str | os.PathLike, name: str, image: np.ndarray, label: np.ndarray) -> list[Path]:
    """Write the telling slices of a case as 8-bit PNGs `NAME-slice-INDEX.png`, rows as the model reads them.

    Args:
        folder: made where it is missing.
        name: of the case.
        image: of shape `(slices, y, x)` in [0, 1], or `(slices, channels, y, x)`, of which the first channel counts.
        label: truth, of shape `(slices, y, x)`.

    Returns:
        The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    image = image[:, 0] if image.ndim == 4 else image
    paths = []
    for index in _representative_slices(label):
        content = io.BytesIO()
        pixels = np.round(np.clip(image[index], 0, 1) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(content, format="PNG")
        paths.append(folder / f"{name}-slice-{index}.png")
        write_bytes(paths[-1], content.getvalue())
    return paths


def draw_curve(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], *, title: str = "") -> None:
    """Draw the losses and the learning rate of a run as a PNG.

    Args:
        path: the PNG file.
        rows: one for each optimizer step with "step", and "loss", "cross_entropy", "dice" and "learning_rate" where
            they are finite numbers, and "validation_dice" where there was a validation.
        title: line above.
    """
    figure = Figure(figsize=(8, 4.5), facecolor="white")
    axis = figure.subplots()
    for key, name in (("loss", "loss"), ("cross_entropy", "cross-entropy"), ("dice", "Dice loss")):
        steps, values = _known(rows, key)
        line = axis.plot(steps, values, alpha=0.25, linewidth=0.8)[0]
        axis.plot(steps, running_mean(values), color=line.get_color(), label=name)
    steps, values = _known(rows, "validation_dice")
    if steps:
        axis.plot(steps, values, "ko-", markersize=4, label="validation DSC")
    axis.set(xlabel="optimizer step", ylabel="loss, DSC", ylim=(0, None), title=title)
    axis.grid(alpha=0.3)
    rate = axis.twinx()
    rate.plot(*_known(rows, "learning_rate"), color="gray", linestyle=":", label="learning rate")
    rate.set(ylabel="learning rate", ylim=(0, None))
    handles = [*axis.get_legend_handles_labels()[0], *rate.get_legend_handles_labels()[0]]
    axis.legend(handles=handles, loc="upper right", fontsize=9)
    figure.tight_layout()
    _save(figure, path)


def _known(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of a column, without those of steps that were skipped."""
    known = [(row["step"], row[key]) for row in rows if row.get(key) is not None and np.isfinite(row[key])]
    return [step for step, _ in known], [value for _, value in known]


def _blend(picture: np.ndarray, mask: np.ndarray, colors: np.ndarray) -> np.ndarray:
    painted = 0.5 * picture + 0.5 * colors[mask]
    return np.where((mask > 0)[..., None], painted, picture)


def _bright_box(bright: np.ndarray, margin: int = 4) -> tuple[slice, slice]:
    """Rows and columns of `(slices, y, x)` that hold something, and a margin in pixels; all where there is nothing."""
    box = []
    for axis, size in enumerate(bright.shape[1:]):
        found = np.flatnonzero(bright.any(axis=(0, 2 - axis)))
        box.append(slice(max(0, found[0] - margin), found[-1] + 1 + margin) if len(found) else slice(0, size))
    return box[0], box[1]


def _representative_slices(label: np.ndarray, count: int = 3) -> list[int]:
    """Slices spread over the labelled range, each the one with most labels of its third."""
    variety = np.array([len(np.unique(one)) + (one > 0).mean() for one in label])
    labelled = np.flatnonzero((label > 0).any(axis=(1, 2)))
    candidates = labelled if len(labelled) >= count else np.arange(len(label))
    parts = np.array_split(candidates, min(count, len(candidates)))
    return [int(part[np.argmax(variety[part])]) for part in parts]


def running_mean(values: Sequence[float], share: float = 0.05) -> np.ndarray:
    """Mean of each value and those before it, over a share of the run."""
    if not len(values):
        return np.zeros(0)
    window = max(1, int(len(values) * share))
    padded = np.concatenate([np.full(window - 1, values[0]), values])
    return np.convolve(padded, np.ones(window) / window, mode="valid")


def _save(figure: Figure, path: str | os.PathLike) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_bytes(Path(path), content.getvalue())
