"""Files that describe a validation: `validation.html` and `fingerprint.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..reporting.formatting import format_count
from ..reporting.html import data_uri, write_page
from ..utils.atomic import write_text
from ..utils.text import printable
from .advice import Advice
from .case_checks import window_of
from .charts import draw_intensities, draw_sizes
from .cohort_checks import SPLITS
from .fingerprint import PERCENTILES, channel_titles
from .problems import KINDS, Problem
from .run import Validation
from .suggestions import looks_like_ct
from .tables import about_rows, case_rows, grid_rows, intensity_rows, label_rows, memory_table, problem_headings

__all__ = ["FINGERPRINT", "PAGE_FILE", "write_fingerprint", "write_report"]

FINGERPRINT, PAGE_FILE = "fingerprint.json", "validation.html"
_FIRST = 8  # problems of a kind that are shown without a click


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
        validation: problems and cases.
        advice: fingerprint and suggestions.
    """
    data, fingerprint = validation.data, advice.fingerprint
    in_ml = bool(validation.cases) and all(facts.voxel_ml is not None for facts in validation.cases)
    created = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    write_page(
        path,
        "samed_hf.validation",
        "validation.html.j2",
        title=f"Data set: {fingerprint['data']['name'] or printable(data.root)}",
        subtitle=f"{data.layout} · {printable(data.root)} · {created}",
        facts=_facts(validation, fingerprint),
        kinds=_kinds(validation.problems),
        settings=[{"flags": one.text, "reason": printable(one.reason)} for one in advice.suggestions],
        command=printable(advice.command),
        memory=memory_table(advice.memory, advice.model),
        images=_images(validation),
        labels=label_rows(fingerprint, in_ml),
        splits=[split for split in SPLITS if fingerprint["cases"][split]],
        unit="ml" if in_ml else "pixels" if data.is_2d else "voxels",
        charts=list(_charts(validation, fingerprint)),
        grid=grid_rows(fingerprint),
        percentiles=[f"{one:g}\N{NARROW NO-BREAK SPACE}%" for one in PERCENTILES],
        intensities=intensity_rows(fingerprint),
        about=about_rows(fingerprint),
        cases=case_rows(validation, fingerprint, in_ml),
    )


def _facts(validation: Validation, fingerprint: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = {"train": "to train on", "validation": "for validation", "test": "to test on"}
    facts = [
        (count, f"{'case' if count == 1 else 'cases'} {names[split]}", "")
        for split, count in fingerprint["cases"].items()
        if count
    ]
    num_labels = len(fingerprint["labels"])
    facts.append((num_labels, "label" if num_labels == 1 else "labels", ""))
    slices = sum(sum(split.values()) for split in fingerprint["slices"].values())
    facts.append((format_count(slices), "slices", ""))
    for severity in ("error", "warning"):
        count = validation.count(severity)
        facts.append((count, severity if count == 1 else f"{severity}s", severity if count else "good"))
    return [dict(zip(("number", "text", "tone"), fact, strict=True)) for fact in facts]


def _kinds(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Group the problems by severity and kind."""
    groups: dict[tuple[str, str], list[dict[str, str | None]]] = {}
    for problem in problems:
        line = {"case": None if problem.case is None else printable(problem.case), "text": printable(problem.text)}
        groups.setdefault((problem.severity, problem.kind), []).append(line)
    return [
        {"severity": severity, "heading": KINDS[kind], "count": len(lines)}
        | {"first": lines[:_FIRST], "others": lines[_FIRST:]}
        for (severity, kind), lines in groups.items()
    ]


def _charts(validation: Validation, fingerprint: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    data, processor = validation.data, validation.processor
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
            yield {"caption": caption, "source": data_uri(drawn, "image/svg+xml"), "alt": caption}
    if (drawn := draw_sizes(validation.cases, data.id2label)) is not None:
        caption = "Size of each label, one point for each case"
        yield {"caption": caption, "source": data_uri(drawn, "image/svg+xml"), "alt": caption}


def _images(validation: Validation) -> list[dict[str, str]]:
    """Return the images of cases, with the problems of each."""
    images = []
    for name, jpeg in validation.images.items():
        headings = problem_headings([problem for problem in validation.problems if problem.case == name])
        caption = f"{printable(name)}: {headings}" if headings else ""
        alt = f"Slices of {printable(name)} with its labels over them"
        images.append({"caption": caption, "source": data_uri(jpeg, "image/jpeg"), "alt": alt})
    return images
