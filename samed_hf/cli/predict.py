"""`samed-hf predict`: scans divided over the processes, one report, and an exit status for what failed."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.text import printable
from ..volumes.registry import LABEL_FORMATS
from .options import add_computing, hide_loading_bars, names
from .processes import FailedElsewhereError, on_all_ranks, on_main_rank, start_processes

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
    parser.add_argument("adapter", metavar="ADAPTER", help="directory or Hub id")
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="+", help="NIfTI, NRRD, MHA, DICOM or image files, or directories of them"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="directory for the segmentations")
    parser.add_argument(
        "--format",
        choices=LABEL_FORMATS,
        help="of the segmentations [the scan's own: DICOM-SEG for DICOM, PNG for images]",
    )
    parser.add_argument("--labels", type=names, metavar="A,B,…", help="labels to keep [all]")
    parser.add_argument("--per_class", action="store_true", help="write a mask for each label too")
    parser.add_argument("--probabilities", action="store_true", help="write each label's probability too, as 4-D file")
    parser.add_argument(
        "--ensemble", nargs="+", default=[], metavar="ADAPTER", help="more adapters of the same labels, averaged"
    )
    parser.add_argument("--tta", action="store_true", help="test-time augmentation: average turned and mirrored views")
    parser.add_argument(
        "--keep_largest", type=names, metavar="all|A,B,…", help="keep only the largest piece of these labels [none]"
    )
    parser.add_argument(
        "--min_island_ml", metavar="ML|A=ML,…", help="remove pieces below this size, of all labels or of some [none]"
    )
    add_computing(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace existing segmentations")
    parser.add_argument("--no_preview", action="store_true", help="draw no image of each case")
    parser.add_argument("--no_report", action="store_true", help="write no report.html")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Segment the scans.

    Returns:
        0, or 1 where some cases failed, 2 where all did; of several processes the main one's status counts.

    Raises:
        ValueError: invalid arguments, or a model that can't be loaded.
    """
    start_processes(args.argv)
    hide_loading_bars()
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    settings = _settings(args)
    # Without an accelerator, Accelerate starts a process group only if `cpu` is set.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(on_cpu, timeout=_TIMEOUT)
    try:
        return _predict(args, settings, state)
    except FailedElsewhereError:
        return 2
    finally:
        state.destroy_process_group()


def _predict(args: argparse.Namespace, settings: PredictionSettings, state: PartialState) -> int:
    """Segment this process's share of the scans; the main process gathers the results."""
    from accelerate.utils import gather_object

    from ..prediction import predict_cases

    started = time.monotonic()
    output = Path(args.output)
    created = not output.exists()
    jobs, unreadable = on_main_rank(state, lambda: _plan(args, output, settings))
    mine = jobs[state.process_index :: state.num_processes]
    segmenter = on_all_ranks(state, lambda: _load(args, settings))
    records = predict_cases(segmenter, mine, output, settings, bar=None if state.num_processes == 1 else False)
    records = gather_object(records)
    if not state.is_main_process:
        return 0
    order = {job.scan.name: job.number for job in jobs}
    records = sorted(records, key=lambda record: order[record["name"]]) + unreadable
    description = _describe(args, settings, segmenter, state.num_processes, time.monotonic() - started)
    return _finish(args, output, description | {"cases": records}, created)


def _settings(args: argparse.Namespace) -> PredictionSettings:
    from ..prediction import PredictionSettings

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
    from ..prediction.files import plan_jobs
    from ..volumes import find_scans
    from ..volumes.discovery import search_scans

    num_channels = _num_channels(args.adapter)
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


def _num_channels(adapter: str) -> int:
    """How many images make a scan for this adapter; if its configuration can't be read, loading it raises the error."""
    from ..model.image_processing_samed import SamedImageProcessor

    try:
        content, _ = SamedImageProcessor.get_image_processor_dict(adapter)
    except (OSError, ValueError):
        return 1
    return len(content.get("channel_names") or [""])


def _load(args: argparse.Namespace, settings: PredictionSettings) -> Segmenter:
    from ..inference import Segmenter

    segmenter = Segmenter.load([args.adapter, *args.ensemble], dtype=args.dtype)
    settings.check_labels(segmenter.id2label)
    return segmenter


def _describe(
    args: argparse.Namespace, settings: PredictionSettings, segmenter: Segmenter, num_processes: int, seconds: float
) -> dict[str, Any]:
    """The content of `predictions.json`, without the cases."""
    from ..training.checkpointing.record import package_versions

    models = {"adapter": args.adapter, "ensemble": list(args.ensemble)}
    first = segmenter.models[0]
    machine = {"device": str(first.device), "dtype": str(first.dtype).removeprefix("torch.")}
    return {
        "created": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        "seconds": round(seconds, 2),
        "labels": {str(index): name for index, name in settings.requested(segmenter.id2label).items()},
        "settings": models | dataclasses.asdict(settings) | machine | {"num_processes": num_processes},
        "versions": package_versions(),
    }


def _finish(args: argparse.Namespace, output: Path, run: dict[str, Any], created: bool) -> int:
    """Write the report if a case succeeded, and list the cases that failed."""
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
