"""Files that describe a validation: `validation.html` and `fingerprint.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from ..reporting.charts import hex_colors
from ..reporting.formatting import format_count
from ..reporting.html import data_uri, write_page
from ..reporting.preview import slice_plane
from ..utils.atomic import write_text
from .advice import Advice
from .case_checks import looks_like_ct, window_of
from .charts import draw_intensities, draw_sizes
from .cohort_checks import SPLITS
from .fingerprint import PERCENTILES, channel_titles
from .problems import KINDS, Problem
from .run import Validation

__all__ = ["FINGERPRINT", "PAGE_FILE", "write_fingerprint", "write_report"]

FINGERPRINT, PAGE_FILE = "fingerprint.json", "validation.html"
_BATCH_SIZES = (1, 4, 12)


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
        window = None if data.layout == "Synapse" else window_of(processor, channel)
        spread = fingerprint["intensity"][name]["all"]["percentiles"]
        has_unit = data.is_2d or data.layout == "Synapse" or looks_like_ct(spread["1"], spread["99.5"])
        percentiles, scaled = None if has_unit else processor.percentiles, ""
        if window is not None:
            scaled = "; dashed: the window from {:g} to {:g}".format(*window)
        elif percentiles is not None:
            scaled = "; 0 and 1 are each scan's percentiles {:g} and {:g}, as training scales them".format(*percentiles)
        drawn = draw_intensities(validation.cases, channel, data.id2label, window=window, percentiles=percentiles)
        if drawn is not None:
            caption = f"Intensities of {name}, of all voxels and within each label{scaled}"
            yield {"caption": caption, "source": data_uri(drawn, "image/svg+xml")}
    if (drawn := draw_sizes(validation.cases, data.id2label)) is not None:
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
