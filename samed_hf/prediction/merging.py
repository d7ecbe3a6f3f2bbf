"""The record of a run, `predictions.json`, with the cases of earlier runs and of the other shards."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..utils.atomic import temporary_directory
from ..utils.sharing import Shard, complete_parts, merge_parts, read_part, read_parts
from ..utils.text import printable
from .existing import is_complete
from .files import REPORT, RUN, STATISTICS, keep_earlier, own_files, read_statistics, write_json
from .run import done_record, write_report

__all__ = ["add_earlier", "earlier_run", "merge_directories", "merge_shards", "write_run", "write_shard"]

logger = logging.getLogger(__name__)


def write_run(output: Path, run: Mapping[str, Any], *, replace: bool, report: bool) -> Path:
    """Write `predictions.json` and the report of a run, and return the page's or else the file's path.

    Those of an earlier run are renamed, unless `replace`.
    """
    if not replace:
        keep_earlier(output)
    write_json(output / RUN, run)
    if report:
        write_report(output / REPORT, run)
    return output / (REPORT if report else RUN)


def earlier_run(output: Path, method: Mapping[str, Any], name: str = RUN) -> dict[str, dict[str, Any]] | None:
    """The cases in an earlier run's file by their names; `None` without such a file of the same method."""
    try:
        run = read_part(output / name)
    except (OSError, ValueError):
        return None
    return {case["name"]: case for case in run["cases"]} if run["method"] == method else None


def add_earlier(output: Path, run: dict[str, Any]) -> dict[str, Any]:
    """Add the cases of earlier runs of the same method, also of those that were killed, to a run's record."""
    names = {case["name"] for case in run["cases"]}
    known = earlier_run(output, run["method"]) or {}
    failed = {name: case for name, case in known.items() if name not in names and case["status"] == "failed"}
    # An input that couldn't be searched has no kind; its scans have names of their own once it can.
    added = {name: case for name, case in failed.items() if "kind" in case or not os.access(case["file"], os.R_OK)}
    for path in output.glob(f"*/{STATISTICS}"):
        name = path.parent.name
        statistics = read_statistics(output, name)
        if name not in names and statistics.get("method") == run["method"] and is_complete(statistics, output, name):
            added[name] = done_record(statistics, known.get(name, {}).get("seconds"))
    return run | {"cases": [*run["cases"], *(added[name] for name in sorted(added))]}


def write_shard(output: Path, run: dict[str, Any], shard: Shard) -> Path:
    """Write a shard's part of `predictions.json`; `run` has the entry "shard"."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / shard.file_name(RUN), run)
    return output / shard.file_name(RUN)


def merge_shards(output: Path, run: Mapping[str, Any], *, report: bool) -> Path | None:
    """Write the record of all shards, if all of them have written their parts; else return `None`.

    Shards that end at the same time write the same files.
    """
    parts = read_parts(output, RUN, run["shard"]["count"])
    if not complete_parts(run, parts.values()):
        return None
    merged = add_earlier(output, _merge(parts))
    return write_run(output, merged, replace=earlier_run(output, run["method"]) is not None, report=report)


def _merge(parts: Mapping[Path, dict[str, Any]]) -> dict[str, Any]:
    runs = parts.values()
    times = {"created": max(run["created"] for run in runs), "seconds": round(sum(run["seconds"] for run in runs), 2)}
    return merge_parts(parts) | times


def merge_directories(directories: Sequence[Path], output: Path, *, report: bool = True) -> Path:
    """Merge the results in several directories, of shards or of whole runs, into one directory.

    Args:
        directories: with `predictions.json`, or the shards' parts of it.
        output: directory for the merged results. The files of the cases are linked, or copied to another file system;
            it may be one of `directories`.
        report: write `report.html` too.

    Returns:
        The path of the report, or else of `predictions.json`.

    Raises:
        FileNotFoundError: a directory has no results, or a file of a case is missing.
        ValueError: the adapters, settings or lists of cases differ, a shard is missing, a case is in two directories,
            or a file exists in `output`.
    """
    parts: dict[Path, dict[str, Any]] = {}
    for directory in directories:
        if not directory.is_dir():
            raise FileNotFoundError(f"{printable(directory)} is no directory, expected one of samed-hf predict's.")
        found = read_parts(directory, RUN)
        if not found and not (directory / RUN).is_file():
            raise FileNotFoundError(f"{printable(directory)} has no {RUN}, expected a directory of samed-hf predict.")
        parts |= found or {directory / RUN: read_part(directory / RUN)}
    merged = _merge(parts)
    moves = [
        (path.parent / file, output / file)
        for path, part in parts.items()
        for case in part["cases"]
        for file in own_files(case, case["name"])
        if path.parent.resolve() != output.resolve()
    ]
    for source, target in moves:
        if not source.is_file():
            raise FileNotFoundError(f"{printable(source)} does not exist, which {RUN} lists: predict the case again.")
        if target.exists() and not target.samefile(source):
            raise ValueError(f"{printable(target)} exists already: choose another --output.")
    for source, target in moves:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_directory(output) as temporary:
            try:
                (temporary / "file").hardlink_to(source)
            except OSError:
                shutil.copy2(source, temporary / "file")
            (temporary / "file").replace(target)
    return write_run(output, merged, replace=output in directories, report=report)
