"""The page of a prediction run: `report.html`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..reporting.colors import hex_colors
from ..reporting.formatting import format_duration
from ..reporting.html import jpeg_uri, write_page

__all__ = ["write_report"]

_MAX_IMAGES = 200  # previews in the page, which a browser loads whole


def write_report(path: Path, run: Mapping[str, Any]) -> None:
    """Write the page of a run: a table, an image and the numbers of each case, failures, settings and versions.

    `path` is in the directory of the predictions, from which statistics and previews are read. `run` is the content of
    `predictions.json`: "created", "seconds", "labels" (names by index), "settings", "versions", and "cases", each with
    "name", "file", "status" ("done" or "failed"), and "error", or "seconds", "files", "statistics" and "preview" (paths
    relative to the directory; the preview may be `None`).
    """
    names = {int(index): name for index, name in run["labels"].items()}
    table = hex_colors(max(names, default=0) + 1)
    done = [_with_statistics(case, path.parent) for case in run["cases"] if case["status"] == "done"]
    failed = [case for case in run["cases"] if case["status"] == "failed"]
    with_preview = [case for case in done if case["preview"]]
    for case in with_preview[:_MAX_IMAGES]:
        case["image"] = path.parent / case["preview"]
    labels_found = {name for case in done for name in case["found"]}
    write_page(
        path,
        "samed_hf.prediction",
        "prediction.html.j2",
        title="Segmentation report",
        subtitle=run["created"],
        facts=[
            (len(done), f"{'case' if len(done) == 1 else 'cases'} segmented", ""),
            *([(len(failed), "failed", "error")] if failed else []),
            (len(names), "label" if len(names) == 1 else "labels", ""),
            (format_duration(run["seconds"]), "in all", ""),
        ],
        colors={name: table[index] for index, name in names.items()},
        columns=[name for name in names.values() if name in labels_found],
        missing=[name for name in names.values() if name not in labels_found],
        done=done,
        failed=failed,
        # Names of files may contain bytes that are no text.
        address=lambda file: quote(file.encode("utf-8", "surrogateescape")),
        format_intensity=_format_intensity,
        jpeg_uri=jpeg_uri,
        tables={
            heading: {key.replace("_", " "): value for key, value in run[heading.lower()].items()}
            for heading in ("Settings", "Versions")
        },
    )


def _with_statistics(case: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    statistics = json.loads((directory / case["statistics"]).read_text(encoding="utf-8"))
    unit = "voxels" if "spacing_mm" in statistics["grid"] else "pixels"
    labels_found = {name: row for name, row in statistics["labels"].items() if row[unit]}
    return statistics | dict(case) | {"unit": unit, "found": labels_found, "image": None}


def _format_intensity(row: Mapping[str, Any]) -> str:
    """Format the mean and the standard deviation of each channel."""
    values = (row["mean_intensity"], row["sd_intensity"])
    means, deviations = (value if isinstance(value, Sequence) else [value] for value in values)
    return ", ".join(f"{mean:.4g} ± {deviation:.3g}" for mean, deviation in zip(means, deviations, strict=True))
