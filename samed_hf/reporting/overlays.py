"""Slices with their true and predicted labels, and a case's slices as example images."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from ..utils.atomic import write_bytes
from .charts import add_legend, label_colors, save_png

__all__ = ["OverlayRow", "content_box", "draw_overlay", "draw_rows", "write_examples"]

_MARGIN = 4  # pixels


def draw_overlay(
    path: str | os.PathLike[str],
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
    """Draw image, truth and prediction of a few slices of a case, one row each, as a PNG.

    `image` is of shape `(slices, y, x)`, or `(slices, channels, y, x)` of which the first channel is shown, in [0, 1].
    `spacing` is in mm along the three axes, for the proportions. By default three `slices` are drawn, spread over
    those with most labels. `rows_run_up` if the first row is the lowest or hindmost, as in BTCV's scans.
    """
    image = image[:, 0] if image.ndim == 4 else image
    if rows_run_up:
        image, label, prediction = (array[:, ::-1] for array in (image, label, prediction))
    slices = _slices_with_most_labels(label) if slices is None else list(slices)
    content = [(image[slices] > 0.05).any(axis=0), *((one[slices] > 0).any(axis=0) for one in (label, prediction))]
    box = content_box(np.logical_or.reduce(content), (_MARGIN, _MARGIN))
    aspect = 1.0 if spacing is None else spacing[1] / spacing[2]
    rows = [
        OverlayRow(image[index][box], label[index][box], prediction[index][box], f"image, slice {index}", aspect=aspect)
        for index in slices
    ]
    draw_rows(path, rows, id2label, title=title)


class OverlayRow(NamedTuple):
    """A slice to draw: image, truth and prediction side by side."""

    image: np.ndarray  # of shape `(y, x)`, or `(y, x, 3)` in colour, in [0, 1]; the first row is drawn on top
    label: np.ndarray  # of shape `(y, x)`, integer
    prediction: np.ndarray  # of shape `(y, x)`, integer
    name: str  # title of the image
    result: str = "prediction"  # title of the prediction
    aspect: float = 1.0  # height of a pixel divided by its width


def draw_rows(
    path: str | os.PathLike[str], rows: Sequence[OverlayRow], id2label: Mapping[int, str], *, title: str = ""
) -> None:
    """Draw at least one slice, which may differ in size, below each other as a PNG."""
    colors = label_colors(len(id2label))
    heights = [3.0 * row.aspect * row.image.shape[0] / row.image.shape[1] + 0.3 for row in rows]
    figure = Figure(figsize=(9.4, sum(heights) + 1.0), facecolor="white", layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False, gridspec_kw={"height_ratios": heights})
    for line, row in zip(axes, rows, strict=True):
        image = np.clip(row.image, 0, 1)
        image = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
        masks = (np.where(mask < len(colors), mask, 0) for mask in (row.label, row.prediction))  # 255 is ignored
        blends = (np.where(mask[..., None] > 0, 0.5 * image + 0.5 * colors[mask], image) for mask in masks)
        for axis, name, panel in zip(line, (row.name, "truth", row.result), (image, *blends), strict=True):
            axis.imshow(panel, aspect=row.aspect, interpolation="nearest")
            axis.set_title(name, fontsize=10, parse_math=False)
            axis.set_axis_off()
    values = np.unique(np.concatenate([np.union1d(row.label, row.prediction) for row in rows]))
    if present := [int(value) for value in values if 0 < value < len(colors)]:
        patches = [Patch(color=colors[value]) for value in present]
        names = [id2label[value] for value in present]
        add_legend(figure, patches, names, loc="outside lower center", ncols=min(4, len(names)), fontsize=9)
    figure.suptitle(title, fontsize=11, parse_math=False)
    save_png(figure, path, dpi=110)


def write_examples(directory: str | os.PathLike[str], name: str, image: np.ndarray, label: np.ndarray) -> list[Path]:
    """Write the slices of a case that show most labels as 8-bit PNGs `NAME-slice-INDEX.png`, and return their paths.

    `image` is of shape `(slices, y, x)` in [0, 1], or `(slices, channels, y, x)`; the first channel is written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    image = image[:, 0] if image.ndim == 4 else image
    paths = []
    for index in _slices_with_most_labels(label):
        content = io.BytesIO()
        Image.fromarray(np.round(np.clip(image[index], 0, 1) * 255).astype(np.uint8)).save(content, format="PNG")
        paths.append(directory / f"{name}-slice-{index}.png")
        write_bytes(paths[-1], content.getvalue())
    return paths


def content_box(content: np.ndarray, margins: tuple[int, int]) -> tuple[slice, slice]:
    """Return rows and columns of the smallest box around `content` `(y, x)`, or of the whole of an empty one.

    The box is enlarged by margins in pixels along y and x.
    """
    box = []
    for axis, (size, margin) in enumerate(zip(content.shape, margins, strict=True)):
        indices = np.flatnonzero(content.any(axis=1 - axis))
        box.append(slice(max(0, indices[0] - margin), indices[-1] + 1 + margin) if len(indices) else slice(0, size))
    return box[0], box[1]


def _slices_with_most_labels(label: np.ndarray, count: int = 3) -> list[int]:
    """Split the labelled slices into `count` ranges and return the slice with most labels of each."""
    variety = np.array([len(np.unique(one)) + (one > 0).mean() for one in label])
    labelled = np.flatnonzero((label > 0).any(axis=(1, 2)))
    candidates = labelled if len(labelled) >= count else np.arange(len(label))
    parts = np.array_split(candidates, min(count, len(candidates)))
    return [int(part[np.argmax(variety[part])]) for part in parts]
