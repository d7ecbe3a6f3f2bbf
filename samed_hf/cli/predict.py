"""`samed-hf predict`: scans divided over the processes, one report, and an exit status for what failed."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.sharing import balanced_shares
from ..utils.text import comma_separated, parse_sizes, printable
from ..volumes.registry import LABEL_FORMATS
from .common import add_computing
from .processes import add_shard, from_main, on_all_ranks, run_in_processes, select_share

if TYPE_CHECKING:
    from accelerate import PartialState

    from ..inference import Segmenter
    from ..prediction import PredictionSettings
    from ..prediction.archives import Download
    from ..prediction.files import Job

__all__ = ["add_parser", "run"]

logger = logging.getLogger(__name__)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("predict", help="segment scans")
    add = parser.add_argument
    add(
        "adapter",
        metavar="ADAPTER",
        help="directory of an adapter or an ensemble, or Hub id; not with --ensemble alone",
    )
    text = "NIfTI, NRRD, MHA, DICOM or image files, or directories of them; or dicomweb+URL/studies/UID[/series/UID]"
    # Not required, as the first one is read as ADAPTER where --ensemble alone names the adapters.
    add("inputs", metavar="INPUT", nargs="+", help=text).required = False
    add("--output", required=True, metavar="DIR", help="directory for the segmentations")
    text = "of the segmentations [the scan's own: DICOM-SEG for DICOM, PNG for images]"
    add("--format", choices=LABEL_FORMATS, help=text)
    add("--labels", type=comma_separated, metavar="A,B,…", help="labels to keep [all]")
    add("--per_class", action="store_true", help="write a mask for each label too")
    add("--probabilities", action="store_true", help="write each label's probability too, as 4-D file")
    text = "more adapters of the same labels, or the directory of an ensemble, averaged"
    add("--ensemble", nargs="+", default=[], metavar="ADAPTER", help=text)
    add("--tta", action="store_true", help="test-time augmentation: average turned and mirrored views")
    text = "keep only the largest component of these labels [none]"
    add("--keep_largest", type=comma_separated, default=(), metavar="all|A,B,…", help=text)
    text = "remove components below this size, of all labels or of some [none]"
    add("--min_island_ml", metavar="ML|A=ML,…", help=text)
    text = "frames to segment of scans over time and of stacks of images, counted from 0 [all]"
    add("--frames", type=_indices, metavar="0,4-8", help=text)
    add_computing(parser)
    text = "store the DICOM segmentations of the inputs dicomweb+URL in their studies of the archive"
    add("--store", action="store_true", help=text)
    add("--overwrite", action="store_true", help="replace existing segmentations")
    text = "go on after an interruption: leave out the cases that are finished, made by the same adapter and settings"
    add("--skip_existing", action="store_true", help=text)
    add_shard(parser)
    add("--no_preview", action="store_false", dest="preview", help="draw no image of each case")
    add("--no_report", action="store_true", help="write no report.html")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Segment the scans.

    Returns:
        0, or 1 where some cases failed, 2 where all did; of several processes the main one's status counts.
    """
    from ..prediction import PredictionSettings
    from ..volumes.dicom.web import is_address

    if args.ensemble and not _names_model(args.adapter, alone=not args.inputs):
        args.adapter, args.inputs = None, [args.adapter, *(args.inputs or [])]
    if not args.inputs:
        raise ValueError(f"INPUT is missing after ADAPTER {args.adapter!r}: expected scans or directories of them.")
    if args.store and args.format not in (None, "dcm"):
        raise ValueError(f"--store is given with --format {args.format}: only DICOM segmentations can be stored.")
    if args.store and not any(map(is_address, args.inputs)):
        raise ValueError("--store is given, but no INPUT is in an archive: expected dicomweb+URL/studies/UID.")
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(PredictionSettings)}
    settings = PredictionSettings(**given | {"min_island_ml": parse_sizes(args.min_island_ml, "--min_island_ml", "ml")})
    return run_in_processes(args, lambda state: _predict(args, settings, state))


def _names_model(name: str, *, alone: bool) -> bool:
    """Whether the first argument is ADAPTER, and not a scan or a directory of scans; `alone`: no other follows."""
    from ..hub.onnx_file import is_onnx

    files = ("ensemble.json", "adapter_config.json", "config.json", "adapter/adapter_config.json")
    return is_onnx(name) or any((Path(name) / file).is_file() for file in files) or not (alone or Path(name).exists())


def _predict(args: argparse.Namespace, settings: PredictionSettings, state: PartialState) -> int:
    """Segment this process's share of the scans; the main process gathers the results."""
    from accelerate.utils import gather_object

    from ..inference import Segmenter
    from ..prediction import predict_cases
    from ..prediction.existing import describe_method, select_unfinished

    def load() -> Segmenter:
        base = args.base_model_name_or_path
        segmenter = Segmenter.load(plan.adapters, dtype=args.dtype, base_model_name_or_path=base, backend=args.backend)
        settings.check_labels(segmenter.id2label, segmenter.regions)
        return segmenter

    started, output = time.monotonic(), Path(args.output)
    created = not output.exists()
    plan = from_main(state, lambda: _plan(args, output, settings))
    segmenter = on_all_ranks(state, load)
    method = describe_method(segmenter, settings)
    todo, finished = plan.jobs, dict[str, dict[str, Any]]()
    if args.skip_existing:
        todo, finished = from_main(
            state, lambda: select_unfinished(plan.jobs, output, method, overwrite=args.overwrite)
        )
    share = balanced_shares([job.bytes for job in todo], state.num_processes)[state.process_index]
    bar = None if state.num_processes == 1 else False
    records = gather_object(predict_cases(segmenter, [todo[index] for index in share], output, settings, bar=bar))
    if not state.is_main_process:
        return 0
    run = _describe(args, settings, segmenter, state) | {"seconds": round(time.monotonic() - started, 2)}
    twice = len(plan.adapters) - len(segmenter.names)
    notes = [f"{twice} of {len(plan.adapters)} adapters are there twice: each counts once."] if twice else []
    run |= {"notes": [*plan.notes, *notes], "method": method}
    run |= {"cases": _all_records(args, output, plan, records, finished, method)}
    if plan.downloads:
        from ..prediction.archives import remove_downloads, store_results

        if args.store:
            store_results(run["cases"], plan.downloads, output)
        if args.shard is None:  # the other shards may need them
            remove_downloads(run["cases"], plan.downloads, output)
    return _finish(args, output, run, plan, created)


def _all_records(
    args: argparse.Namespace,
    output: Path,
    plan: _Plan,
    records: list[dict[str, Any]],
    finished: dict[str, dict[str, Any]],
    method: dict[str, Any],
) -> list[dict[str, Any]]:
    """The records of the cases in their order, those of an earlier run too, and of the inputs without a scan."""
    from ..prediction.files import RUN
    from ..prediction.merging import earlier_run
    from ..prediction.run import done_record

    name = args.shard.file_name(RUN) if args.shard else RUN
    known = (earlier_run(output, method, name) if finished else None) or {}
    done = [done_record(one, known.get(case, {}).get("seconds")) for case, one in finished.items()]
    if finished:
        logger.info("skipped     %d cases that are finished", len(finished))
    order = {job.scan.name: job.number for job in plan.jobs}
    return sorted([*records, *done], key=lambda record: order[record["name"]]) + plan.unreadable


def _describe(
    args: argparse.Namespace, settings: PredictionSettings, segmenter: Segmenter, state: PartialState
) -> dict[str, Any]:
    """What `predictions.json` states of the run besides its cases."""
    from ..training.checkpointing.provenance import package_versions

    models: dict[str, Any] = {"adapter": args.adapter} if args.adapter else {}
    models |= {"ensemble": list(args.ensemble)}
    models |= {"members": list(segmenter.names)} if len(segmenter.names) > 1 else {}
    first = segmenter.models[0]
    machine = {"device": str(first.device), "dtype": str(first.dtype).removeprefix("torch.")}
    return {
        "created": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        "seconds": 0.0,
        "labels": {str(index): name for index, name in _reported(segmenter, settings).items()},
        "settings": models | dataclasses.asdict(settings) | machine | {"num_processes": state.num_processes},
        "versions": package_versions(),
    }


def _reported(segmenter: Segmenter, settings: PredictionSettings) -> dict[int, str]:
    """What the statistics are of: the requested labels, or the regions."""
    regions = {index: name for index, (name, _) in segmenter.regions.items()}
    return regions or settings.requested(segmenter.id2label)


def _indices(text: str) -> tuple[int, ...]:
    """Parse `0,4-8`."""
    indices: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise argparse.ArgumentTypeError(f"{text!r}: expected indices and ranges, e.g. 0,4-8")
        indices += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(dict.fromkeys(indices))


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The scans of this run, or of its shard."""

    adapters: list[str]  # with the members of ensembles
    jobs: list[Job]
    unreadable: list[dict[str, Any]]  # records of the inputs without a scan, which don't stop the run
    notes: list[str]  # on skipped files
    downloads: list[Download] = dataclasses.field(default_factory=list)  # of inputs in an archive
    shard: dict[str, Any] | None = None  # the entry of `predictions-I-of-N.json`


def _plan(args: argparse.Namespace, output: Path, settings: PredictionSettings) -> _Plan:
    """Find the scans, and choose those of the shard."""
    from ..hub.onnx_file import is_onnx, open_onnx
    from ..inference.ensemble import ensemble_members
    from ..model.image_processing_samed import SamedImageProcessor
    from ..prediction.archives import fetch_inputs
    from ..prediction.files import check_target, plan_jobs
    from ..volumes.discovery import search_scans

    given = [args.adapter, *args.ensemble] if args.adapter else args.ensemble
    adapters = [member for adapter in given for member in ensemble_members(adapter)]
    try:
        content = (
            open_onnx(adapters[0])[1]["preprocessor"]
            if is_onnx(adapters[0])
            else SamedImageProcessor.get_image_processor_dict(adapters[0])[0]
        )
    except (OSError, ValueError, ImportError):  # loading the adapter raises the error
        content = {}
    num_channels = len(content.get("channel_names") or [""])  # images that make a scan
    failed: dict[Path, str] = {}
    inputs, downloads = fetch_inputs(args.inputs, output, failed)
    scans, notes = search_scans(inputs, num_channels=num_channels, failed=failed)
    for note in notes:
        logger.info(note)
    if failed and not scans and len(inputs) == 1:
        raise ValueError(next(iter(failed.values())))
    taken = Counter([*(scan.name for scan in scans), *(path.name for path in failed)])
    taken[""] = 2
    names = {path: path.name if taken[path.name] == 1 else str(path) for path in failed}
    unreadable = [
        {"name": names[path], "file": str(path), "status": "failed", "error": reason} for path, reason in failed.items()
    ]
    # With --skip_existing, what exists is looked at once the model is known.
    replace = args.overwrite or args.skip_existing
    jobs = plan_jobs(scans, output, settings, overwrite=replace or args.shard is not None)
    if args.shard is None:
        return _Plan(adapters, jobs, unreadable, notes, downloads)
    sizes = [(job.scan.name, job.bytes) for job in jobs]
    share = select_share(args.shard, [size for _, size in sizes])
    mine = [jobs[index] for index in share]
    for job in mine:
        check_target(job, output, replace)
    unreadable = unreadable if args.shard.index == 1 else []
    numbers = [*(job.number for job in mine), *range(len(jobs) + 1, len(jobs) + len(unreadable) + 1)]
    logger.info("shard       %d of %d: %d of %d cases", args.shard.index, args.shard.count, len(mine), len(jobs))
    return _Plan(adapters, mine, unreadable, notes, downloads, args.shard.describe(sizes, numbers))


def _finish(args: argparse.Namespace, output: Path, run: dict[str, Any], plan: _Plan, created: bool) -> int:
    """Write the report if a case succeeded, list the cases that failed, and return the exit status."""
    from ..prediction.merging import add_earlier, earlier_run, merge_shards, write_run, write_shard

    failed = [case for case in run["cases"] if case["status"] == "failed"]
    done = len(run["cases"]) - len(failed)
    report = not args.no_report
    try:
        if args.shard is not None:
            run["shard"] = plan.shard
            print(f"wrote       {printable(write_shard(output, run, args.shard))}", flush=True)
            if merged := merge_shards(output, run, report=report):
                print(f"wrote       {printable(merged)}", flush=True)
        elif done:
            replace = args.overwrite
            if args.skip_existing:
                replace = replace or earlier_run(output, run["method"]) is not None
                run = add_earlier(output, run)
            print(f"wrote       {printable(write_run(output, run, replace=replace, report=report))}", flush=True)
        elif created and output.is_dir() and not any(output.iterdir()):
            output.rmdir()
    finally:  # also if the disk is full
        if failed:
            print(f"{len(failed)} of {done + len(failed)} scans failed:", file=sys.stderr)
        for case in failed:
            print(f"error: {printable(case['name'])}: {case['error']}", file=sys.stderr, flush=True)
    return 0 if not failed else 1 if done else 2
