"""Files that describe a prediction run: `report.html` and `predictions.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..reporting.colors import hex_colors
from ..reporting.formatting import format_count, format_duration, format_sides, format_value
from ..reporting.html import jpeg_uri, write_page
from ..utils.atomic import write_text
from ..utils.text import printable

__all__ = ["format_ml", "write_report", "write_run"]

_MAX_IMAGES = 200
"""At most this many previews are part of the page, as a browser loads it whole."""


def write_run(path: Path, run: Mapping[str, Any]) -> None:
    """Write the description of a run as JSON, atomically."""
    write_text(path, json.dumps(run, indent=2, allow_nan=False) + "\n")


def write_report(path: Path, run: Mapping[str, Any]) -> None:
    """Write the page of a run: a table, an image and the numbers of each case, failures, settings and versions.

    Args:
        path: the HTML file, in the directory of the predictions, from which statistics and previews are read.
        run: content of `predictions.json`: "created", "seconds", "labels" (names by index), "settings", "versions",
            and "cases", each with "name", "file", "status" ("done" or "failed"), and "error", or "seconds", "files",
            "statistics" and "preview" (paths relative to the directory; the preview may be `None`).
    """
    names = {int(index): name for index, name in run["labels"].items()}
    table = hex_colors(max(names, default=0) + 1)
    colors = {name: table[index] for index, name in names.items()}
    done = [_case(path.parent, case, colors) for case in run["cases"] if case["status"] == "done"]
    failed = [_failure(case) for case in run["cases"] if case["status"] == "failed"]
    for case in [case for case in done if case["preview"]][:_MAX_IMAGES]:
        case["image"] = path.parent / case["preview"]
    found = {name for case in done for name in case["rows"]}
    write_page(
        path,
        "samed_hf.prediction",
        "prediction.html.j2",
        title="Segmentation report",
        subtitle=run["created"],
        facts=_facts(len(done), len(failed), len(names), run["seconds"]),
        columns=[{"name": name, "color": color} for name, color in colors.items() if name in found],
        missing=[name for name in colors if name not in found],
        done=done,
        failed=failed,
        jpeg_uri=jpeg_uri,
        tables={"Settings": _readable(run["settings"]), "Versions": _readable(run["versions"])},
    )


def format_ml(ml: float) -> str:
    """Round millilitres to three digits, from 100 ml to whole ones."""
    return f"{ml:.0f}" if ml >= 99.95 else f"{ml:.3g}"


def _facts(done: int, failed: int, labels: int, seconds: float) -> list[dict[str, Any]]:
    facts = [(done, f"{'case' if done == 1 else 'cases'} segmented", "")]
    facts += [(failed, "failed", "error")] if failed else []
    facts.append((labels, "label" if labels == 1 else "labels", ""))
    return [{"number": number, "text": text, "tone": tone} for number, text, tone in facts] + [
        {"number": format_duration(seconds), "text": "in all", "tone": ""}
    ]


def _case(directory: Path, case: Mapping[str, Any], colors: Mapping[str, str]) -> dict[str, Any]:
    """Return the page's values of a case from its statistics."""
    statistics = json.loads((directory / case["statistics"]).read_text(encoding="utf-8"))
    grid = statistics["grid"]
    is_image = "spacing_mm" not in grid
    unit = "pixels" if is_image else "voxels"
    about = [printable(case["file"]), f"{format_sides(grid['shape'])} {unit}"]
    about += [] if is_image else [f"{format_sides(grid['spacing_mm'])} mm"]
    about += [*statistics["notes"], format_duration(case["seconds"])]
    return {
        "name": printable(case["name"]),
        "about": " · ".join(about),
        "unit": unit,
        "has_ml": not is_image,
        "rows": {name: _row(row, unit, colors[name]) for name, row in statistics["labels"].items() if row[unit]},
        "removed": ", ".join(f"{name} {count} {unit}" for name, count in statistics["removed"].items() if count),
        "files": [{"name": printable(file), "href": _address(file)} for file in case["files"]],
        "preview": case["preview"],
        "image": None,
    }


def _row(row: Mapping[str, Any], unit: str, color: str) -> dict[str, str]:
    count, ml = format_count(row[unit]), format_ml(row["ml"]) if "ml" in row else ""
    return {
        "size": f"{ml} ml" if ml else f"{count} {unit}",
        "count": count,
        "ml": ml,
        "intensity": _intensity(row["mean_intensity"], row["sd_intensity"]),
        "confidence": f"{row['mean_confidence']:.2f}",
        "faces": ", ".join(row["border_faces"]),
        "color": color,
    }


def _intensity(mean: float | Sequence[float], deviation: float | Sequence[float]) -> str:
    """Format the mean and the standard deviation of each channel."""
    means, deviations = (value if isinstance(value, Sequence) else [value] for value in (mean, deviation))
    return ", ".join(f"{one:.4g} ± {other:.3g}" for one, other in zip(means, deviations, strict=True))


def _failure(case: Mapping[str, Any]) -> dict[str, str]:
    return {key: printable(case[key]) for key in ("name", "file", "error")}


def _address(file: str) -> str:
    """Return the relative address of a file whose name may contain bytes that are no text."""
    return quote(file.encode("utf-8", "surrogateescape"))


def _readable(settings: Mapping[str, Any]) -> dict[str, str]:
    return {key.replace("_", " "): format_value(value) for key, value in settings.items()}
