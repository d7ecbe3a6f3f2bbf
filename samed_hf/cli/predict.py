"""`samed-hf predict`: scans divided over the processes, one report, and an exit status for what failed."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.text import printable
from ..volumes.registry import LABEL_FORMATS
from .common import add_computing, hide_loading_bars, names, start_processes

if TYPE_CHECKING:
    from accelerate import PartialState

    from ..inference import Segmenter
    from ..prediction import PredictionSettings
    from ..prediction.files import Job

__all__ = ["add_parser", "run"]

# A process that has finished its cases waits for the others, however long theirs take.
_TIMEOUT = timedelta(days=14)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("predict", help="segment scans")
    add = parser.add_argument
    add("adapter", metavar="ADAPTER", help="directory or Hub id")
    add("inputs", metavar="INPUT", nargs="+", help="NIfTI, NRRD, MHA, DICOM or image files, or directories of them")
    add("--output", required=True, metavar="DIR", help="directory for the segmentations")
    text = "of the segmentations [the scan's own: DICOM-SEG for DICOM, PNG for images]"
    add("--format", choices=LABEL_FORMATS, help=text)
    add("--labels", type=names, metavar="A,B,…", help="labels to keep [all]")
    add("--per_class", action="store_true", help="write a mask for each label too")
    add("--probabilities", action="store_true", help="write each label's probability too, as 4-D file")
    text = "more adapters of the same labels, averaged"
    add("--ensemble", nargs="+", default=[], metavar="ADAPTER", help=text)
    add("--tta", action="store_true", help="test-time augmentation: average turned and mirrored views")
    text = "keep only the largest component of these labels [none]"
    add("--keep_largest", type=names, default=(), metavar="all|A,B,…", help=text)
    text = "remove components below this size, of all labels or of some [none]"
    add("--min_island_ml", metavar="ML|A=ML,…", help=text)
    add_computing(parser)
    add("--overwrite", action="store_true", help="replace existing segmentations")
    add("--no_preview", action="store_false", dest="preview", help="draw no image of each case")
    add("--no_report", action="store_true", help="write no report.html")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Segment the scans.

    Returns:
        0, or 1 where some cases failed, 2 where all did; of several processes the main one's status counts.
    """
    start_processes(args.argv)
    hide_loading_bars()
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    from ..prediction import PredictionSettings

    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(PredictionSettings)}
    settings = PredictionSettings(**given | {"min_island_ml": _sizes(args.min_island_ml)})
    # Without an accelerator, Accelerate starts a process group only if `cpu` is set.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(on_cpu, timeout=_TIMEOUT)
    try:
        return _predict(args, settings, state)
    except _FailedElsewhereError:
        return 2
    finally:
        state.destroy_process_group()


def _predict(args: argparse.Namespace, settings: PredictionSettings, state: PartialState) -> int:
    """Segment this process's share of the scans; the main process gathers the results."""
    from accelerate.utils import broadcast_object_list, gather_object

    from ..inference import Segmenter
    from ..prediction import predict_cases
    from ..training.checkpointing.provenance import package_versions

    def load() -> Segmenter:
        base, adapters = args.base_model_name_or_path, [args.adapter, *args.ensemble]
        segmenter = Segmenter.load(adapters, dtype=args.dtype, base_model_name_or_path=base)
        settings.check_labels(segmenter.id2label, segmenter.regions)
        return segmenter

    started, output = time.monotonic(), Path(args.output)
    created = not output.exists()
    plan = _on_all_ranks(state, lambda: _plan(args, output, settings) if state.is_main_process else ([], []))
    jobs, unreadable = broadcast_object_list([plan])[0]
    segmenter: Segmenter = _on_all_ranks(state, load)
    mine = jobs[state.process_index :: state.num_processes]
    records = predict_cases(segmenter, mine, output, settings, bar=None if state.num_processes == 1 else False)
    records = gather_object(records)
    if not state.is_main_process:
        return 0
    order = {job.scan.name: job.number for job in jobs}
    records = sorted(records, key=lambda record: order[record["name"]]) + unreadable
    models, first = {"adapter": args.adapter, "ensemble": list(args.ensemble)}, segmenter.models[0]
    machine = {"device": str(first.device), "dtype": str(first.dtype).removeprefix("torch.")}
    run = {
        "created": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        "seconds": round(time.monotonic() - started, 2),
        "labels": {str(index): name for index, name in _reported(segmenter, settings).items()},
        "settings": models | dataclasses.asdict(settings) | machine | {"num_processes": state.num_processes},
        "versions": package_versions(),
        "cases": records,
    }
    return _finish(args, output, run, created)


def _reported(segmenter: Segmenter, settings: PredictionSettings) -> dict[int, str]:
    """What the statistics are of: the requested labels, or the regions."""
    regions = {index: name for index, (name, _) in segmenter.regions.items()}
    return regions or settings.requested(segmenter.id2label)


class _FailedElsewhereError(Exception):
    """Another process failed, and reports the error."""


def _on_all_ranks(state: PartialState, work: Callable[[], Any]) -> Any:
    """Call `work` in every process; of those where it fails the first raises the error, and all others end silently."""
    from accelerate.utils import gather_object

    failure: Exception | None = None
    try:
        result = work()
    except (ValueError, OSError, MemoryError, ImportError) as error:
        failure = error
    failed = gather_object([failure is not None])
    if not any(failed):
        return result
    if failure is None or state.process_index != failed.index(True):
        raise _FailedElsewhereError
    raise failure


def _sizes(text: str | None) -> dict[str, float]:
    """Parse `0.5`, for all labels, or `liver=1,spleen=0.5`."""
    sizes: dict[str, float] = {}
    for part in [] if text is None else text.split(","):
        name, equals, number = part.rpartition("=")
        name = name.strip() if equals else "all"
        try:
            size = float(number)
        except ValueError:
            name = ""
        if not name or name in sizes:
            raise ValueError(
                f"--min_island_ml is {text!r}: expected a size in ml for all labels, e.g. 0.5, or one for each label, "
                "e.g. liver=1,spleen=0.5."
            )
        sizes[name] = size
    return sizes


def _plan(
    args: argparse.Namespace, output: Path, settings: PredictionSettings
) -> tuple[list[Job], list[dict[str, Any]]]:
    """Return the scans to segment, and records of the inputs without a scan, which don't stop the run."""
    from ..model.image_processing_samed import SamedImageProcessor
    from ..prediction.files import plan_jobs
    from ..volumes import find_scans
    from ..volumes.discovery import search_scans

    try:
        content, _ = SamedImageProcessor.get_image_processor_dict(args.adapter)
    except (OSError, ValueError):  # loading the adapter raises the error
        content = {}
    num_channels = len(content.get("channel_names") or [""])  # images that make a scan
    inputs: list[str] = []
    unreadable: list[dict[str, Any]] = []
    for path in args.inputs:
        try:
            search_scans([path], num_channels=num_channels)
            inputs.append(path)
        except (ValueError, OSError) as error:
            if len(args.inputs) == 1:
                raise
            name = Path(path).name or str(path)
            unreadable.append({"name": name, "file": path, "status": "failed", "error": str(error)})
    scans = find_scans(inputs, num_channels=num_channels)
    return plan_jobs(scans, output, settings, overwrite=args.overwrite), unreadable


def _finish(args: argparse.Namespace, output: Path, run: dict[str, Any], created: bool) -> int:
    """Write the report if a case succeeded, list the cases that failed, and return the exit status."""
    from ..prediction.files import REPORT, RUN, keep_earlier, write_json
    from ..prediction.run import write_report

    failed = [case for case in run["cases"] if case["status"] == "failed"]
    done = len(run["cases"]) - len(failed)
    if done:
        if not args.overwrite:
            keep_earlier(output)
        write_json(output / RUN, run)
        if not args.no_report:
            write_report(output / REPORT, run)
        print(f"wrote       {printable(output / (RUN if args.no_report else REPORT))}", flush=True)
    elif created and output.is_dir() and not any(output.iterdir()):
        output.rmdir()
    if failed:
        print(f"{len(failed)} of {len(run['cases'])} scans failed:", file=sys.stderr)
    for case in failed:
        print(f"error: {printable(case['name'])}: {case['error']}", file=sys.stderr, flush=True)
    return 0 if not failed else 1 if done else 2
