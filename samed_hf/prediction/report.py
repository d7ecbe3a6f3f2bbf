"""What a prediction run leaves for people and programs: `report.html` and `predictions.json`."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from PIL import Image

from ..reporting.colors import label_colors
from ..utils.atomic import write_text
from ..utils.text import printable
from .page import PAGE

__all__ = ["format_ml", "write_report", "write_run"]

_MAX_PICTURES = 200
"""So many previews stand in the page itself, for browsers must hold it whole."""


def write_run(path: Path, run: Mapping[str, Any]) -> None:
    """Write what a run was and did as JSON, in one step."""
    write_text(path, json.dumps(run, indent=2, allow_nan=False) + "\n")


def write_report(path: Path, run: Mapping[str, Any]) -> None:
    """Write the page of a run: a table, a picture and the numbers of each case, failures, settings and versions.

    Args:
        path: The HTML file, in the folder of the predictions: statistics and previews are read from there.
        run: What `predictions.json` holds: "created", "seconds", "labels" (names by index), "settings", "versions", and
            "cases", each with "name", "file", "status" ("done" or "failed"), and "error", or "seconds", "files",
            "statistics" and "preview" (paths relative to the folder; the preview may be `None`).
    """
    names = {int(index): name for index, name in run["labels"].items()}
    colors = {name: _hex(color) for name, color in zip(names.values(), _colors(names), strict=True)}
    done = [_case(path.parent, case, colors) for case in run["cases"] if case["status"] == "done"]
    failed = [_failure(case) for case in run["cases"] if case["status"] == "failed"]
    found = {name for case in done for name in case["rows"]}
    pictures = _pictures(path.parent, done)
    content = _template().render(
        title="Segmentation report",
        created=run["created"],
        duration=_duration(run["seconds"]),
        labels=names,
        columns=[{"name": name, "color": color} for name, color in colors.items() if name in found],
        missing=[name for name in colors if name not in found],
        done=done,
        failed=failed,
        picture_of=lambda case: next(pictures),
        tables={"Settings": _readable(run["settings"]), "Versions": _readable(run["versions"])},
    )
    # A file's name need not be text.
    write_text(path, content.encode("utf-8", "backslashreplace").decode("utf-8"))


def format_ml(ml: float) -> str:
    """Millilitres for people: three digits, whole ones from 100 ml."""
    return f"{ml:.0f}" if ml >= 99.95 else f"{ml:.3g}"


def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(PAGE)


def _case(folder: Path, case: Mapping[str, Any], colors: Mapping[str, str]) -> dict[str, Any]:
    """One case as the page shows it, from its statistics."""
    statistics = json.loads((folder / case["statistics"]).read_text(encoding="utf-8"))
    picture = statistics["kind"] == "image"
    labels = statistics["labels"]
    grid = " × ".join(str(length) for length in statistics["grid"]["shape"])
    facts = [printable(case["file"]), f"{grid} {'pixels' if picture else 'voxels'}"]
    if not picture:
        facts.append(" × ".join(f"{side:.3g}" for side in statistics["grid"]["spacing_mm"]) + " mm")
    facts += [*statistics["notes"], _duration(case["seconds"])]
    unit = "pixels" if picture else "voxels"
    removed = [f"{name} {count} {unit}" for name, count in statistics["removed"].items() if count]
    return {
        "name": printable(case["name"]),
        "about": " · ".join(facts),
        "unit": unit,
        "has_ml": not picture,
        "rows": {name: _row(row, unit, colors[name]) for name, row in labels.items() if row[unit]},
        "removed": ", ".join(removed),
        "files": [{"name": printable(file), "href": _address(file)} for file in case["files"]],
        "preview": case["preview"],
    }


def _row(row: Mapping[str, Any], unit: str, color: str) -> dict[str, str]:
    count = f"{row[unit]:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    ml = format_ml(row["ml"]) if "ml" in row else ""
    means, deviations = (
        value if isinstance(value, list) else [value] for value in (row["mean_intensity"], row["sd_intensity"])
    )
    spread = [f"{mean:.4g} ± {deviation:.3g}" for mean, deviation in zip(means, deviations, strict=True)]
    return {
        "size": f"{ml} ml" if ml else f"{count} {unit}",
        "count": count,
        "ml": ml,
        "intensity": ", ".join(spread),
        "confidence": f"{row['mean_confidence']:.2f}",
        "faces": ", ".join(row["border_faces"]),
        "color": color,
    }


def _failure(case: Mapping[str, Any]) -> dict[str, str]:
    return {"name": printable(case["name"]), "file": printable(case["file"]), "error": printable(case["error"])}


def _pictures(folder: Path, cases: list[dict[str, Any]]) -> Iterator[str | None]:
    """The cases' previews as addresses that hold the picture; JPEG, which takes a fifth of a PNG's size."""
    left = _MAX_PICTURES
    for case in cases:
        if case["preview"] is None or not left:
            yield None
            continue
        left -= 1
        content = io.BytesIO()
        with Image.open(folder / case["preview"]) as picture:
            picture.convert("RGB").save(content, format="JPEG", quality=88)
        yield "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _address(file: str) -> str:
    """A file's relative address; by its bytes, for a name need not be text."""
    return quote(file.encode("utf-8", "surrogateescape"))


def _colors(names: Mapping[int, str]) -> list[Any]:
    table = label_colors(max(names, default=0) + 1)
    return [table[index] for index in names]


def _hex(color: Any) -> str:
    return "#" + "".join(f"{round(float(part) * 255):02x}" for part in color)


def _readable(facts: Mapping[str, Any]) -> dict[str, str]:
    return {key.replace("_", " "): printable(_value(value)) for key, value in facts.items()}


def _value(value: Any) -> str:
    if value is None or value in ([], {}, False):
        return "no"
    if value is True:
        return "yes"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {one}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
