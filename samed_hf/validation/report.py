"""What a validation leaves for people and programs: `validation.html` and `fingerprint.json`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from ..utils.atomic import write_text
from ..utils.text import printable
from .advice import Advice
from .case_checks import window_of
from .charts import draw_intensities, draw_sizes
from .cohort_checks import SPLITS
from .fingerprint import PERCENTILES, channel_titles
from .page import PAGE
from .problems import KINDS, Problem
from .run import Validation
from .suggestions import looks_like_ct
from .tables import (
    about_rows,
    case_rows,
    grid_rows,
    grouped,
    intensity_rows,
    label_rows,
    memory_table,
    problem_headings,
)

__all__ = ["FINGERPRINT", "PAGE_FILE", "write_fingerprint", "write_report"]

FINGERPRINT, PAGE_FILE = "fingerprint.json", "validation.html"
_FIRST = 8


def write_fingerprint(path: Path, validation: Validation, advice: Advice) -> None:
    """Write the fingerprint with problems and suggestions as JSON, atomically."""
    content = advice.fingerprint | {
        "problems": [problem.to_dict() for problem in validation.problems],
        "suggestions": {one.setting: {"value": one.value, "reason": one.reason} for one in advice.suggestions},
        "command": advice.command,
    }
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_report(path: Path, validation: Validation, advice: Advice) -> None:
    """Write the page: problems, suggestions, images, labels, intensities, sizes and a row for each case.

    Args:
        path: the HTML file.
        validation: what was found.
        advice: fingerprint and suggestions.
    """
    data, fingerprint = validation.data, advice.fingerprint
    in_ml = bool(validation.cases) and all(facts.voxel_ml is not None for facts in validation.cases)
    unit = "ml" if in_ml else "pixels" if data.is_2d else "voxels"
    content = _template().render(
        title=f"Data set: {fingerprint['data']['name'] or printable(data.root)}",
        layout=data.layout,
        root=printable(data.root),
        created=datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        facts=_facts(validation, fingerprint),
        kinds=_kinds(validation.problems),
        settings=[{"flags": one.text, "reason": printable(one.reason)} for one in advice.suggestions],
        command=printable(advice.command),
        memory=memory_table(advice.memory, advice.model),
        pictures=_pictures(validation),
        labels=label_rows(fingerprint, in_ml),
        splits=[split for split in SPLITS if fingerprint["cases"][split]],
        unit=unit,
        charts=_charts(validation, fingerprint),
        grid=grid_rows(fingerprint),
        percentiles=[f"{one:g}\N{NARROW NO-BREAK SPACE}%" for one in PERCENTILES],
        intensities=intensity_rows(fingerprint),
        about=about_rows(fingerprint),
        cases=case_rows(validation, fingerprint, in_ml),
    )
    # A file's name may contain bytes that are no text.
    write_text(path, content.encode("utf-8", "backslashreplace").decode("utf-8"))


def _template() -> Any:
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(PAGE)


def _facts(validation: Validation, fingerprint: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = {"train": "to train on", "validation": "for validation", "test": "to test on"}
    facts = [
        {"number": count, "text": f"{'case' if count == 1 else 'cases'} {names[split]}", "tone": ""}
        for split, count in fingerprint["cases"].items()
        if count
    ]
    count = len(fingerprint["labels"])
    facts.append({"number": count, "text": "label" if count == 1 else "labels", "tone": ""})
    slices = sum(sum(split.values()) for split in fingerprint["slices"].values())
    facts.append({"number": grouped(slices), "text": "slices", "tone": ""})
    errors, warnings = validation.count("error"), validation.count("warning")
    for number, word, tone in ((errors, "error", "error"), (warnings, "warning", "warning")):
        facts.append(
            {"number": number, "text": word if number == 1 else f"{word}s", "tone": tone if number else "good"}
        )
    return facts


def _kinds(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """The problems of each severity and kind together; only the first ones are open."""
    groups: dict[tuple[str, str], list[dict[str, str | None]]] = {}
    for problem in problems:
        line = {"case": None if problem.case is None else printable(problem.case), "text": printable(problem.text)}
        groups.setdefault((problem.severity, problem.kind), []).append(line)
    return [
        {
            "severity": severity,
            "heading": KINDS[kind],
            "count": len(lines),
            "first": lines[:_FIRST],
            "others": lines[_FIRST:],
        }
        for (severity, kind), lines in groups.items()
    ]


def _charts(validation: Validation, fingerprint: Mapping[str, Any]) -> list[dict[str, str]]:
    data, processor = validation.data, validation.processor
    charts = []
    for channel, name in enumerate(channel_titles(data) if fingerprint["intensity"] else ()):
        window = None if data.layout == "Synapse" else window_of(processor, channel)
        spread = fingerprint["intensity"][name]["all"]["percentiles"]
        has_unit = data.is_2d or data.layout == "Synapse" or looks_like_ct(spread["1"], spread["99.5"])
        percentiles = None if has_unit else processor.percentiles
        drawn = draw_intensities(validation.cases, channel, data.id2label, window=window, percentiles=percentiles)
        scaled = ""
        if window is not None:
            scaled = f"; dashed: the window from {window[0]:g} to {window[1]:g}"
        elif percentiles is not None:
            low, high = percentiles
            scaled = f"; 0 and 1 are each scan's percentiles {low:g} and {high:g}, as training scales them"
        if drawn is not None:
            caption = f"Intensities of {printable(name)}, of all voxels and within each label{scaled}"
            charts.append({"caption": caption, "source": _embed(drawn, "svg+xml")})
    if (drawn := draw_sizes(validation.cases, data.id2label)) is not None:
        caption = "Size of each label, one point for each case"
        charts.append({"caption": caption, "source": _embed(drawn, "svg+xml")})
    return charts


def _pictures(validation: Validation) -> list[dict[str, str]]:
    """The cases' pictures, with what is doubtful about each."""
    return [
        {
            "name": printable(name),
            "source": _embed(jpeg, "jpeg"),
            "problems": problem_headings([problem for problem in validation.problems if problem.case == name]),
        }
        for name, jpeg in validation.pictures.items()
    ]


def _embed(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")
