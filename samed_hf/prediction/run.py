"""Prediction of many scans, of which each may fail without stopping the others, and the report of the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..inference import Segmenter
from ..inference.batching import describe_failure
from ..reporting.charts import draw_sizes, hex_colors
from ..reporting.formatting import format_duration
from ..reporting.html import data_uri, write_page
from ..utils.console import ProgressBar
from ..utils.pipelining import Outcome, read_process_write
from ..utils.text import printable
from ..volumes import Frames
from .case import CasePipeline, SegmentedCase
from .files import PREVIEW, STATISTICS, Job
from .frames import describe_sizes
from .settings import PredictionSettings

__all__ = ["done_record", "predict_cases", "write_report"]

_MAX_IMAGES = 200  # previews in the page of a report, which a browser loads whole

logger = logging.getLogger(__name__)


def predict_cases(
    segmenter: Segmenter,
    jobs: Sequence[Job],
    output: Path,
    settings: PredictionSettings,
    *,
    bar: bool | None = None,
) -> list[dict[str, Any]]:
    """Segment scans in order; a scan that fails leaves no file and doesn't stop the others.

    While a scan is in the model, the results of the previous one are written and the next one is read, so that at most
    two scans with their maps are in memory. After Ctrl-C a case has all its files or none.

    Args:
        segmenter: the model or models.
        jobs: see [`~samed_hf.prediction.files.plan_jobs`].
        output: directory for the results, created where it is missing.
        settings: how to segment and what to write.
        bar: whether to show a progress bar; by default if standard error is a terminal.

    Returns:
        A record of each scan for `predictions.json`.
    """
    records: list[dict[str, Any]] = []
    pipeline = CasePipeline(segmenter, output, settings)

    def segment(job: Job, frames: Frames, previous_reported: Callable[[], bool]) -> SegmentedCase:
        with ExitStack() as display:
            show: ProgressBar | None = None

            def progress(done: int, total: int) -> None:
                nonlocal show
                if not previous_reported():
                    return
                if show is None:
                    title = f"case {job.number}/{job.total} {printable(job.scan.name)}"
                    show = display.enter_context(ProgressBar(title, "slice", bar=bar))
                show(done, total)

            return pipeline.segment(job, frames, progress)

    def report(job: Job, outcome: Outcome) -> None:
        records.append(_record(job, output, outcome))

    read_process_write(jobs, read=pipeline.read, process=segment, write=pipeline.write, done=report)
    return records


def _record(job: Job, output: Path, outcome: Outcome) -> dict[str, Any]:
    """Log a case's result and return its record for `predictions.json`."""
    record: dict[str, Any] = {"name": job.scan.name, "file": str(job.scan.path), "kind": job.scan.kind}
    name = printable(job.scan.name)
    if outcome.error is not None:
        logger.info("failed      %s", name)
        return record | {"status": "failed", "error": describe_failure(outcome.error)}
    statistics = outcome.result
    for note in statistics["notes"]:
        logger.info("note        %s: %s", name, note)
    found = [label for label, row in statistics["labels"].items() if row["bounding_box"]]
    labels = [f"{printable(label)} {describe_sizes(statistics, label)}" for label in found]
    logger.info("%s: %s", printable(output / job.labels), ", ".join(labels) or "nothing found")
    return done_record(statistics, round(outcome.seconds, 2))


def done_record(statistics: Mapping[str, Any], seconds: float | None) -> dict[str, Any]:
    """Return the record of a case for `predictions.json`; the seconds of an earlier run's may be unknown."""
    name = statistics["case"]
    preview = f"{name}/{PREVIEW}"
    record = {"name": name, "file": statistics["file"], "kind": statistics["kind"], "status": "done"}
    record |= {"seconds": seconds, "files": statistics["files"], "statistics": f"{name}/{STATISTICS}"}
    return record | {"preview": preview if preview in statistics["files"] else None}


def write_report(path: Path, run: Mapping[str, Any]) -> None:
    """Write the page of a run: a table, an image and the numbers of each case, failures, settings and versions.

    `path` is in the directory of the predictions, from which statistics and previews are read; `run` is the content of
    `predictions.json`, whose cases are records of [`predict_cases`].
    """
    names = {int(index): name for index, name in run["labels"].items()}
    table = hex_colors(max(names, default=0) + 1)
    done = [_with_statistics(case, path.parent) for case in run["cases"] if case["status"] == "done"]
    failed = [case for case in run["cases"] if case["status"] == "failed"]
    for case in [case for case in done if case["preview"]][:_MAX_IMAGES]:
        case["image"] = path.parent / case["preview"]
    colors = {name: table[index] for index, name in names.items()}
    for case in done:
        case["curves"] = _draw_frames(case, colors)
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
        colors=colors,
        notes=run.get("notes", []),
        columns=[name for name in names.values() if name in labels_found],
        missing=[name for name in names.values() if name not in labels_found],
        done=done,
        failed=failed,
        # Names of files may contain bytes that are no text.
        address=lambda file: quote(file.encode("utf-8", "surrogateescape")),
        format_intensity=_format_intensity,
        svg_uri=lambda content: data_uri(content, "image/svg+xml"),
        tables={
            heading: {key.replace("_", " "): value for key, value in run[heading.lower()].items()}
            for heading in ("Settings", "Versions")
        },
    )


def _with_statistics(case: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    statistics = json.loads((directory / case["statistics"]).read_text(encoding="utf-8"))
    unit = "voxels" if "spacing_mm" in statistics["grid"] else "pixels"
    rows = {name: row for name, row in statistics["labels"].items() if row[unit]}
    measure = next((key for row in rows.values() for key in ("ml", "mm2") if key in row), None)
    found = {name: row | {"size": describe_sizes(statistics, name)} for name, row in rows.items()}
    page = {"unit": unit, "measure": measure, "found": found, "image": None, "frames": ()}
    return page | statistics | dict(case)


def _draw_frames(case: Mapping[str, Any], colors: Mapping[str, str]) -> bytes | None:
    """The curves of a case's labels over its frames."""
    if not case["frames"] or not case["found"]:
        return None
    key = case["measure"] or case["unit"]
    sizes = {name: [frame["labels"][name][key] for frame in case["frames"]] for name in case["found"]}
    frames = [frame["frame"] for frame in case["frames"]]
    return draw_sizes(frames, sizes, colors, "mm²" if key == "mm2" else key)


def _format_intensity(row: Mapping[str, Any]) -> str:
    """Format the mean and the standard deviation of each channel."""
    values = (row["mean_intensity"], row["sd_intensity"])
    means, deviations = (value if isinstance(value, Sequence) else [value] for value in values)
    return ", ".join(f"{mean:.4g} ± {deviation:.3g}" for mean, deviation in zip(means, deviations, strict=True))
