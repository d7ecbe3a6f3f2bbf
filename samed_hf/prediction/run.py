"""A run over scans: each read, segmented and written, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from ..inference.batching import is_out_of_memory
from ..inference.segmenter import Segmenter
from ..utils.pipelining import Outcome, read_process_write
from ..utils.text import printable
from ..volumes import Volume
from .case import SegmentedCase, describe_found, read_case, segment_case, write_case
from .files import PREVIEW, STATISTICS, Job
from .progress import CaseProgress
from .settings import PredictionSettings

__all__ = ["predict_cases"]

_Entry = tuple[Job, tuple[int, int]]  # with its number and how many there are


def predict_cases(
    segmenter: Segmenter,
    jobs: Sequence[Job],
    output: Path,
    settings: PredictionSettings,
    *,
    places: Sequence[tuple[int, int]] | None = None,
    bar: bool | None = None,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Segment scans in order; one that fails leaves no file and doesn't keep the others from being done.

    While a scan is in the model, the results of the one before are written and the next one is read, so that at most
    two scans with their maps are in memory. Ctrl-C leaves the files of a case whole or not at all.

    Args:
        segmenter: The model or models.
        jobs: The scans, as [`~samed_hf.prediction.files.plan_jobs`] gives them.
        output: Folder for the results, made where it is missing.
        settings: How, and what is written.
        places: For the display, each job's number and how many there are; by default those of `jobs`.
        bar: Whether to show a bar; by default where standard error is a terminal.
        say: Told in a line what each case gave.

    Returns:
        What became of each scan, as `predictions.json` holds it.
    """
    places = places or [(number, len(jobs)) for number in range(1, len(jobs) + 1)]
    records = []

    def segment(entry: _Entry, scan: Volume, told: Callable[[], bool]) -> SegmentedCase:
        job, (number, count) = entry
        with ExitStack() as display:
            progress: CaseProgress | None = None

            def show(finished: int, slices: int) -> None:
                nonlocal progress
                if not told():
                    return
                if progress is None:
                    progress = display.enter_context(CaseProgress(job.scan.name, number, count, bar=bar))
                progress.show(finished, slices)

            return segment_case(segmenter, job, scan, output, settings, show)

    def note(entry: _Entry, outcome: Outcome) -> None:
        records.append(_record(entry[0], output, settings, outcome, say))

    read_process_write(
        list(zip(jobs, places, strict=True)),
        read=lambda entry: read_case(segmenter, entry[0]),
        process=segment,
        write=lambda entry, segmented: write_case(segmenter, entry[0], segmented, settings),
        done=note,
    )
    return records


def _record(
    job: Job, output: Path, settings: PredictionSettings, outcome: Outcome, say: Callable[[str], None]
) -> dict[str, Any]:
    """What `predictions.json` holds of a case, said in a line."""
    record: dict[str, Any] = {"name": job.scan.name, "file": str(job.scan.path), "kind": job.scan.kind}
    if outcome.error is not None:
        say(f"failed      {printable(job.scan.name)}")
        return record | {"status": "failed", "error": _explain(outcome.error)}
    statistics = outcome.result
    for line in statistics["notes"]:
        say(f"note        {printable(job.scan.name)}: {line}")
    say(f"{printable(output / job.labels)}: {describe_found(statistics)}")
    record |= {"status": "done", "seconds": round(outcome.seconds, 2)}
    record |= {"files": statistics["files"], "statistics": f"{job.folder}/{STATISTICS}"}
    return record | {"preview": f"{job.folder}/{PREVIEW}" if settings.preview else None}


def _explain(error: Exception) -> str:
    """One line for people on why a case failed."""
    text = printable(" ".join(str(error).split()))
    if is_out_of_memory(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return f"not enough memory ({text or 'none left'}): give a smaller --batch_size, or a machine with more."
    if isinstance(error, ValueError | OSError):
        return text or type(error).__name__
    return f"it failed in an unforeseen way ({type(error).__name__}: {text})"
