"""What the commands of `samed-hf` do with their arguments, apart from `cli` because its imports take seconds."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from .. import convert
from ..data import prepare
from ..data.dataset import Case
from ..data.labels import read_json
from ..data.layouts import data_place, read_data
from ..data.splits import k_fold
from ..hub import push as hub
from ..inference.segmenter import load_model
from ..reporting.overlays import draw_overlay
from ..reporting.tables import format_scores
from ..scoring.evaluation import CaseResult, evaluate_cases, write_metrics
from ..scoring.published import compare_with_published, read_metrics
from ..transforms.slicing import rows_run_up

__all__ = [
    "compare",
    "convert_original",
    "convert_sam",
    "convert_samed",
    "evaluate",
    "prepare_phantom",
    "prepare_synapse",
    "push",
]


def prepare_synapse(args: argparse.Namespace) -> None:
    """`samed-hf prepare synapse`."""
    if args.train_size < 0 or args.train_size == 1:
        raise ValueError(f"--train_size is {args.train_size}: expected a side in pixels, or 0 to keep the scan's own.")
    prepare.prepare_synapse(args.raw, args.output, train_size=args.train_size or None)


def prepare_phantom(args: argparse.Namespace) -> None:
    """`samed-hf prepare phantom`."""
    prepare.prepare_phantom(args.output, num_train=args.num_train, num_test=args.num_test, seed=args.seed)
    print(f"{args.num_train} patients to train on and {args.num_test} to score in {args.output}")


def evaluate(args: argparse.Namespace) -> None:
    """`samed-hf evaluate`."""
    data = read_data(**data_place(args.data), label_names=args.label_names, fold=args.fold)
    if args.num_folds is not None:
        _, data.validation = k_fold(sorted({*data.train, *data.validation}), args.num_folds, args.fold or 0)
    if any(value is not None and value < least for value, least in ((args.batch_size, 1), (args.input_size, 2))):
        raise ValueError(
            f"--batch_size is {args.batch_size}, --input_size {args.input_size}: expected at least 1 slice, 2 pixels."
        )
    split, names = (args.split, getattr(data, args.split)) if args.split else data.scored
    known = _cases_of(args.adapter)
    if not names and not args.split:  # those that the training held out by itself
        split, names = "validation", [name for name in known.get("validation", ()) if name in data.sources]
    if not names:
        declared = ", ".join(f"{len(getattr(data, one))} for {one}" for one in ("train", "validation", "test"))
        raise ValueError(f"{args.data} has no case to score ({declared}): give --split or --num_folds and --fold.")
    print(f"data        {args.data}: {data.layout}, {len(names)} {split} cases", flush=True)
    if seen := set(names) & set(known.get("train", ())):
        print(f"warning     {len(seen)} of these cases were trained on: their scores say nothing of others", flush=True)
    model = load_model(args.adapter, dtype=args.dtype)
    processor = model.image_processor
    data.expect_labels(model.config.id2label)
    for name in names:
        data.read_raw(name, processor)
    folder = Path(args.output)

    def report(case: Case, prediction: np.ndarray, result: CaseResult) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        picture = folder / f"{case.name}.png"
        draw_overlay(
            picture,
            case.image,
            case.label,
            prediction,
            model.config.id2label,
            title=case.name,
            spacing=case.spacing,
            rows_run_up=rows_run_up(processor),
        )
        dice = [score.dice for score in result.scores.values() if score.dice is not None]
        scored = f"mean DSC {sum(dice) / len(dice):.4f}" if dice else "nothing to score"
        print(f"{case.name}: {scored}", flush=True)

    metrics = evaluate_cases(
        model,
        (data.read_case(name, processor) for name in names),
        processor,
        protocol=args.protocol,
        input_size=args.input_size,
        batch_size=args.batch_size,
        on_case=report,
    )
    write_metrics(folder, metrics | {"split": split})
    print(f"\n{format_scores(metrics)}\n\nwrote {folder / 'metrics.json'}, metrics.csv and one picture for each case")


def _cases_of(adapter: str) -> dict[str, list[str]]:
    """The cases that an adapter was trained on and watched on, where its folder still says so."""
    path = Path(adapter) / "training_settings.json"
    if not path.is_file():
        return {}
    content = read_json(path)
    return content.get("cases", {}) if isinstance(content, dict) else {}


def convert_sam(args: argparse.Namespace) -> None:
    """`samed-hf convert sam`."""
    options = {"decoder_heads": args.decoder_heads, "global_attn_indexes": args.global_attn_indexes}
    print(f"wrote {convert.convert_sam(args.checkpoint, args.output, **options)}")


def convert_samed(args: argparse.Namespace) -> None:
    """`samed-hf convert samed`."""
    options = {"image_size": args.image_size, "labels": args.labels, "input_size": args.input_size or None}
    options["orientation"] = args.orientation
    print(f"wrote {convert.convert_samed(args.checkpoint, args.base, args.output, **options)}")


def convert_original(args: argparse.Namespace) -> None:
    """`samed-hf convert original`."""
    print(f"wrote {convert.convert_original(args.adapter, args.output, base=args.base)}")


def compare(args: argparse.Namespace) -> None:
    """`samed-hf compare`."""
    print(compare_with_published(read_metrics(args.metrics), args.preset))


def push(args: argparse.Namespace) -> None:
    """`samed-hf push`."""
    address = hub.push_adapter(
        args.adapter,
        args.repo_id,
        private=args.private or None,
        token=args.hub_token,
        dtype=args.dtype,
        base_model=args.base_model,
        base_revision=args.base_revision,
        pictures=args.pictures,
        with_handler=args.with_handler,
    )
    print(f"pushed      {address}")
