"""Pictures of a data set: cases with their labels over them, intensities and sizes of labels over all cases."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from PIL import Image

from ..data.dataset import CaseDataset
from ..model.image_processing_samed import SamedImageProcessor
from ..reporting.charts import GREY, MAX_LABELS, finish_svg, shorten
from ..reporting.colors import label_colors
from ..reporting.preview import draw_preview, representative_slices, slice_plane
from ..transforms.intensity import CT_WINDOW
from ..transforms.slicing import rows_point_up
from ..volumes.geometry import Volume
from .case_checks import window_of
from .fingerprint import pooled
from .measuring import CaseFacts
from .reading import CaseReading
from .suggestions import looks_like_ct

__all__ = ["draw_case", "draw_intensities", "draw_sizes"]

_CHART = (6.4, 2.9)


def draw_case(
    facts: CaseFacts, reading: CaseReading, data: CaseDataset, processor: SamedImageProcessor, title: str
) -> bytes | None:
    """A JPEG of telling slices of a case, its labels over them; `None` where image or label don't allow it."""
    image, label = reading.image, reading.label
    if image is None or label is None or (len(image), *image.shape[-2:]) != label.shape or facts.not_finite:
        return None
    flat = facts.spacing is None or processor.orientation is None
    if flat:
        # Slices whose place in the patient nobody knows: the most telling one, as a picture.
        index = representative_slices(label, 1)[0]
        image, label = image[index : index + 1], label[index : index + 1]
        if not data.is_2d and rows_point_up(processor):
            image, label = image[..., ::-1, :], label[:, ::-1]
    scan, labels = _as_volume(image, facts, processor, flat), _to_grid(label, processor, flat)
    plane = "axial" if flat else slice_plane(processor.orientation, processor.axis_order[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.png"
        draw_preview(
            path,
            scan,
            labels,
            data.id2label,
            plane=plane,
            window=_window(processor, scan, facts),
            title=title,
            is_image=flat,
        )
        content = io.BytesIO()
        with Image.open(path) as picture:
            picture.convert("RGB").save(content, format="JPEG", quality=88)
    return content.getvalue()


def draw_intensities(
    cases: Sequence[CaseFacts],
    channel: int,
    id2label: Mapping[int, str],
    *,
    window: Sequence[float] | None = None,
    percentiles: Sequence[float] | None = None,
) -> bytes | None:
    """An SVG of how often each intensity occurs, over all and within each label.

    Args:
        cases: the cases.
        channel: which one.
        id2label: names of the labels; their colours are those of the overlays.
        window: intensities that become 0 and 1, drawn as lines.
        percentiles: those of each scan that become 0 and 1, where there is no window: intensities without a unit can
            only be compared between these.
    """
    if window is None and percentiles is not None:
        cases = [_between_percentiles(facts, percentiles) for facts in cases if facts.sample is not None]
    everything = pooled(cases, channel)
    if not len(everything) or everything.min() == everything.max():
        return None
    inside = {index: pooled(cases, channel, index) for index in list(id2label)[1:] if index <= MAX_LABELS}
    inside = {index: values for index, values in inside.items() if len(values) >= 20}
    ends = [np.percentile(values, (0.5, 99.5)) for values in (everything, *inside.values())]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if not low < high:
        return None
    edges = np.linspace(low, high, 81)
    figure = Figure(_CHART, layout="constrained")
    axis = figure.subplots()
    axis.stairs(_density(everything, edges), edges, fill=True, color=GREY, alpha=0.3, label="all voxels")
    colors = label_colors(max(id2label) + 1)
    for index, values in inside.items():
        axis.stairs(_density(values, edges), edges, color=colors[index], linewidth=1.6, label=shorten(id2label[index]))
    for bound in window or ():
        if low <= bound <= high:
            axis.axvline(bound, color=GREY, linestyle="--", linewidth=1)
    axis.set(yticks=[], xlim=(low, high))
    return finish_svg(figure, axis)


def draw_sizes(cases: Sequence[CaseFacts], id2label: Mapping[int, str]) -> bytes | None:
    """An SVG of the size of each label, one point for each case, on a logarithmic axis where they differ much."""
    known = [facts for facts in cases if facts.voxels is not None and sum(facts.voxels[1:])]
    if not known:
        return None
    in_ml = all(facts.voxel_ml is not None for facts in known)
    labels = [index for index in id2label if index][:MAX_LABELS]
    figure = Figure((_CHART[0], max(_CHART[1], 0.9 + 0.3 * len(labels))), layout="constrained")
    axis = figure.subplots()
    colors, generator = label_colors(max(id2label) + 1), np.random.default_rng(0)
    every: list[float] = []
    for row, index in enumerate(labels):
        sizes = [facts.voxels[index] * (facts.voxel_ml if in_ml else 1) for facts in known if facts.voxels[index]]
        every += sizes
        heights = row + generator.uniform(-0.22, 0.22, len(sizes))
        axis.scatter(sizes, heights, s=14, color=colors[index], alpha=0.65, linewidths=0)
    axis.set(xlabel="ml" if in_ml else "voxels", yticks=range(len(labels)), ylim=(len(labels) - 0.5, -0.5))
    axis.set_yticklabels([shorten(id2label[index]) for index in labels], parse_math=False)
    if max(every) > 20 * min(every):
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_xlim(0, None)
    axis.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
    return finish_svg(figure, axis)


def _as_volume(image: np.ndarray, facts: CaseFacts, processor: SamedImageProcessor, flat: bool) -> Volume:
    """Slices as a volume `(x, y, z[, channels])` in the orientation to which the scan was brought."""
    image = np.moveaxis(image, 1, 3) if image.ndim == 4 else image
    if flat:
        image = image[..., :1] if image.ndim == 4 and image.shape[-1] != 3 else image
        return Volume(image.swapaxes(0, 2), np.diag([-1.0, -1.0, 1.0, 1.0]))
    array = _to_grid(image, processor, flat)
    sides = np.zeros(3)
    sides[list(processor.axis_order)] = facts.spacing
    ornt = nib.orientations.axcodes2ornt(processor.orientation)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, direction) in enumerate(ornt):
        affine[int(world), axis] = direction * sides[axis]
    return Volume(array, affine)


def _to_grid(slices: np.ndarray, processor: SamedImageProcessor, flat: bool) -> np.ndarray:
    if flat:
        return slices.swapaxes(0, 2)
    return np.transpose(slices, [*np.argsort(processor.axis_order), *range(3, slices.ndim)])


def _window(processor: SamedImageProcessor, scan: Volume, facts: CaseFacts) -> Sequence[float] | None:
    """What is shown black and white: the window, where the intensities fit it; SAMed's of what looks like CT."""
    window = window_of(processor, 0)
    if window is None and looks_like_ct(*np.percentile(facts.sample[0], (1, 99.5))):
        return CT_WINDOW
    fits = window is not None and scan.num_channels < 3 and min(facts.low) < 0 and window[0] < max(facts.high)
    return window if fits else None


def _between_percentiles(facts: CaseFacts, percentiles: Sequence[float]) -> CaseFacts:
    """The case with its sampled intensities as training scales them, but not clipped."""
    low, high = np.percentile(facts.sample, percentiles, axis=1)[..., None]
    width = np.where(high > low, high - low, 1)
    inside = None if facts.foreground is None else (facts.foreground - low) / width
    return replace(facts, sample=(facts.sample - low) / width, foreground=inside)


def _density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Share of the values in each bin, the most frequent one being 1."""
    counts = np.histogram(values, edges)[0]
    return counts / max(1, counts.max())
