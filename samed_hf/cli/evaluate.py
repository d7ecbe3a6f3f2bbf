"""`samed-hf evaluate`: an adapter scored on volumes with labels."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..scoring.arguments import ScoringArguments
from ..utils.sharing import balanced_shares, complete_parts, merge_parts, read_parts
from ..utils.text import printable
from .common import add_columns, add_computing, given_columns
from .processes import add_shard, on_all_ranks, run_in_processes, select_share

if TYPE_CHECKING:
    import numpy as np
    from accelerate import PartialState

    from ..data.dataset import Case, CaseDataset, CaseSource
    from ..inference import Segmenter
    from ..scoring.measures import Measures
    from ..utils.pipelining import Outcome

__all__ = ["add_parser", "run"]

logger = logging.getLogger(__name__)

_SPLITS = ("train", "validation", "test")
_METRICS = "metrics.json"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("evaluate", help="score an adapter on volumes with labels")
    add = parser.add_argument
    add("adapter", metavar="ADAPTER", help="directory of an adapter or an ensemble, or Hub id")
    text = "data set in any layout that training reads, several of the same labels, or a Hub id"
    add("--data", required=True, nargs="+", metavar="DIR", help=text)
    add_columns(parser)
    add("--split", choices=_SPLITS, help="which cases [test, or else validation]")
    add("--label_names", nargs="+", metavar="NAME", help="names of the labels, if no file names them")
    add("--num_folds", type=int, metavar="N", help="score the fold that training held out")
    add("--splits", metavar="FILE", help="file of the folds instead, as nnU-Net's splits_final.json")
    add("--fold", type=int, metavar="K", help="index of the fold, from 0 [0]")
    add("--output", required=True, metavar="DIR", help="directory for metrics.json, metrics.csv and images")
    add("--protocol", choices=("strict", "samed"), default="strict", help="how to score [strict]")
    for item in dataclasses.fields(ScoringArguments):
        kind, text = (str, f" [{item.default}]") if isinstance(item.default, str) else (float, "")
        add(f"--{item.name}", type=kind, default=item.default, help=item.metadata["help"].rstrip(".") + text)
    add("--checklist", action="store_true", help="also write checklist.md, a draft of what a paper has to report")
    text = "side in pixels to which slices are zoomed first [the adapter's; the paper's is 224]"
    add("--input_size", type=int, help=text)
    add_computing(parser)
    add_shard(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Score the cases, and write the scores and an image of each case.

    Returns:
        0, or 1 where some cases failed, 2 where all did; of several processes the main one's status counts.
    """
    if any(value is not None and value < least for value, least in ((args.batch_size, 1), (args.input_size, 2))):
        raise ValueError(
            f"--batch_size is {args.batch_size}, --input_size {args.input_size}: expected at least 1 slice, 2 pixels."
        )
    return run_in_processes(args, lambda state: _evaluate(args, state))


def _evaluate(args: argparse.Namespace, state: PartialState) -> int:
    """Score this process's share of the cases; the main process gathers the results."""
    from accelerate.utils import gather_object

    from ..hub.onnx_file import is_onnx
    from ..inference import Segmenter
    from ..studies import write_checklist

    def load() -> tuple[CaseDataset, str, list[str], Segmenter]:
        if Path(args.output).is_file():
            raise ValueError(f"--output is {args.output}, a file: expected a directory.")
        if args.checklist and (is_onnx(args.adapter) or args.backend != "torch"):
            raise ValueError("--checklist describes the weights of an adapter: give one, with --backend torch.")
        data, split, names = _choose_cases(args)
        base = args.base_model_name_or_path
        segmenter = Segmenter.load([args.adapter], dtype=args.dtype, base_model_name_or_path=base, backend=args.backend)
        own = dict.fromkeys(("axis_order", "orientation", "image_size", "size") if segmenter.in_planes else ())
        if any(one.to_dict() | own != segmenter.processor.to_dict() | own for one in segmenter.processors):
            raise ValueError(
                f"The members of {args.adapter!r} scale images differently: they can't be scored together."
            )
        if segmenter.in_planes and (data.is_2d or data.is_sliced):
            raise ValueError(f"{data.root} holds slices: expected scans, as {args.adapter!r} sees several planes.")
        data.expect_channels(segmenter.processor.num_channels)
        regions = segmenter.models[0].config.regions
        data.expect_labels(segmenter.id2label, regions)
        _measures(args).check(args.protocol, list(regions or list(segmenter.id2label.values())[1:]))
        return data, split, names, segmenter

    data, split, names, segmenter = on_all_ranks(state, load)
    items = [(name, _bytes(data.sources[name])) for name in names]
    sizes = [size for _, size in items]
    numbers = select_share(args.shard, sizes)
    shares = balanced_shares([sizes[number] for number in numbers], state.num_processes)
    mine = [names[numbers[index]] for index in shares[state.process_index]]
    cases = {case["name"]: case for case in gather_object(_score(args, data, mine, segmenter))}
    if not state.is_main_process:
        return 0
    method = {"models": segmenter.fingerprints(), "dtype": str(segmenter.models[0].dtype), "split": split}
    method |= {"protocol": args.protocol, "input_size": args.input_size}
    measures = _measures(args)
    method |= dataclasses.asdict(measures) | {"metrics": list(measures.metrics)}
    run = {"method": method, "cases": [cases[names[number]] for number in numbers]}
    run |= {"shard": args.shard.describe(items, numbers)} if args.shard else {}
    describe = partial(write_checklist, segmenter=segmenter, data=data, options=vars(args))
    return _finish(args, run, describe if args.checklist else None)


def _measures(args: argparse.Namespace) -> Measures:
    return ScoringArguments(args.metrics, args.nsd_tolerance_mm, args.lesion_min_iou).measures


def _bytes(source: CaseSource) -> int:
    """Size of a case's files, 0 if it has none or they can't be read."""
    try:
        return sum(path.stat().st_size for path in source.files())
    except OSError:
        return 0


def _score(args: argparse.Namespace, data: CaseDataset, names: list[str], segmenter: Segmenter) -> list[dict[str, Any]]:
    """Score cases and draw them; return a record of each."""
    from ..inference.batching import describe_failure
    from ..reporting.overlays import draw_overlay
    from ..scoring import score_cases
    from ..training.monitoring.checks import labels_in
    from ..transforms.slicing import rows_point_up

    output, processor, records, measures = Path(args.output), segmenter.processor, [], _measures(args)
    present: dict[str, list[int]] = {}
    rows_run_up = rows_point_up(processor)

    def draw(case: Case, prediction: np.ndarray) -> None:
        present[case.name] = sorted(labels_in(case.label))
        output.mkdir(parents=True, exist_ok=True)
        path, arrays = output / f"{case.name}.png", (case.image, case.label, prediction)
        options: dict[str, Any] = {"title": case.name, "spacing": case.spacing, "rows_run_up": rows_run_up}
        draw_overlay(path, *arrays, segmenter.id2label, **options)

    def done(name: str, outcome: Outcome) -> None:
        if outcome.error is not None:
            logger.info("failed      %s", printable(name))
            records.append({"name": name, "status": "failed", "error": describe_failure(outcome.error)})
            return
        scores, unit = outcome.result
        key, named = next(iter(measures.keys)), {"dice": "DSC"}
        found = [score[key] for score in scores.values() if score[key] is not None]
        scored = f"mean {named.get(key, key)} {sum(found) / len(found):.4f}" if found else "nothing to score"
        logger.info("%s: %s", printable(name), scored)
        record: dict[str, Any] = {"name": name, "status": "done", "unit": unit, "scores": scores}
        records.append(record | {"labels": present[name]})

    options = {"protocol": args.protocol, "input_size": args.input_size, "batch_size": args.batch_size}
    options |= {"ignore_index": data.ignore_index, "measures": measures}
    read = partial(data.read_case, processor=processor)
    score_cases(segmenter, names, read, processor, predicted=draw, done=done, **options)
    return records


def _finish(args: argparse.Namespace, run: dict[str, Any], describe: Callable[..., Path] | None) -> int:
    """Write the scores, or a shard's part and the scores of all shards after the last one; return the exit status."""
    from ..utils.atomic import write_text

    output = Path(args.output)
    failed = [case for case in run["cases"] if case["status"] == "failed"]
    if args.shard is not None:
        output.mkdir(parents=True, exist_ok=True)
        path = output / args.shard.file_name(_METRICS)
        write_text(path, json.dumps(run, indent=2) + "\n")
        print(f"wrote       {printable(path)}", flush=True)
        parts = read_parts(output, _METRICS, args.shard.count)
        if complete_parts(run, parts.values()):
            _write(output, merge_parts(parts), describe)
    elif len(failed) < len(run["cases"]):
        _write(output, run, describe)
    if failed:
        print(f"{len(failed)} of {len(run['cases'])} cases failed:", file=sys.stderr)
    for case in failed:
        print(f"error: {printable(case['name'])}: {case['error']}", file=sys.stderr, flush=True)
    return 0 if not failed else 1 if len(failed) < len(run["cases"]) else 2


def _write(output: Path, run: dict[str, Any], describe: Callable[..., Path] | None) -> None:
    """Write and print the scores of the cases that didn't fail, and name the others; then call `describe`."""
    from ..reporting.formatting import format_scores
    from ..scoring import CaseResult, describe_results, write_metrics
    from ..scoring.measures import Measures

    done = {case["name"]: case for case in run["cases"] if case["status"] == "done"}
    if not done:
        return
    results = {name: CaseResult(case["scores"], case["unit"]) for name, case in done.items()}
    method = run["method"]
    measures = Measures(*(method[field.name] for field in dataclasses.fields(Measures)))
    metrics = describe_results(results, method["protocol"], split=method["split"], measures=measures)
    if failed := {case["name"]: case["error"] for case in run["cases"] if case["status"] == "failed"}:
        metrics["failed"] = failed
    write_metrics(output, metrics)
    print(f"\n{format_scores(metrics)}\n\nwrote {output / _METRICS}, metrics.csv and one image for each case")
    if describe is not None:
        print(f"wrote {printable(describe(run, metrics))}, a draft: check and complete it")


def _choose_cases(args: argparse.Namespace) -> tuple[CaseDataset, str, list[str]]:
    """Return the data set, the split and the names of the cases to score."""
    from ..data import read_data
    from ..data.labels import read_json
    from ..data.layouts import dataset_arguments
    from ..data.splits import choose_fold
    from ..hub.onnx_file import is_onnx
    from ..inference.ensemble import ensemble_members
    from ..training.distributed.logging import get_logger

    location: dict[str, Any] = dataset_arguments(args.data)
    own_fold = None if args.num_folds or args.splits else args.fold
    data = read_data(**location, label_names=args.label_names, fold=own_fold, **given_columns(args))
    choose_fold(data, num_folds=args.num_folds, fold=args.fold, splits=args.splits)
    split, names = (args.split, getattr(data, args.split)) if args.split else data.evaluation_split
    files = [Path(member) / "training_settings.json" for member in ensemble_members(args.adapter)]
    contents = [content for file in files if file.is_file() and isinstance(content := read_json(file), dict)]
    known: list[dict[str, Any]] = [content.get("cases", {}) for content in contents]
    held_out = [[name for name in one.get("validation", ()) if name in data.sources] for one in known]
    if not names and not args.split and held_out and held_out == held_out[:1] * len(files):  # by training itself
        split, names = "validation", held_out[0]
    if not names:
        declared = ", ".join(f"{len(getattr(data, one))} for {one}" for one in _SPLITS)
        raise ValueError(f"{data.root} has no case to score ({declared}): give --split, --num_folds or --splits.")
    log = get_logger(__name__)  # of several processes, the main one alone
    log.info("data        %s: %s, %d %s cases", data.root, data.layout, len(names), split)
    if is_onnx(args.adapter):
        log.warning("an exported model doesn't name its training cases: whether these are among them isn't checked")
    if seen := set(names) & {name for one in known for name in one.get("train", ())}:
        log.warning("%d of these cases were trained on: their scores do not apply to new cases", len(seen))
    return data, split, names
