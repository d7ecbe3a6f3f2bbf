"""A picture of a segmentation: a few telling slices as a radiologist looks at them, with the labels over them."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from ..utils.atomic import write_bytes
from ..volumes.geometry import Volume, reorient
from .overlays import label_colors

__all__ = ["draw_preview", "representative_slices", "slice_plane"]

_PLANES = {"axial": "SI", "coronal": "AP", "sagittal": "RL"}
# Where the patient's sides lie in a slice of each plane: left and top of the picture.
_SIDES = {"axial": ("R", "A"), "coronal": ("R", "S"), "sagittal": ("A", "S")}
_BLACK, _WHITE, _GREY = "#0b0d10", "#f2f4f7", "#9aa3ad"
_WIDTH, _MAX_LEGEND = 9.6, 24


def slice_plane(orientation: str, axis: int) -> str:
    """The plane of slices cut along an axis: "axial", "coronal" or "sagittal".

    Args:
        orientation: Where the axes run to, e.g. "LPS".
        axis: The axis that counts the slices, e.g. 2 for axial slices of a scan in "LPS".
    """
    return next(plane for plane, ends in _PLANES.items() if orientation[axis] in ends)


def draw_preview(
    path: str | os.PathLike,
    scan: Volume,
    labels: np.ndarray,
    id2label: Mapping[int, str],
    *,
    plane: str = "axial",
    window: Sequence[float] | None = None,
    title: str = "",
    picture: bool = False,
) -> None:
    """Draw telling slices of a scan, labels over them and without, upright: the patient's right on the left.

    Args:
        path: The PNG file.
        scan: The scan in its own intensities; of several channels the first is shown, of a picture with three all.
        labels: Label map of shape `scan.grid`.
        id2label: Text of each label for the legend; a label's index gives its colour.
        plane: "axial", "coronal" or "sagittal": which slices, of an oblique scan the nearest ones.
        window: Intensities shown black and white; by default the percentiles 0.5 and 99.5 of the shown slices.
        title: Line above.
        picture: The scan is a picture, shown as it lies.
    """
    images, masks, names = _picture_slices(scan, labels) if picture else _scan_slices(scan, labels, plane)
    aspect = 1.0 if picture else _aspect(scan, plane)
    box = _box(images, masks)
    masks = [mask[box] for mask in masks]
    images = _shown([image[box] for image in images], window, masks)
    present = [int(index) for index in np.unique(np.concatenate([np.unique(mask) for mask in masks])) if index]
    colors = label_colors(max(id2label) + 1)

    rows, columns = (1, 2) if picture else (2, len(images))
    high = np.clip(aspect * masks[0].shape[0] / masks[0].shape[1], 0.2, 1.4) * _WIDTH / max(2, columns)
    legend_rows = -(-min(len(present), _MAX_LEGEND + 1) // 4)
    figure = Figure((_WIDTH, rows * high + 0.6 + 0.24 * legend_rows), facecolor=_BLACK, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.01, hspace=0.01)
    axes = figure.subplots(rows, columns, squeeze=False)
    plain = axes[-1] if rows == 2 else axes[0, 1:]
    for axis, image, mask, name in zip(axes[0], images, masks, names, strict=False):
        _show(axis, image, aspect, name)
        _paint(axis, mask, present, colors)
    for axis, image in zip(plain, images, strict=False):
        _show(axis, image, aspect, "")
    if not picture:
        for axis in axes[:, 0]:
            _mark(axis, *_SIDES[plane])
    _caption(figure, title, present, id2label, colors)
    _save(figure, path)


def representative_slices(masks: np.ndarray, count: int = 3) -> list[int]:
    """Slices spread over the labelled ones, each showing the most of its part, small labels and large ones alike.

    Args:
        masks: Label map `(slices, height, width)`.
        count: How many.

    Returns:
        Ascending indices, fewer than `count` where there are fewer slices; without any label evenly spread ones.
    """
    size = int(masks.max()) + 1
    counts = np.stack([np.bincount(mask.ravel(), minlength=size)[1:] for mask in masks])
    labelled = np.flatnonzero(counts.any(axis=1))
    if len(labelled) < count:
        around = np.linspace(0, len(masks) - 1, min(count, len(masks)) + 2)[1:-1].round().astype(int)
        if not len(labelled):
            return sorted(set(around.tolist()))
        others = [index for index in around.tolist() if index not in labelled]
        return sorted([*labelled.tolist(), *others[: count - len(labelled)]])
    shares = (counts / np.maximum(counts.max(axis=0), 1)).sum(axis=1)
    chosen = []
    for part in np.array_split(labelled, count):
        # The middle of a part counts more, or two neighbours could be chosen from two parts.
        away = np.abs(np.linspace(-1, 1, len(part))) if len(part) > 1 else 0
        chosen.append(int(part[np.argmax(shares[part] * (1 - 0.4 * away))]))
    return chosen


def _scan_slices(scan: Volume, labels: np.ndarray, plane: str) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    """Upright images and masks `(height, width)` of the telling slices, and which they are in the file's order."""
    array = reorient(scan, "LPS").array
    array = array if array.ndim == 3 else array[..., 0]
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    masks = np.moveaxis(reorient(Volume(labels, scan.affine), "LPS").array, axis, 0)
    array = np.moveaxis(array, axis, 0)
    own = next(index for index, letter in enumerate(scan.orientation) if letter in _PLANES[plane])
    numbers = np.arange(scan.grid[own]).reshape([-1 if index == own else 1 for index in range(3)])
    numbers = reorient(Volume(np.broadcast_to(numbers, scan.grid), scan.affine), "LPS").array
    numbers = np.moveaxis(numbers, axis, 0)[:, 0, 0]
    chosen = representative_slices(masks)
    names = [f"{plane} slice {numbers[index] + 1} of {len(numbers)}" for index in chosen]
    # x runs to the left and y to the back, as they are shown; z runs upwards, while rows run down.
    images, masks = ([one[index].T for index in chosen] for one in (array, masks))
    if plane != "axial":
        images, masks = ([one[::-1] for one in slices] for slices in (images, masks))
    return images, masks, names


def _picture_slices(scan: Volume, labels: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    """The one slice of a picture, `(height, width)` or `(height, width, 3)`."""
    image = scan.array[:, :, 0]
    image = image if image.ndim == 2 or image.shape[-1] == 3 else image[..., 0]
    return [np.swapaxes(image, 0, 1)], [labels[:, :, 0].T], [""]


def _aspect(scan: Volume, plane: str) -> float:
    """Height of a shown pixel, its width being 1."""
    x, y, z = reorient(scan, "LPS").spacing
    return {"axial": y / x, "coronal": z / x, "sagittal": z / y}[plane]


def _box(images: list[np.ndarray], masks: list[np.ndarray], margin: float = 0.03) -> tuple[slice, slice]:
    """Rows and columns that hold something in one of the slices, with a margin; the air around is left out."""
    height, width = masks[0].shape
    something = np.zeros((height, width), dtype=bool)
    for image, mask in zip(images, masks, strict=True):
        gray = image if image.ndim == 2 else image.max(axis=-1)
        low, high = np.percentile(gray, (0.5, 99.5))
        something |= (gray > low + 0.1 * (high - low)) | (mask > 0)
    box = []
    for axis, size in enumerate((height, width)):
        found = np.flatnonzero(something.any(axis=1 - axis))
        more = max(2, int(margin * size))
        box.append(slice(max(0, found[0] - more), found[-1] + 1 + more) if len(found) else slice(0, size))
    return box[0], box[1]


def _shown(images: list[np.ndarray], window: Sequence[float] | None, masks: list[np.ndarray]) -> list[np.ndarray]:
    """Slices `(height, width, 3)` in [0, 1]."""
    if images[0].dtype == np.uint8 and window is None and images[0].ndim == 3:
        return [image / 255.0 for image in images]
    low, high = window if window is not None else np.percentile(np.stack(images), (0.5, 99.5))
    scale = 1.0 / (high - low) if high > low else 1.0
    shown = [np.clip((image.astype(np.float64) - low) * scale, 0, 1) for image in images]
    return [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in shown]


def _show(axis: Axes, image: np.ndarray, aspect: float, name: str) -> None:
    axis.imshow(image, aspect=aspect, interpolation="antialiased")
    axis.set_axis_off()
    axis.set_title(name, fontsize=9, color=_GREY, pad=3)


def _paint(axis: Axes, mask: np.ndarray, present: Sequence[int], colors: np.ndarray) -> None:
    """Fill the labels thinly, so that what lies below is seen, and outline them."""
    fill = np.zeros((*mask.shape, 4))
    fill[..., :3], fill[..., 3] = colors[mask], 0.28 * (mask > 0)
    axis.imshow(fill, aspect=axis.get_aspect(), interpolation="nearest")
    # A border of background, so that outlines close at the edge; and contour needs two rows and columns.
    padded = np.pad(mask, 1)
    rows, columns = np.arange(padded.shape[0]) - 1, np.arange(padded.shape[1]) - 1
    for index in present:
        if (mask == index).any():
            axis.contour(columns, rows, padded == index, levels=[0.5], colors=[colors[index]], linewidths=1.1)
    axis.set_xlim(-0.5, mask.shape[1] - 0.5)
    axis.set_ylim(mask.shape[0] - 0.5, -0.5)


def _mark(axis: Axes, left: str, top: str) -> None:
    """Which side of the patient is on the left and at the top."""
    style = {"transform": axis.transAxes, "fontsize": 9, "fontweight": "bold", "color": _WHITE}
    outline = [withStroke(linewidth=2.5, foreground="black")]
    axis.text(0.015, 0.5, left, ha="left", va="center", path_effects=outline, **style)
    axis.text(0.5, 0.985, top, ha="center", va="top", path_effects=outline, **style)


def _caption(
    figure: Figure, title: str, present: Sequence[int], id2label: Mapping[int, str], colors: np.ndarray
) -> None:
    """Title and legend; names are shown as they are, not read as formulas."""
    figure.suptitle(title, fontsize=12, color=_WHITE, parse_math=False)
    shown = list(present[:_MAX_LEGEND])
    names = [id2label.get(index, str(index)) for index in shown]
    patches = [Patch(color=colors[index]) for index in shown]
    if len(present) > len(shown):
        names.append(f"and {len(present) - len(shown)} more")
        patches.append(Patch(alpha=0))
    if not names:
        names, patches = ["nothing found"], [Patch(alpha=0)]
    legend: Legend = figure.legend(
        patches, ["·"] * len(names), loc="outside lower center", ncols=min(4, len(names)), frameon=False, fontsize=9
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(parse_math=False, text=name, color=_WHITE)


def _save(figure: Figure, path: str | os.PathLike) -> None:
    content = io.BytesIO()
    with warnings.catch_warnings():
        # Signs that the font lacks come out as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(content, format="png", dpi=100)
    write_bytes(Path(path), content.getvalue())
