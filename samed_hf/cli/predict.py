"""`samed-hf predict`: scans divided over the processes, one report, and an exit status that tells what failed."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env

from ..inference.segmenter import Segmenter
from ..model.image_processing_samed import SamedImageProcessor
from ..prediction.files import REPORT, RUN, Job, keep_earlier, plan_jobs
from ..prediction.report import write_report, write_run
from ..prediction.run import predict_cases
from ..prediction.settings import ALL, PredictionSettings
from ..utils.text import printable
from ..volumes import find_scans

__all__ = ["predict"]

_PACKAGES = ("samed_hf", "torch", "transformers", "peft", "accelerate", "numpy", "scipy", "nibabel", "SimpleITK")
_PACKAGES += ("pydicom", "highdicom", "pillow")
# A process that has done its cases waits for the others, however long theirs take.
_PATIENCE = timedelta(days=14)

Result = TypeVar("Result")


def predict(args: argparse.Namespace) -> int:
    """`samed-hf predict`.

    Returns:
        0, or 1 where some cases failed, 2 where all did; of several processes the first one's counts.

    Raises:
        ValueError: Arguments that can't be, a model that can't be loaded.
    """
    started = time.monotonic()
    settings = _settings(args)
    # Of processes without an accelerator, Accelerate lets each believe that it is alone unless it is told "CPU".
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(on_cpu, timeout=_PATIENCE)
    try:
        output = Path(args.output)
        made = not output.exists()
        jobs, unreadable = _on_first(state, lambda: _plan(args, output, settings))
        mine = list(enumerate(jobs, start=1))[state.process_index :: state.num_processes]
        segmenter = _on_all(state, lambda: _load(args, settings))
        records = predict_cases(
            segmenter,
            [job for _, job in mine],
            output,
            settings,
            places=[(number, len(jobs)) for number, _ in mine],
            bar=None if state.num_processes == 1 else False,
            say=lambda line: print(line, flush=True),
        )
        records = gather_object(records)
        if not state.is_main_process:
            return 0
        order = {job.scan.name: number for number, job in enumerate(jobs)}
        records.sort(key=lambda record: order[record["name"]])
        records += unreadable
        run = _run(args, settings, segmenter, records, state.num_processes, time.monotonic() - started)
        return _finish(output, run, args, made)
    except _ToldByAnotherError:
        return 2
    finally:
        state.destroy_process_group()


class _ToldByAnotherError(Exception):
    """Another process tells what is wrong."""


def _settings(args: argparse.Namespace) -> PredictionSettings:
    return PredictionSettings(
        format=args.format,
        labels=None if args.labels is None else tuple(args.labels),
        probabilities=args.probabilities,
        per_class=args.per_class,
        tta=args.tta,
        keep_largest=tuple(args.keep_largest or ()),
        min_island_ml=_sizes(args.min_island_ml),
        batch_size=args.batch_size,
        preview=not args.no_preview,
    )


def _sizes(text: str | None) -> dict[str, float]:
    """`0.5` for all labels, or `liver=1,spleen=0.5`."""
    sizes: dict[str, float] = {}
    for part in (text or "").split(",") if text is not None else ():
        name, equals, number = part.rpartition("=")
        name = name.strip() if equals else ALL
        try:
            size = float(number)
        except ValueError:
            size = None
        if size is None or not name or name in sizes:
            raise ValueError(
                f"--min_island_ml is {text!r}: expected a size in ml for all labels, e.g. 0.5, or one for each label, "
                "e.g. liver=1,spleen=0.5."
            )
        sizes[name] = size
    return sizes


def _plan(
    args: argparse.Namespace, output: Path, settings: PredictionSettings
) -> tuple[list[Job], list[dict[str, Any]]]:
    """What to do, and records of the inputs that hold no scan: they don't keep the others from being done."""
    num_channels = _num_channels(args.adapter)
    inputs: list[str] = []
    unreadable: list[dict[str, Any]] = []
    for path in args.inputs:
        try:
            find_scans([path], num_channels=num_channels, report=lambda note: None)
            inputs.append(path)
        except (ValueError, OSError) as error:
            if len(args.inputs) == 1:
                raise
            name = Path(path).name or str(path)
            unreadable.append({"name": name, "file": path, "status": "failed", "error": str(error)})
    scans = find_scans(inputs, num_channels=num_channels, report=lambda note: print(f"note        {note}"))
    return plan_jobs(scans, output, settings, overwrite=args.overwrite), unreadable


def _num_channels(adapter: str) -> int:
    """How many images make a scan for this adapter; where that can't be read, loading it will say why."""
    try:
        content, _ = SamedImageProcessor.get_image_processor_dict(adapter)
    except (OSError, ValueError):
        return 1
    return len(content.get("channel_names") or [""])


def _load(args: argparse.Namespace, settings: PredictionSettings) -> Segmenter:
    segmenter = Segmenter.load([args.adapter, *args.ensemble], dtype=args.dtype)
    settings.check_labels(segmenter.id2label)
    return segmenter


def _on_first(state: PartialState, work: Callable[[], Result]) -> Result:
    """Do something once, before any process writes; all get its result, the first one its error."""
    content: list[Any] = [None, None]
    if state.is_main_process:
        try:
            content[0] = work()
        except (ValueError, OSError, MemoryError) as error:
            content[1] = error
    error = content[1]
    content[1] = None if error is None else True
    content = broadcast_object_list(content)
    if error is not None:
        raise error
    if content[1]:
        raise _ToldByAnotherError
    return content[0]


def _on_all(state: PartialState, work: Callable[[], Result]) -> Result:
    """Do something in every process; where it fails in one, all stop, and one tells why."""
    result: Result | None = None
    failure: Exception | None = None
    try:
        result = work()
    except (ValueError, OSError, MemoryError, ImportError) as error:
        failure = error
    failed = gather_object([failure is not None])
    if not any(failed):
        return result
    if failure is None or state.process_index != failed.index(True):
        raise _ToldByAnotherError
    raise failure


def _run(
    args: argparse.Namespace,
    settings: PredictionSettings,
    segmenter: Segmenter,
    records: list[dict[str, Any]],
    num_processes: int,
    seconds: float,
) -> dict[str, Any]:
    """What `predictions.json` holds."""
    models = {"adapter": args.adapter, "ensemble": list(args.ensemble)}
    first = segmenter.models[0]
    machine = {"device": str(first.device), "dtype": str(first.dtype).removeprefix("torch.")}
    machine["num_processes"] = num_processes
    return {
        "created": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        "seconds": round(seconds, 2),
        "labels": {str(index): name for index, name in settings.wanted(segmenter.id2label).items()},
        "settings": models | settings.to_dict() | machine,
        "versions": {"python": platform.python_version()} | _versions(),
        "cases": records,
    }


def _versions() -> Mapping[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _finish(output: Path, run: dict[str, Any], args: argparse.Namespace, made: bool) -> int:
    """Write the report where there is something to report on, and name what failed, each in a line."""
    failed = [case for case in run["cases"] if case["status"] == "failed"]
    done = len(run["cases"]) - len(failed)
    if done:
        if not args.overwrite:
            keep_earlier(output)
        write_run(output / RUN, run)
        if not args.no_report:
            write_report(output / REPORT, run)
        print(f"wrote       {printable(output / (RUN if args.no_report else REPORT))}", flush=True)
    elif made and output.is_dir() and not any(output.iterdir()):
        output.rmdir()
    if failed:
        print(f"{len(failed)} of {len(run['cases'])} scans failed:", file=sys.stderr)
    for case in failed:
        print(f"error: {printable(case['name'])}: {case['error']}", file=sys.stderr, flush=True)
    return 0 if not failed else 1 if done else 2
