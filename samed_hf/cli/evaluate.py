"""`samed-hf evaluate`: an adapter scored on volumes with labels."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import add_computing, hide_loading_bars

if TYPE_CHECKING:
    from ..data.dataset import CaseDataset
    from ..scoring import CaseResult

__all__ = ["add_parser", "run"]

logger = logging.getLogger(__name__)

_SPLITS = ("train", "validation", "test")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("evaluate", help="score an adapter on volumes with labels")
    add = parser.add_argument
    add("adapter", metavar="ADAPTER", help="directory or Hub id")
    text = "data set in any layout that training reads, or a Hub id"
    add("--data", required=True, metavar="DIR", help=text)
    add("--split", choices=_SPLITS, help="which cases [test, or else validation]")
    add("--label_names", nargs="+", metavar="NAME", help="names of the labels, if no file names them")
    add("--num_folds", type=int, metavar="N", help="score the fold that training held out")
    add("--fold", type=int, metavar="K", help="index of the fold, from 0 [0]")
    add("--output", required=True, metavar="DIR", help="directory for metrics.json, metrics.csv and images")
    add("--protocol", choices=("strict", "samed"), default="strict", help="how to score [strict]")
    text = "side in pixels to which slices are zoomed first [the adapter's; the paper's is 224]"
    add("--input_size", type=int, help=text)
    add_computing(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Score the cases, and write the scores and an image of each case."""
    hide_loading_bars()
    from ..inference import Segmenter
    from ..reporting.formatting import format_scores
    from ..reporting.overlays import draw_overlay
    from ..scoring import score_cases, summarize_results, write_metrics
    from ..transforms.slicing import rows_point_up

    if any(value is not None and value < least for value, least in ((args.batch_size, 1), (args.input_size, 2))):
        raise ValueError(
            f"--batch_size is {args.batch_size}, --input_size {args.input_size}: expected at least 1 slice, 2 pixels."
        )
    data, split, names = _choose_cases(args)
    base = args.base_model_name_or_path
    segmenter = Segmenter.load([args.adapter], dtype=args.dtype, base_model_name_or_path=base)
    id2label, processor = segmenter.id2label, segmenter.processor
    data.expect_labels(id2label, segmenter.models[0].config.regions)
    for name in names:
        data.read_raw(name, processor)
    output, rows_run_up = Path(args.output), rows_point_up(processor)
    results: dict[str, CaseResult] = {}
    cases = (data.read_case(name, processor) for name in names)
    options = {"protocol": args.protocol, "input_size": args.input_size, "batch_size": args.batch_size}
    options["ignore_index"] = data.ignore_index
    for case, prediction, result in score_cases(segmenter.models[0], cases, processor, **options):
        results[case.name] = result
        output.mkdir(parents=True, exist_ok=True)
        path, arrays = output / f"{case.name}.png", (case.image, case.label, prediction)
        draw_overlay(path, *arrays, id2label, title=case.name, spacing=case.spacing, rows_run_up=rows_run_up)
        dice = [score.dice for score in result.scores.values() if score.dice is not None]
        scored = f"mean DSC {sum(dice) / len(dice):.4f}" if dice else "nothing to score"
        logger.info("%s: %s", case.name, scored)
    metrics = summarize_results(results, args.protocol)
    write_metrics(output, metrics | {"split": split})
    print(f"\n{format_scores(metrics)}\n\nwrote {output / 'metrics.json'}, metrics.csv and one image for each case")


def _choose_cases(args: argparse.Namespace) -> tuple[CaseDataset, str, list[str]]:
    """Return the data set, the split and the names of the cases to score."""
    from ..data import read_data
    from ..data.labels import read_json
    from ..data.layouts import dataset_arguments
    from ..data.splits import k_fold

    location: dict[str, Any] = dataset_arguments(args.data)
    data = read_data(**location, label_names=args.label_names, fold=args.fold)
    if args.num_folds is not None:
        _, data.validation = k_fold(sorted({*data.train, *data.validation}), args.num_folds, args.fold or 0)
    split, names = (args.split, getattr(data, args.split)) if args.split else data.evaluation_split
    settings = Path(args.adapter) / "training_settings.json"
    content = read_json(settings) if settings.is_file() else None
    known: dict[str, Any] = content.get("cases", {}) if isinstance(content, dict) else {}
    if not names and not args.split:  # the cases that training held out itself
        split, names = "validation", [name for name in known.get("validation", ()) if name in data.sources]
    if not names:
        declared = ", ".join(f"{len(getattr(data, one))} for {one}" for one in _SPLITS)
        raise ValueError(f"{args.data} has no case to score ({declared}): give --split or --num_folds and --fold.")
    logger.info("data        %s: %s, %d %s cases", args.data, data.layout, len(names), split)
    if seen := set(names) & set(known.get("train", ())):
        logger.warning("%d of these cases were trained on: their scores do not apply to new cases", len(seen))
    return data, split, names
