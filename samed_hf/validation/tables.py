"""The tables of the page about a data set: numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..diagnostics.memory import MemoryEstimate
from ..reporting.colors import label_colors
from ..reporting.preview import slice_plane
from ..utils.text import printable
from .cohort_checks import SPLITS
from .problems import KINDS, Problem
from .run import Validation

__all__ = [
    "about_rows",
    "case_rows",
    "grid_rows",
    "grouped",
    "intensity_rows",
    "label_rows",
    "memory_table",
    "problem_headings",
]

_BATCHES = (1, 4, 12)
_THIN = "\N{NARROW NO-BREAK SPACE}"


def memory_table(memory: MemoryEstimate, model: str) -> dict[str, Any]:
    """What a model needs for batches of some sizes, and how that is computed."""
    rows = {
        "training": [memory.training(size).total for size in _BATCHES],
        "training with --gradient_checkpointing": [
            memory.training(size, gradient_checkpointing=True).total for size in _BATCHES
        ],
        "prediction": [memory.prediction(size) for size in _BATCHES],
    }
    one = memory.training(1)
    attention = "in one kernel, as on an accelerator" if memory.settings.fused else "in tiles, as on a processor"
    return {
        "model": model,
        "image_size": memory.settings.image_size,
        "sizes": _BATCHES,
        "rows": [{"name": name, "cells": [_size(value) for value in values]} for name, values in rows.items()],
        "formula": (
            f"Training: {grouped(one.parameters)} weights ({_size(one.weights)}), two moments of AdamW for each of the "
            f"{grouped(one.trained)} that are trained ({_size(one.optimizer)}), and activations and gradients at the "
            "moment of a step when they are most. All in float32, with attention computed " + attention + ". Mixed "
            "precision takes less; the libraries, an accelerator's context and its reserve come on top."
        ),
    }


def label_rows(fingerprint: Mapping[str, Any], in_ml: bool) -> list[dict[str, Any]]:
    """A row for each label: in how many cases, how large, how bright."""
    colors = label_colors(len(fingerprint["labels"]) + 1)
    rows = []
    for name, label in fingerprint["labels"].items():
        span = label["ml_per_case"] if in_ml else label["voxels_per_case"]
        total = label["ml"] if in_ml else label["voxels"]
        intensity = label["intensity_percentiles"]
        share = label["share_of_cases"]
        rows.append(
            {
                "name": printable(name),
                "color": "#" + "".join(f"{round(float(part) * 255):02x}" for part in colors[label["index"]]),
                "share": "–" if share is None else f"{label['cases']} ({share:.0%})",
                "by_split": [label["by_split"].get(split, 0) for split in SPLITS if fingerprint["cases"][split]],
                "per_case": "–" if span is None else " · ".join(_short(value) for value in span.values()),
                "total": "–" if not total else _short(total),
                "intensity": "–" if intensity is None else " · ".join(_short(value) for value in intensity.values()),
            }
        )
    return rows


def grid_rows(fingerprint: Mapping[str, Any]) -> list[dict[str, str]]:
    """Sizes and spacings."""
    rows = []
    for title, key in (("", "shape"), ("mm between ", "spacing_mm")):
        for axis, span in (fingerprint[key] or {}).items():
            name = {"slices": "slices", "height": "rows", "width": "columns"}[axis] if title else axis
            rows.append({"name": f"{title}{name}"} | {part: _short(value) for part, value in span.items()})
    return rows


def intensity_rows(fingerprint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Percentiles of each channel, of all voxels and within the labels."""
    rows = []
    for channel, intensity in fingerprint["intensity"].items():
        for part, name in (("all", "all voxels"), ("foreground", "within labels")):
            if (spread := intensity[part]) is None:
                continue
            whole = part == "all"
            rows.append(
                {
                    "name": f"{printable(channel)}, {name}",
                    "min": _short(intensity["min"]) if whole else "",
                    "max": _short(intensity["max"]) if whole else "",
                    "cells": [_short(value) for value in spread["percentiles"].values()],
                }
            )
    return rows


def about_rows(fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """What else the fingerprint says, by its name."""
    sampled = [one["all"]["sampled"] for one in fingerprint["intensity"].values()]
    slices = [
        f"{split}: {counts['labelled']} with labels, {counts['unlabelled']} without"
        for split, counts in fingerprint["slices"].items()
        if sum(counts.values())
    ]
    about = {
        "slices": "; ".join(slices),
        "orientations of the files": _counted(fingerprint["orientations"]) or "none given",
        "types of the files' numbers": _counted(fingerprint["image_types"]),
        "cut": _cut(**fingerprint["cut"]),
        "intensities": f"percentiles of {grouped(max(sampled, default=0))} voxels spread evenly over all cases; least "
        "and most of all",
    }
    largest, disk = (_size(fingerprint["bytes"][key]) for key in ("largest_case", "disk"))
    about["a case"] = f"up to {largest} in memory, image and label; all cases decoded on disk {disk}"
    return {key: value for key, value in about.items() if value}


def _cut(orientation: str | None, axis_order: Sequence[int]) -> str:
    if orientation is None:
        return "slices as the files have them"
    return f"{slice_plane(orientation, axis_order[0])} slices, scans brought into the orientation {orientation}"


def case_rows(validation: Validation, fingerprint: Mapping[str, Any], in_ml: bool) -> list[dict[str, str]]:
    """A row for each case, those that couldn't be read last."""
    by_case: dict[str | None, list[Problem]] = {}
    for problem in validation.problems:
        by_case.setdefault(problem.case, []).append(problem)
    rows = []
    for facts, row in zip(validation.cases, fingerprint["per_case"], strict=True):
        found = by_case.pop(facts.name, [])
        inside = None if facts.voxels is None else sum(facts.voxels[1:])
        rows.append(
            {
                "name": row["case"],
                "split": row["split"],
                "shape": " × ".join(map(str, row["shape"])),
                "spacing": "–" if facts.spacing is None else " × ".join(f"{side:.3g}" for side in facts.spacing),
                "orientation": row["orientation"] or "–",
                "type": row["image_type"] or "–",
                "range": f"{_short(min(row['min']))} to {_short(max(row['max']))}" if row["min"] else "–",
                "labelled": "–" if row["labelled_slices"] is None else str(row["labelled_slices"]),
                "inside": "–" if inside is None else _short(inside * facts.voxel_ml if in_ml else inside),
            }
            | _found(found)
        )
    blank = dict.fromkeys(("shape", "spacing", "orientation", "type", "range", "labelled", "inside"), "–")
    for name, found in by_case.items():
        if name is not None:
            rows.append({"name": printable(name), "split": found[0].split or "–"} | blank | _found(found))
    return rows


def _found(problems: Sequence[Problem]) -> dict[str, str]:
    worst = next((one for one in ("error", "warning") if any(problem.severity == one for problem in problems)), "")
    return {"problems": problem_headings(problems) or "–", "tone": worst}


def problem_headings(problems: Sequence[Problem]) -> str:
    """The kinds of a case's errors and warnings, in a few words."""
    kinds = dict.fromkeys(KINDS[problem.kind] for problem in problems if problem.severity != "note")
    return "; ".join(kind[0].lower() + kind[1:] if kind[1].islower() else kind for kind in kinds)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.{0 if size >= 1e7 else 2}f} MB"


def grouped(number: int) -> str:
    """A whole number with its thousands apart."""
    return f"{number:,}".replace(",", _THIN)


def _short(value: float) -> str:
    """A number for people: three digits, whole ones from 100."""
    return grouped(round(value)) if abs(value) >= 99.5 or float(value).is_integer() else f"{value:.3g}"
