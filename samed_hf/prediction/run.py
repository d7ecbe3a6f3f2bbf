"""Prediction of many scans, of which each may fail without stopping the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from ..inference.batching import is_out_of_memory
from ..inference.segmenter import Segmenter
from ..utils.console import ProgressBar
from ..utils.pipelining import Outcome, read_process_write
from ..utils.text import one_line, printable
from ..volumes import Volume
from .case import SegmentedCase, describe_labels, read_case, segment_case, write_case
from .files import PREVIEW, STATISTICS, Job
from .settings import PredictionSettings

__all__ = ["predict_cases"]

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
        jobs: the scans; see [`~samed_hf.prediction.files.plan_jobs`].
        output: directory for the results, created where it is missing.
        settings: how to segment and what to write.
        bar: whether to show a progress bar; by default if standard error is a terminal.

    Returns:
        A record of each scan for `predictions.json`.
    """
    records: list[dict[str, Any]] = []

    def segment(job: Job, scan: Volume, previous_reported: Callable[[], bool]) -> SegmentedCase:
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

            return segment_case(segmenter, job, scan, output, settings, progress)

    read_process_write(
        jobs,
        read=lambda job: read_case(segmenter, job),
        process=segment,
        write=lambda job, segmented: write_case(segmenter, job, segmented, settings),
        done=lambda job, outcome: records.append(_record(job, output, settings, outcome)),
    )
    return records


def _record(job: Job, output: Path, settings: PredictionSettings, outcome: Outcome) -> dict[str, Any]:
    """Log a case's result and return its record for `predictions.json`."""
    record: dict[str, Any] = {"name": job.scan.name, "file": str(job.scan.path), "kind": job.scan.kind}
    name = printable(job.scan.name)
    if outcome.error is not None:
        logger.info("failed      %s", name)
        return record | {"status": "failed", "error": _explain(outcome.error)}
    statistics = outcome.result
    for note in statistics["notes"]:
        logger.info("note        %s: %s", name, note)
    logger.info("%s: %s", printable(output / job.labels), describe_labels(statistics))
    record |= {"status": "done", "seconds": round(outcome.seconds, 2)}
    record |= {"files": statistics["files"], "statistics": f"{job.directory}/{STATISTICS}"}
    return record | {"preview": f"{job.directory}/{PREVIEW}" if settings.preview else None}


def _explain(error: Exception) -> str:
    """Return one line on why a case failed and what to do."""
    if is_out_of_memory(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return f"not enough memory ({one_line(error)}): give a smaller --batch_size, or use a machine with more."
    if isinstance(error, ValueError | OSError):
        return one_line(error)
    return f"it failed unexpectedly ({type(error).__name__}: {one_line(error)})"
