"""Results of earlier runs in an output directory: which cases are finished, and whether this run would repeat them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..inference import Segmenter
from ..utils.sharing import method_differences
from ..utils.text import printable
from .files import STATISTICS, Job, check_target, hash_files, own_files, read_statistics, remove_case_leftovers, results
from .settings import PredictionSettings

__all__ = ["describe_method", "is_complete", "select_unfinished"]

_NAMED = 3  # cases in an error


def describe_method(segmenter: Segmenter, settings: PredictionSettings) -> dict[str, Any]:
    """What a case's results depend on besides the scan, ready for JSON: hashes of the models, dtype and settings."""
    given = dataclasses.asdict(settings)
    del given["batch_size"]  # changes the last bits at most
    dtype = str(segmenter.models[0].dtype).removeprefix("torch.")
    method: dict[str, Any] = json.loads(json.dumps({"models": segmenter.fingerprints(), "dtype": dtype} | given))
    return method


def select_unfinished(
    jobs: Sequence[Job], output: Path, method: Mapping[str, Any], *, overwrite: bool
) -> tuple[list[Job], dict[str, dict[str, Any]]]:
    """Divide the jobs into those to do and those that are done, with the latter's statistics by the case's name.

    A case is done if all files that its statistics list are there unchanged, made by this method from this input. One
    that a kill has left unfinished is to do.

    Raises:
        ValueError: without `overwrite`, a case has results of another method or input, or files of unknown origin.
    """
    unfinished: list[Job] = []
    finished: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for job in jobs:
        remove_case_leftovers(output, job.scan.name)
        statistics, problem = _find_earlier(job, output, method)
        if statistics is not None and problem is None:
            finished[job.scan.name] = statistics
            continue
        if problem and not overwrite:
            problems.append(f"{printable(job.scan.name)} ({problem})")
        check_target(job, output, overwrite=True)
        unfinished.append(job)
    if problems:
        others = f" and {len(problems) - _NAMED} others" if len(problems) > _NAMED else ""
        raise ValueError(
            f"--output {printable(output)} holds other results than this run's: {'; '.join(problems[:_NAMED])}{others}"
            ". Give --overwrite to predict these cases again, or choose another directory."
        )
    return unfinished, finished


def _find_earlier(job: Job, output: Path, method: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """Return the statistics of a case whose files are all there, and why it isn't what this run would write."""
    name = job.scan.name
    statistics = read_statistics(output, name)
    if not statistics:
        exists = (output / job.labels).exists()
        return None, f"{printable(job.labels)} exists without its {STATISTICS}" if exists else None
    if not is_complete(statistics, output, name):
        return None, None
    if not isinstance(statistics.get("method"), dict):
        return statistics, f"its {STATISTICS} is of an earlier version and doesn't state how it was made"
    if differences := method_differences(statistics["method"], method):
        return statistics, differences
    try:
        if statistics["inputs_hash"] != hash_files(job.inputs):
            return statistics, f"{printable(job.scan.path)} has changed since"
    except (OSError, ValueError):
        return None, None  # reading the scan names the problem, and leaves the results
    if statistics["files_hash"] != hash_files(output / file for file in results(statistics["files"])):
        return statistics, "its files were changed, or a replacement of them was interrupted"
    return statistics, None


def is_complete(statistics: Mapping[str, Any], output: Path, name: str) -> bool:
    """Whether all files that the statistics of a case list are there."""
    files = own_files(statistics, name)
    return bool(files) and files == statistics["files"] and all((output / file).is_file() for file in files)
