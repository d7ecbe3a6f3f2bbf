"""A complete training: train, score, draw, write model card and report, push."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from transformers.utils import logging

from ..data import Case
from ..hub import push_adapter, write_card
from ..reporting.charts import draw_curve
from ..reporting.formatting import format_scores
from ..reporting.overlays import draw_overlay, write_examples
from ..scoring import CaseResult, describe_results, score_cases, write_metrics
from ..transforms import rows_point_up
from ..utils.pipelining import Outcome
from ..utils.text import one_line
from .arguments import SamedTrainingArguments
from .distributed.interruption import end_distributed
from .distributed.logging import get_logger
from .loop import train
from .monitoring.report import write_training_report
from .setup import TrainingRun

__all__ = ["run_training", "score_run"]

logger = get_logger(__name__)

_PRINTED = (
    *("adapter_model.safetensors", "metrics.json", "metrics.csv", "training_curve.png", "overlay.png"),
    "training_report.html",
)


def run_training(
    args: SamedTrainingArguments,
    *,
    split: str | None = None,
    images: Path | None = None,
    keep_processes: bool = False,
) -> dict[str, Any] | None:
    """Train, then score the adapter and write images, model card and report to `args.output_dir`.

    Args:
        args: the settings.
        split: whose cases are scored, "validation" or "test"; by default those of "test" if there are some.
        images: directory for an image of each scored case, `CASE.png`.
        keep_processes: leave the process group open for another run.

    Returns:
        The metrics, on every process; `None` if there is no case to score.
    """
    logging.disable_progress_bar()
    run = train(args, on_push=_push_during_training if args.push_every else None)
    logger.info(f"trained     {run.log[-1]['step'] if run.log else 0} steps in {run.seconds:.0f} s")
    first: list[tuple[Case, np.ndarray]] = []
    metrics = score_run(run, first, split, images)
    if run.accelerator.is_main_process:
        _write_report(run, metrics, first)
    end_distributed(run.accelerator, keep_processes)
    if args.push_to_hub and run.accelerator.is_main_process:
        _push(run, run.output_dir, "Upload adapter")
    return metrics


def _push(run: TrainingRun, directory: Path, message: str) -> None:
    args = run.args
    address = push_adapter(
        directory,
        args.hub_model_id or run.output_dir.resolve().name,
        dtype=args.hub_dtype,
        base_model=args.hub_base_model,
        images=args.hub_pictures or None,
        with_handler=args.with_handler,
        source=args.hub_source,
        commit_message=message,
        private=args.hub_private_repo or None,
        token=args.hub_token,
    )
    logger.info(f"pushed      {address}")


def _push_during_training(run: TrainingRun, directory: Path) -> None:
    """Upload the current adapter; an error is logged and does not stop the training."""
    run.write_settings(directory)
    try:
        _push(run, directory, "Adapter in training")
    except (ValueError, OSError) as error:
        reason = one_line(error.__cause__ or error)
        logger.warning(f"the adapter couldn't be pushed ({reason}). The training continues.")


def score_run(
    run: TrainingRun, first: list[tuple[Case, np.ndarray]], split: str | None, images: Path | None
) -> dict[str, Any] | None:
    """Score the cases of a split, divided over the processes; the first one is added to `first`."""
    split, names = (split, getattr(run.data, split)) if split else run.data.evaluation_split
    if not names:
        logger.info("scores      none: the data has no case for test or validation")
        return None
    results: dict[str, CaseResult] = {}

    def keep_first(case: Case, prediction: np.ndarray) -> None:
        if not first:
            first.append((case, prediction))
        if images is not None:
            images.mkdir(parents=True, exist_ok=True)
            _draw(run, images / f"{case.name}.png", case, prediction, case.name)

    def done(name: str, outcome: Outcome) -> None:
        if outcome.error is not None:
            raise outcome.error
        results[name] = outcome.result

    mine = names[run.accelerator.process_index :: run.accelerator.num_processes]
    options: dict[str, Any] = {"protocol": run.args.protocol, "ignore_index": run.data.ignore_index}
    options["measures"] = run.args.measures
    score_cases(run.model, mine, run.store.case, run.processor, predicted=keep_first, done=done, **options)
    gathered = dict(gather_object(list(results.items())))
    ordered = {name: gathered[name] for name in names}
    return describe_results(ordered, run.args.protocol, split=split, measures=run.args.measures)


def _draw(run: TrainingRun, path: Path, case: Case, prediction: np.ndarray, title: str) -> None:
    options: dict[str, Any] = {"title": title, "spacing": case.spacing, "rows_run_up": rows_point_up(run.processor)}
    draw_overlay(path, case.image, case.label, prediction, run.model.config.id2label, **options)


def _write_report(run: TrainingRun, metrics: dict[str, Any] | None, first: list[tuple[Case, np.ndarray]]) -> None:
    directory = run.output_dir
    run.write_settings(directory)
    if run.log:
        draw_curve(directory / "training_curve.png", run.log, title="SAMed training")
    if metrics is not None:
        write_metrics(directory, metrics)
        case, prediction = first[0]
        # The name is often a patient's.
        _draw(run, directory / "overlay.png", case, prediction, "a case that was not trained on")
        write_examples(directory / "examples", case.name, case.image, case.label)
        logger.info(f"\n{format_scores(metrics)}\n")
    write_card(directory, name=run.args.hub_model_id, source=run.args.hub_source)
    write_training_report(directory / "training_report.html", run, metrics)
    logger.info("\n".join(f"wrote       {directory / name}" for name in _PRINTED if (directory / name).is_file()))
    logger.info(f"next        samed-hf predict {directory} SCAN.nii.gz --output segmentations")
