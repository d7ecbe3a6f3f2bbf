"""Files that describe a validation: `validation.html` and `fingerprint.json`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from ..reporting.charts import GREY, MAX_LABELS, finish_svg, hex_colors, label_colors, shorten
from ..reporting.formatting import format_count
from ..reporting.html import data_uri, write_page
from ..reporting.preview import slice_plane
from ..utils.atomic import write_text
from .advice import Advice
from .case_checks import looks_like_ct
from .cohort_checks import SPLITS
from .fingerprint import PERCENTILES, channel_titles, pooled
from .measuring import CaseFacts
from .problems import KINDS, Problem
from .run import Validation

__all__ = ["FINGERPRINT", "PAGE_FILE", "write_fingerprint", "write_report"]

FINGERPRINT, PAGE_FILE = "fingerprint.json", "validation.html"
_BATCH_SIZES = (1, 4, 12)
_CHART = (6.4, 2.9)


def write_fingerprint(path: Path, validation: Validation, advice: Advice) -> None:
    """Write the fingerprint with problems and suggestions as JSON, atomically."""
    content = advice.fingerprint | {
        "problems": [problem.to_dict() for problem in validation.problems],
        "suggestions": {one.setting: {"value": one.value, "reason": one.reason} for one in advice.suggestions},
        "command": advice.command,
    }
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_report(path: Path, validation: Validation, advice: Advice) -> None:
    """Write the page: problems, suggestions, images, labels, intensities, sizes and a row for each case."""
    data, fingerprint = validation.data, advice.fingerprint
    in_ml = bool(validation.cases) and all(facts.voxel_ml is not None for facts in validation.cases)
    created = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    cut = fingerprint["cut"]
    write_page(
        path,
        "samed_hf.validation",
        "validation.html.j2",
        title=f"Data set: {fingerprint['data']['name'] or data.root}",
        subtitle=f"{data.layout} · {data.root} · {created}",
        facts=_facts(validation, fingerprint),
        kinds=[(*key, list(group)) for key, group in groupby(validation.problems, _kind)],
        advice=advice,
        fingerprint=fingerprint,
        batch_sizes=_BATCH_SIZES,
        images={name: data_uri(jpeg, "image/jpeg") for name, jpeg in validation.images.items()},
        colors=hex_colors(len(data.id2label)),
        splits=[split for split in SPLITS if fingerprint["cases"][split]],
        in_ml=in_ml,
        unit="ml" if in_ml else "pixels" if data.is_2d else "voxels",
        charts=list(_charts(validation, fingerprint)),
        percentiles=[f"{one:g}\N{NARROW NO-BREAK SPACE}%" for one in PERCENTILES],
        plane=None if cut["orientation"] is None else slice_plane(cut["orientation"], cut["axis_order"][0]),
        cases=_cases(validation, fingerprint),
    )


def _facts(validation: Validation, fingerprint: Mapping[str, Any]) -> list[tuple[Any, str, str]]:
    """Return number, unit and tone of each fact."""
    facts: list[tuple[Any, str, str]] = []
    for split, use in (("train", "to train on"), ("validation", "for validation"), ("test", "to test on")):
        if count := fingerprint["cases"][split]:
            facts.append((count, f"{'case' if count == 1 else 'cases'} {use}", ""))
    num_labels = len(fingerprint["labels"])
    facts.append((num_labels, "label" if num_labels == 1 else "labels", ""))
    slices = sum(sum(split.values()) for split in fingerprint["slices"].values())
    facts.append((format_count(slices), "slices", ""))
    for severity in ("error", "warning"):
        count = validation.count(severity)
        facts.append((count, severity if count == 1 else f"{severity}s", severity if count else "good"))
    return facts


def _kind(problem: Problem) -> tuple[str, str]:
    return problem.severity, KINDS[problem.kind]


def _charts(validation: Validation, fingerprint: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    data, processor = validation.data, validation.processor
    for channel, name in enumerate(channel_titles(data) if fingerprint["intensity"] else ()):
        window = None if data.layout == "Synapse" else processor.channel_windows[channel]
        spread = fingerprint["intensity"][name]["all"]["percentiles"]
        has_unit = data.is_2d or data.layout == "Synapse" or looks_like_ct(spread["1"], spread["99.5"])
        percentiles, scaled = None if has_unit else processor.percentiles, ""
        if window is not None:
            scaled = "; dashed: the window from {:g} to {:g}".format(*window)
        elif percentiles is not None:
            scaled = "; 0 and 1 are each scan's percentiles {:g} and {:g}, as training scales them".format(*percentiles)
        if (drawn := _draw_intensities(validation, channel, window, percentiles)) is not None:
            caption = f"Intensities of {name}, of all voxels and within each label{scaled}"
            yield {"caption": caption, "source": data_uri(drawn, "image/svg+xml")}
    if (drawn := _draw_sizes(validation.cases, data.id2label)) is not None:
        caption = "Size of each label, one point for each case"
        yield {"caption": caption, "source": data_uri(drawn, "image/svg+xml")}


def _cases(validation: Validation, fingerprint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each case's row of the fingerprint with its problems; unreadable cases come last."""
    rows = {
        facts.name: row | {"name": facts.name, "voxel_ml": facts.voxel_ml}
        for facts, row in zip(validation.cases, fingerprint["per_case"], strict=True)
    }
    by_case: dict[str, list[Problem]] = {name: [] for name in rows}
    for problem in validation.problems:
        if problem.case is not None:
            rows.setdefault(problem.case, {"name": problem.case, "split": problem.split or "–", "shape": None})
            by_case.setdefault(problem.case, []).append(problem)
    for name, row in rows.items():
        severities = {problem.severity for problem in by_case[name]}
        kinds = dict.fromkeys(KINDS[problem.kind] for problem in by_case[name] if problem.severity != "note")
        row["problems"] = "; ".join(kind[0].lower() + kind[1:] if kind[1].islower() else kind for kind in kinds)
        row["tone"] = next((severity for severity in ("error", "warning") if severity in severities), "")
    return list(rows.values())


def _draw_intensities(
    validation: Validation, channel: int, window: Sequence[float] | None, percentiles: Sequence[float] | None
) -> bytes | None:
    """Draw the histograms of a channel's intensities, of all voxels and within each label, as an SVG.

    `window` is drawn as lines. Without it, the `percentiles` of each scan become 0 and 1, as intensities without a unit
    can't be compared between scans. Returns `None` if all intensities are equal.
    """
    cases, id2label = validation.cases, validation.data.id2label
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


def _draw_sizes(cases: Sequence[CaseFacts], id2label: Mapping[int, str]) -> bytes | None:
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
