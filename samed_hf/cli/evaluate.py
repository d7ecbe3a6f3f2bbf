"""`samed-hf evaluate`: an adapter scored on volumes with labels."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_computing, hide_loading_bars

if TYPE_CHECKING:
    import numpy as np

    from ..data.dataset import Case, CaseDataset
    from ..inference import Segmenter
    from ..scoring.evaluation import CaseResult

__all__ = ["add_parser", "run"]

logger = logging.getLogger(__name__)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("evaluate", help="score an adapter on volumes with labels")
    parser.add_argument("adapter", metavar="ADAPTER", help="directory or Hub id")
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="data set in any layout that training reads, or a Hub id"
    )
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), help="which cases [test, or else validation]"
    )
    parser.add_argument("--label_names", nargs="+", metavar="NAME", help="names of the labels, if no file names them")
    parser.add_argument("--num_folds", type=int, metavar="N", help="score the fold that training held out")
    parser.add_argument("--fold", type=int, metavar="K", help="index of the fold, from 0 [0]")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="directory for metrics.json, metrics.csv and images"
    )
    parser.add_argument("--protocol", choices=("strict", "samed"), default="strict", help="how to score [strict]")
    parser.add_argument(
        "--input_size",
        type=int,
        help="side in pixels to which slices are zoomed first [the adapter's; the paper's is 224]",
    )
    add_computing(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Score the cases and write scores and images."""
    hide_loading_bars()
    from ..inference import Segmenter
    from ..reporting.formatting import format_scores
    from ..scoring import score_cases, summarize_results, write_metrics

    if any(value is not None and value < least for value, least in ((args.batch_size, 1), (args.input_size, 2))):
        raise ValueError(
            f"--batch_size is {args.batch_size}, --input_size {args.input_size}: expected at least 1 slice, 2 pixels."
        )
    data, split, names = _choose_cases(args)
    segmenter = Segmenter.load([args.adapter], dtype=args.dtype)
    processor = segmenter.processor
    data.expect_labels(segmenter.id2label)
    for name in names:
        data.read_raw(name, processor)
    output = Path(args.output)
    results = {}
    for case, prediction, result in score_cases(
        segmenter.models[0],
        (data.read_case(name, processor) for name in names),
        processor,
        protocol=args.protocol,
        input_size=args.input_size,
        batch_size=args.batch_size,
    ):
        results[case.name] = result
        _show_case(output, segmenter, case, prediction, result)
    metrics = summarize_results(results, args.protocol)
    write_metrics(output, metrics | {"split": split})
    print(f"\n{format_scores(metrics)}\n\nwrote {output / 'metrics.json'}, metrics.csv and one image for each case")


def _choose_cases(args: argparse.Namespace) -> tuple[CaseDataset, str, list[str]]:
    """Return the data set, the split and the names of the cases to score."""
    from ..data import read_data
    from ..data.layouts import dataset_arguments
    from ..data.splits import k_fold

    location: dict[str, Any] = dataset_arguments(args.data)
    data = read_data(**location, label_names=args.label_names, fold=args.fold)
    if args.num_folds is not None:
        _, data.validation = k_fold(sorted({*data.train, *data.validation}), args.num_folds, args.fold or 0)
    split, names = (args.split, getattr(data, args.split)) if args.split else data.evaluation_split
    known = _cases_of(args.adapter)
    if not names and not args.split:  # the cases that training held out itself
        split, names = "validation", [name for name in known.get("validation", ()) if name in data.sources]
    if not names:
        declared = ", ".join(f"{len(getattr(data, one))} for {one}" for one in ("train", "validation", "test"))
        raise ValueError(f"{args.data} has no case to score ({declared}): give --split or --num_folds and --fold.")
    logger.info("data        %s: %s, %d %s cases", args.data, data.layout, len(names), split)
    if seen := set(names) & set(known.get("train", ())):
        logger.warning("%d of these cases were trained on: their scores do not apply to new cases", len(seen))
    return data, split, names


def _cases_of(adapter: str) -> dict[str, Any]:
    """The cases on which an adapter was trained and validated, if its directory lists them."""
    from ..data.labels import read_json

    path = Path(adapter) / "training_settings.json"
    content = read_json(path) if path.is_file() else None
    return content.get("cases", {}) if isinstance(content, dict) else {}


def _show_case(output: Path, segmenter: Segmenter, case: Case, prediction: np.ndarray, result: CaseResult) -> None:
    """Draw a case and log its mean Dice coefficient."""
    from ..reporting.overlays import draw_overlay
    from ..transforms.slicing import rows_point_up

    output.mkdir(parents=True, exist_ok=True)
    draw_overlay(
        output / f"{case.name}.png",
        case.image,
        case.label,
        prediction,
        segmenter.id2label,
        title=case.name,
        spacing=case.spacing,
        rows_run_up=rows_point_up(segmenter.processor),
    )
    dice = [score.dice for score in result.scores.values() if score.dice is not None]
    scored = f"mean DSC {sum(dice) / len(dice):.4f}" if dice else "nothing to score"
    logger.info("%s: %s", case.name, scored)
