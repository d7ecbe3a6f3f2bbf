"""Preview of a segmentation: a few slices in radiological orientation, without and with the labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from ..volumes.geometry import Volume, reorient
from .charts import MAX_LABELS, add_legend, label_colors
from .overlays import content_box

__all__ = ["PreviewSlices", "draw_preview", "draw_slices", "representative_slices", "select_slices", "slice_plane"]

_PLANES = {"axial": "SI", "coronal": "AP", "sagittal": "RL"}
# The patient's sides at the left and at the top of a slice of each plane.
_SIDES = {"axial": ("R", "A"), "coronal": ("R", "S"), "sagittal": ("A", "S")}
_BLACK, _WHITE, _GREY = "#0b0d10", "#f2f4f7", "#9aa3ad"
_WIDTH = 9.6  # inches
_MARGIN = 0.03  # around the content, as a share of the side


def slice_plane(orientation: str, axis: int) -> str:
    """Return the plane of the slices that an axis of a scan counts: axis 2 of "LPS" counts "axial" ones."""
    return next(plane for plane, ends in _PLANES.items() if orientation[axis] in ends)


class PreviewSlices(NamedTuple):
    """Upright slices of a scan with their labels."""

    images: list[np.ndarray]  # `(height, width)` or `(height, width, 3)`
    masks: list[np.ndarray]  # `(height, width)`
    names: list[str]
    aspect: float  # height of a pixel by its width
    sides: tuple[str, str] | None  # of the patient, at the left and at the top
    positions: list[int]

    @classmethod
    def join(cls, several: Sequence[PreviewSlices]) -> PreviewSlices:
        """The slices of several frames as those of one scan."""
        images = [image for one in several for image in one.images]
        masks = [mask for one in several for mask in one.masks]
        names = [name for one in several for name in one.names]
        return several[0]._replace(images=images, masks=masks, names=names)


def draw_preview(
    scan: Volume,
    labels: np.ndarray,
    id2label: Mapping[int, str],
    *,
    plane: str = "axial",
    window: Sequence[float] | None = None,
    title: str = "",
) -> Figure:
    """Draw representative slices of a scan, with and without labels, the patient's right on the left.

    The first channel of `scan` is shown, or all three of an RGB image; `labels` has the shape `scan.grid`. `window` is
    the intensities shown black and white, by default the percentiles 0.5 and 99.5 of the shown slices. Images are
    shown as stored, of several up to three.
    """
    return draw_slices(select_slices(scan, labels, plane), id2label, window=window, title=title)


def select_slices(
    scan: Volume,
    labels: np.ndarray,
    plane: str,
    *,
    count: int = 3,
    positions: Sequence[int] | None = None,
    name: str = "",
) -> PreviewSlices:
    """Copy up to `count` slices, or those at the `positions` of an earlier choice; `name` is put before their names."""
    select = _image_slices if scan.is_image else _scan_slices
    chosen = select(scan, labels, plane, count, positions)
    names = [", ".join(filter(None, (name, one))) for one in chosen.names]
    copies = [[array.copy() for array in arrays] for arrays in (chosen.images, chosen.masks)]
    return chosen._replace(images=copies[0], masks=copies[1], names=names)


def draw_slices(
    chosen: PreviewSlices, id2label: Mapping[int, str], *, window: Sequence[float] | None = None, title: str = ""
) -> Figure:
    """[`draw_preview`] for chosen slices."""
    slices, masks, names, aspect, sides, _ = chosen
    is_single = sides is None and len(slices) == 1
    box = _crop(slices, masks)
    masks = [mask[box] for mask in masks]
    images = _windowed([image[box] for image in slices], window)
    present = [int(index) for index in np.unique(np.stack(masks)) if index]
    colors = label_colors(max(id2label) + 1)

    rows, columns = (1, 2) if is_single else (2, len(images))
    height = np.clip(aspect * masks[0].shape[0] / masks[0].shape[1], 0.2, 1.4) * _WIDTH / max(2, columns)
    legend_rows = -(-min(len(present), MAX_LABELS + 1) // _legend_columns(id2label.values()))
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.01, hspace=0.01)
    figure = Figure((_WIDTH, rows * height + 0.6 + 0.24 * legend_rows), facecolor=_BLACK, layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False)
    without_labels = axes[0, 1:] if is_single else axes[1]
    for axis, image, mask, name in zip(axes[0], images, masks, names, strict=False):
        _show(axis, image, aspect, name)
        _paint(axis, mask, present, colors)
    for axis, image in zip(without_labels, images, strict=False):
        _show(axis, image, aspect, "")
    if sides is not None:
        for axis in axes[:, 0]:
            _mark_sides(axis, *sides)
    figure.suptitle(title, fontsize=12, color=_WHITE, parse_math=False)
    _add_legend(figure, present, id2label, colors)
    return figure


def representative_slices(masks: np.ndarray, count: int = 3) -> list[int]:
    """Choose slices of a label map `(slices, height, width)` that show small and large labels alike.

    Returns ascending indices spread over the labelled slices; evenly spread ones of a map without any label.
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
        # Weight the middle of a range more, or neighbours could be chosen from two ranges.
        distance = np.abs(np.linspace(-1, 1, len(part))) if len(part) > 1 else 0
        chosen.append(int(part[np.argmax(shares[part] * (1 - 0.4 * distance))]))
    return chosen


def _image_slices(
    scan: Volume, labels: np.ndarray, _: str, most: int, positions: Sequence[int] | None
) -> PreviewSlices:
    """Slices of an image or of several, as stored."""
    array = scan.array if scan.array.ndim == 3 or scan.array.shape[-1] == 3 else scan.array[..., 0]
    count = scan.grid[2]
    width, height, _depth = scan.spacing
    chosen = [*positions] if positions is not None else representative_slices(labels.T, most) if count > 1 else [0]
    names = [f"image {index + 1} of {count}" if count > 1 else "" for index in chosen]
    images = [np.swapaxes(array[:, :, index], 0, 1) for index in chosen]
    return PreviewSlices(images, [labels[:, :, index].T for index in chosen], names, height / width, None, chosen)


def _scan_slices(
    scan: Volume, labels: np.ndarray, plane: str, most: int, positions: Sequence[int] | None
) -> PreviewSlices:
    """Slices of a scan."""
    # x runs to the left and y to the back, as displayed; z runs down like the rows, where it is one of them.
    orientation = "LPS" if plane == "axial" else "LPI"
    volume = reorient(scan, orientation)
    array = volume.array if volume.array.ndim == 3 else volume.array[..., 0]
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    array = np.moveaxis(array, axis, 0)
    masks = np.moveaxis(reorient(Volume(labels, scan.affine), orientation).array, axis, 0)
    is_reversed = "LPS"[axis] not in scan.orientation  # titles have the slice's number in the file
    chosen = representative_slices(masks, most) if positions is None else [*positions]
    numbers = [len(masks) - index if is_reversed else index + 1 for index in chosen]
    names = [f"{plane} slice {number} of {len(masks)}" for number in numbers]
    x, y, z = volume.spacing
    aspect = {"axial": y / x, "coronal": z / x, "sagittal": z / y}[plane]
    images = [array[index].T for index in chosen]
    return PreviewSlices(images, [masks[index].T for index in chosen], names, aspect, _SIDES[plane], chosen)


def _crop(images: list[np.ndarray], masks: list[np.ndarray]) -> tuple[slice, slice]:
    """Return the rows and columns that show body or labels in one of the slices, with a margin."""
    height, width = masks[0].shape
    content = np.zeros((height, width), dtype=bool)
    for image, mask in zip(images, masks, strict=True):
        gray = image if image.ndim == 2 else image.max(axis=-1)
        low, high = np.percentile(gray, (0.5, 99.5))
        content |= (gray > low + 0.1 * (high - low)) | (mask > 0)
    return content_box(content, (max(2, int(_MARGIN * height)), max(2, int(_MARGIN * width))))


def _windowed(images: list[np.ndarray], window: Sequence[float] | None) -> list[np.ndarray]:
    """Scale slices to `(height, width, 3)` in [0, 1]."""
    if images[0].dtype == np.uint8 and window is None and images[0].ndim == 3:
        return [image / 255.0 for image in images]
    low, high = window if window is not None else np.percentile(np.stack(images), (0.5, 99.5))
    scale = 1.0 / (high - low) if high > low else 1.0
    scaled = [np.clip((image.astype(np.float64) - low) * scale, 0, 1) for image in images]
    return [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in scaled]


def _show(axis: Axes, image: np.ndarray, aspect: float, title: str) -> None:
    axis.imshow(image, aspect=aspect, interpolation="antialiased")
    axis.set_axis_off()
    axis.set_title(title, fontsize=9, color=_GREY, pad=3)


def _paint(axis: Axes, mask: np.ndarray, present: Sequence[int], colors: np.ndarray) -> None:
    """Fill the labels nearly transparent and outline them."""
    fill = np.zeros((*mask.shape, 4))
    fill[..., :3], fill[..., 3] = colors[mask], 0.28 * (mask > 0)
    axis.imshow(fill, aspect=axis.get_aspect(), interpolation="nearest")
    # A border of background closes outlines at the edge; besides, contour needs two rows and columns.
    padded = np.pad(mask, 1)
    rows, columns = np.arange(padded.shape[0]) - 1, np.arange(padded.shape[1]) - 1
    for index in present:
        if (mask == index).any():
            axis.contour(columns, rows, padded == index, levels=[0.5], colors=[colors[index]], linewidths=1.1)
    axis.set_xlim(-0.5, mask.shape[1] - 0.5)
    axis.set_ylim(mask.shape[0] - 0.5, -0.5)


def _mark_sides(axis: Axes, left: str, top: str) -> None:
    """Write the patient's sides at the left and at the top."""
    style: dict[str, Any] = {"transform": axis.transAxes, "fontsize": 9, "fontweight": "bold", "color": _WHITE}
    style["path_effects"] = [withStroke(linewidth=2.5, foreground="black")]
    axis.text(0.015, 0.5, left, ha="left", va="center", **style)
    axis.text(0.5, 0.985, top, ha="center", va="top", **style)


def _legend_columns(names: Iterable[str]) -> int:
    """Columns of a legend, four unless its names are long."""
    return max(1, min(4, 130 // (8 + max(map(len, names)))))


def _add_legend(figure: Figure, present: Sequence[int], id2label: Mapping[int, str], colors: np.ndarray) -> None:
    shown = present[:MAX_LABELS]
    names = [id2label.get(index, str(index)) for index in shown]
    patches = [Patch(color=colors[index]) for index in shown]
    if len(present) > len(shown) or not present:
        names.append(f"and {len(present) - len(shown)} more" if present else "nothing found")
        patches.append(Patch(alpha=0))
    columns = min(_legend_columns(names), len(names))
    add_legend(figure, patches, names, loc="outside lower center", ncols=columns, fontsize=9, labelcolor=_WHITE)
