"""Tables of the page about a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..diagnostics.memory import MemoryEstimate
from ..reporting.colors import hex_colors
from ..reporting.formatting import format_bytes, format_count, format_counts, format_number, format_sides
from ..reporting.preview import slice_plane
from ..utils.text import printable
from .cohort_checks import SPLITS
from .problems import KINDS, Problem
from .run import Validation

__all__ = [
    "about_rows",
    "case_rows",
    "grid_rows",
    "intensity_rows",
    "label_rows",
    "memory_table",
    "problem_headings",
]

_BATCH_SIZES = (1, 4, 12)


def memory_table(memory: MemoryEstimate, model: str) -> dict[str, Any]:
    """Return the memory of a model for some batch sizes, and how it is estimated."""
    rows = {
        "training": [memory.training(size).total for size in _BATCH_SIZES],
        "training with --gradient_checkpointing": [
            memory.training(size, gradient_checkpointing=True).total for size in _BATCH_SIZES
        ],
        "prediction": [memory.prediction(size) for size in _BATCH_SIZES],
    }
    one = memory.training(1)
    attention = "in one kernel, as on an accelerator" if memory.settings.fused else "in tiles, as on a processor"
    return {
        "model": model,
        "image_size": memory.settings.image_size,
        "sizes": _BATCH_SIZES,
        "rows": {name: [format_bytes(value) for value in values] for name, values in rows.items()},
        "formula": (
            f"Training needs {format_bytes(one.weights)} for {format_count(one.parameters)} weights, "
            f"{format_bytes(one.optimizer)} for two moments of AdamW for each of the {format_count(one.trained)} that "
            "are trained, and memory for activations and gradients, here at their maximum during a step. All are "
            f"float32, and attention is computed {attention}. Mixed precision needs less; the libraries, an "
            "accelerator's context and its reserve need more."
        ),
    }


def label_rows(fingerprint: Mapping[str, Any], in_ml: bool) -> list[dict[str, Any]]:
    """Return a row for each label: number of cases, sizes and intensities."""
    colors = hex_colors(len(fingerprint["labels"]) + 1)
    rows = []
    for name, label in fingerprint["labels"].items():
        total = label["ml"] if in_ml else label["voxels"]
        share = label["share_of_cases"]
        rows.append(
            {
                "name": printable(name),
                "color": colors[label["index"]],
                "share": "–" if share is None else f"{label['cases']} ({share:.0%})",
                "by_split": [label["by_split"].get(split, 0) for split in SPLITS if fingerprint["cases"][split]],
                "per_case": _values(label["ml_per_case"] if in_ml else label["voxels_per_case"]),
                "total": format_number(total) if total else "–",
                "intensity": _values(label["intensity_percentiles"]),
            }
        )
    return rows


def _values(values: Mapping[str, float] | None) -> str:
    return "–" if values is None else " · ".join(format_number(value) for value in values.values())


def grid_rows(fingerprint: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the rows of sizes and spacings."""
    names = {"slices": "slices", "height": "rows", "width": "columns"}
    return [
        {"name": f"mm between {names[axis]}" if key == "spacing_mm" else axis}
        | {part: format_number(value) for part, value in span.items()}
        for key in ("shape", "spacing_mm")
        for axis, span in (fingerprint[key] or {}).items()
    ]


def intensity_rows(fingerprint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the percentiles of each channel, of all voxels and within the labels."""
    rows = []
    for channel, intensity in fingerprint["intensity"].items():
        ends = {key: format_number(intensity[key]) for key in ("min", "max")}
        for part, name, more in (("all", "all voxels", ends), ("foreground", "within labels", {"min": "", "max": ""})):
            if (spread := intensity[part]) is not None:
                cells = [format_number(value) for value in spread["percentiles"].values()]
                rows.append({"name": f"{printable(channel)}, {name}", "cells": cells} | more)
    return rows


def about_rows(fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """Return other facts of the fingerprint by their names."""
    sampled = max((one["all"]["sampled"] for one in fingerprint["intensity"].values()), default=0)
    slices = [
        f"{split}: {counts['labelled']} with labels, {counts['unlabelled']} without"
        for split, counts in fingerprint["slices"].items()
        if sum(counts.values())
    ]
    orientation, axis_order = fingerprint["cut"]["orientation"], fingerprint["cut"]["axis_order"]
    cut = "slices in the files' order"
    if orientation is not None:
        cut = f"{slice_plane(orientation, axis_order[0])} slices of scans in the orientation {orientation}"
    largest, disk = (format_bytes(fingerprint["bytes"][key]) for key in ("largest_case", "disk"))
    about = {
        "slices": "; ".join(slices),
        "orientations of the files": format_counts(fingerprint["orientations"]) or "unknown",
        "types of the files' numbers": format_counts(fingerprint["image_types"]),
        "cut": cut,
        "intensities": f"percentiles of {format_count(sampled)} voxels spread evenly over all cases; min and max of "
        "all voxels",
        "memory": f"up to {largest} for the image and the label of a case; all cases decoded on disk {disk}",
    }
    return {key: value for key, value in about.items() if value}


def case_rows(validation: Validation, fingerprint: Mapping[str, Any], in_ml: bool) -> list[dict[str, str]]:
    """Return a row for each case; unreadable cases come last."""
    by_case: dict[str | None, list[Problem]] = {}
    for problem in validation.problems:
        by_case.setdefault(problem.case, []).append(problem)
    rows = []
    for facts, row in zip(validation.cases, fingerprint["per_case"], strict=True):
        inside = sum(facts.voxels[1:]) if facts.voxels else None
        rows.append(
            {
                "name": row["case"],
                "split": row["split"],
                "shape": format_sides(row["shape"]),
                "spacing": "–" if facts.spacing is None else format_sides(facts.spacing),
                "orientation": row["orientation"] or "–",
                "type": row["image_type"] or "–",
                "range": f"{format_number(min(row['min']))} to {format_number(max(row['max']))}" if row["min"] else "–",
                "labelled": "–" if row["labelled_slices"] is None else str(row["labelled_slices"]),
                "inside": "–" if inside is None else format_number(inside * (facts.voxel_ml or 0) if in_ml else inside),
            }
            | _problems(by_case.pop(facts.name, []))
        )
    blank = dict.fromkeys(("shape", "spacing", "orientation", "type", "range", "labelled", "inside"), "–")
    for name, found in by_case.items():
        if name is not None:
            rows.append({"name": printable(name), "split": found[0].split or "–"} | blank | _problems(found))
    return rows


def _problems(problems: Sequence[Problem]) -> dict[str, str]:
    severities = {problem.severity for problem in problems}
    worst = next((severity for severity in ("error", "warning") if severity in severities), "")
    return {"problems": problem_headings(problems) or "–", "tone": worst}


def problem_headings(problems: Sequence[Problem]) -> str:
    """Return the kinds of a case's errors and warnings."""
    kinds = dict.fromkeys(KINDS[problem.kind] for problem in problems if problem.severity != "note")
    return "; ".join(kind[0].lower() + kind[1:] if kind[1].islower() else kind for kind in kinds)
