"""Images of cases with their labels, and charts of intensities and sizes over all cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from ..data.dataset import CaseDataset
from ..model.image_processing_samed import SamedImageProcessor
from ..reporting.charts import GREY, MAX_LABELS, figure_jpeg, finish_svg, label_colors, shorten
from ..reporting.preview import draw_preview, representative_slices, slice_plane
from ..transforms.intensity import CT_WINDOW
from ..transforms.slicing import rows_point_up
from ..volumes.geometry import Volume
from .case_checks import looks_like_ct, window_of
from .fingerprint import pooled
from .measuring import CaseFacts
from .reading import CaseReading

__all__ = ["draw_case", "draw_intensities", "draw_sizes"]

_CHART = (6.4, 2.9)


def draw_case(
    facts: CaseFacts, reading: CaseReading, data: CaseDataset, processor: SamedImageProcessor, title: str
) -> bytes | None:
    """Draw representative slices of a case with its labels as a JPEG.

    Returns `None` if image and label can't be read, have different sizes or intensities that aren't finite.
    """
    image, label = reading.image, reading.label
    if image is None or label is None or (len(image), *image.shape[-2:]) != label.shape or facts.not_finite:
        return None
    image = np.moveaxis(image, 1, 3) if image.ndim == 4 else image
    is_flat, plane = facts.spacing is None or processor.orientation is None, "axial"
    if facts.spacing is None or processor.orientation is None:
        # The orientation of the patient is unknown: show the most representative slice as a 2-D image.
        index = representative_slices(label, 1)[0]
        up = slice(None, None, -1) if not data.is_2d and rows_point_up(processor) else slice(None)
        image = image[..., :1] if image.ndim == 4 and image.shape[-1] != 3 else image
        scan = Volume(image[index : index + 1, up].swapaxes(0, 2), np.diag([-1.0, -1.0, 1.0, 1.0]))
        labels = label[index : index + 1, up].swapaxes(0, 2)
    else:
        order = np.argsort(processor.axis_order)
        world, direction = nib.orientations.axcodes2ornt(processor.orientation).T
        affine = np.diag([0.0, 0.0, 0.0, 1.0])
        affine[world.astype(int), range(3)] = direction * np.array(facts.spacing)[order]
        scan = Volume(np.transpose(image, [*order, *range(3, image.ndim)]), affine)
        labels = np.transpose(label, order)
        plane = slice_plane(processor.orientation, processor.axis_order[0])
    window = _window(processor, scan, facts)
    figure = draw_preview(scan, labels, data.id2label, plane=plane, window=window, title=title, is_image=is_flat)
    return figure_jpeg(figure)


def draw_intensities(
    cases: Sequence[CaseFacts],
    channel: int,
    id2label: Mapping[int, str],
    *,
    window: Sequence[float] | None = None,
    percentiles: Sequence[float] | None = None,
) -> bytes | None:
    """Draw the histograms of a channel's intensities, of all voxels and within each label, as an SVG.

    `window` is drawn as lines. Without it, the `percentiles` of each scan become 0 and 1, as intensities without a unit
    can't be compared between scans. Returns `None` if all intensities are equal.
    """
    if window is None and percentiles is not None:
        cases = [_scaled(facts, percentiles) for facts in cases]
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
    """Draw the size of each label as an SVG, one point for each case; `None` if there is no label."""
    known = [facts for facts in cases if sum(facts.voxels[1:])]
    if not known:
        return None
    in_ml = all(facts.voxel_ml is not None for facts in known)
    labels = [index for index in id2label if index][:MAX_LABELS]
    figure = Figure((_CHART[0], max(_CHART[1], 0.9 + 0.3 * len(labels))), layout="constrained")
    axis = figure.subplots()
    colors, generator = label_colors(max(id2label) + 1), np.random.default_rng(0)
    every: list[float] = []
    for row, index in enumerate(labels):
        sizes = [facts.voxels[index] * ((facts.voxel_ml or 0) if in_ml else 1) for facts in known]
        sizes = [size for size in sizes if size]
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


def _window(processor: SamedImageProcessor, scan: Volume, facts: CaseFacts) -> Sequence[float] | None:
    """Return the window to display: the processor's if the intensities fit it, SAMed's if they look like CT."""
    window = window_of(processor, 0)
    if window is None and facts.sample is not None and looks_like_ct(*np.percentile(facts.sample[0], (1, 99.5))):
        return CT_WINDOW
    fits = window is not None and scan.num_channels < 3 and min(facts.low) < 0 and window[0] < max(facts.high)
    return window if fits else None


def _scaled(facts: CaseFacts, percentiles: Sequence[float]) -> CaseFacts:
    """Scale the sampled intensities of a case as training does, without clipping."""
    if facts.sample is None or facts.foreground is None:
        return facts
    low, high = np.percentile(facts.sample, percentiles, axis=1)[..., None]
    width = np.where(high > low, high - low, 1)
    return replace(facts, sample=(facts.sample - low) / width, foreground=(facts.foreground - low) / width)


def _density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Count the values in each bin, relative to the most frequent one."""
    counts = np.histogram(values, edges)[0]
    return counts / max(1, counts.max())
