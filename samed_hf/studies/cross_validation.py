"""Cross-validation: one training for each fold, and the scores of all cases by models that were not trained on them."""

from __future__ import annotations

import fcntl
import gc
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ..data.folds import k_folds
from ..data.labels import read_json
from ..inference.batching import is_out_of_memory
from ..reporting.formatting import format_scores
from ..training.arguments import SamedTrainingArguments
from ..training.checkpointing.run_directory import on_main_rank
from ..training.distributed.logging import get_logger
from ..training.dry_run import log_plan
from ..training.run import run_training
from ..utils.text import one_line
from .folds import SPLITS, Fold, find_folds, prepare_folds, read_cases
from .learning_curve import write_learning_curve
from .summary import write_cross_validation

__all__ = ["cross_validate", "is_complete", "log_cross_validation", "train_fold"]

logger = get_logger(__name__)

_WRITTEN = ("adapter_model.safetensors", "training_report.html")  # a run writes the report last


def cross_validate(
    args: SamedTrainingArguments, *, num_train_cases: Sequence[int] = (), num_parallel_folds: int = 1
) -> int:
    """Train a model for each fold of the data, and score each case by the model that was not trained on it.

    In `args.output_dir`, `splits_final.json` has the folds, `fold-K` is the output of a training, `images` has an image
    of each case, and `cache` the decoded cases. When all folds are complete, [`write_cross_validation`] adds scores of
    all cases, summary, report and ensemble. A run that ends early goes on when it is repeated: complete folds are
    skipped, others resume from their last checkpoint. Processes and machines can share the directory.

    Args:
        args: settings of the trainings. `num_folds` defaults to the folds that the data set declares, or 5; `splits`
            is a file of folds instead; with `fold`, only this one is trained. `seed` also divides the cases.
        num_train_cases: sizes of a learning curve: each is a cross-validation in `cases-N`, with nested subsets of the
            training cases of the same folds.
        num_parallel_folds: folds trained at a time, each in a process with a GPU, or a share of the CPU cores.

    Returns:
        0, or 1 if a fold failed, 2 if all did; nothing is collected then.

    Raises:
        ValueError, FileNotFoundError: bad settings or data; other settings than those of the folds that have begun.
    """
    state, output, chosen = PartialState(cpu=not torch.accelerator.is_available()), Path(args.output_dir), args.fold
    _check(args, num_parallel_folds, state.num_processes)
    shared, folds = on_main_rank(state, lambda: prepare_folds(args, state.num_processes))
    _check_numbers(folds, chosen, num_train_cases)
    points: dict[Path, int | None] = {output / f"cases-{size}": size for size in num_train_cases}
    points = points or {output: args.num_train_cases}
    outputs = {directory: [directory / f"fold-{fold}" for fold in range(len(folds))] for directory in points}
    numbers, failed = range(len(folds)) if chosen is None else [chosen], dict[str, str]()
    for directory, size in points.items():
        study = replace(shared, output_dir=str(directory), num_train_cases=size, resume_from_checkpoint="latest")
        study.num_folds, study.splits = None, str(output / SPLITS)
        if num_parallel_folds > 1:
            from .parallel import train_in_parallel

            reasons = train_in_parallel(study, numbers, num_parallel_folds)
        else:
            reasons = {fold: train_fold(study, fold) for fold in numbers}
        failed |= {str(directory / f"fold-{fold}"): reason for fold, reason in reasons.items() if reason}
    for name, reason in failed.items():
        logger.error(f"{name}: {reason}")
    if failed:
        return 1 if len(failed) < len(numbers) * len(points) else 2
    on_main_rank(state, lambda: _collect(output, outputs, dict(zip(num_train_cases, points, strict=False))))
    return 0


def train_fold(study: SamedTrainingArguments, fold: int | str) -> str | None:
    """Train a fold, or a part by its name, unless it is complete or another process does; return the error, if any."""
    state, directory, options = PartialState(), Path(study.output_dir), dict[str, Any]()
    output = directory / str(fold)
    if isinstance(fold, int):
        output, study = directory / f"fold-{fold}", replace(study, fold=fold)
        options = {"split": "validation", "images": directory / "images"}
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / f".{output.name}.lock", "ab") as file:
        try:
            # It ends with the process, and child processes do not inherit it.
            on_main_rank(state, lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB))
        except (BlockingIOError, PermissionError):
            logger.info(f"skipped     {output}, which another process trains")
            return None
        if on_main_rank(state, lambda: is_complete(output)):
            logger.info(f"complete    {output}")
            return None
        logger.info(f"\n{output.name.capitalize().replace('-', ' ')}: {output}")
        try:
            run_training(replace(study, output_dir=str(output)), keep_processes=True, **options)
        except Exception as error:
            if state.num_processes > 1:  # the others may be at any point of the training
                raise
            logger.debug(f"{output} failed", exc_info=True)
            kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
            advice = "; samed-hf train --dry_run names flags that need less memory" if is_out_of_memory(error) else ""
            reason = f"{kind}{one_line(error)}{advice}"
            logger.info(f"failed      {output}: {reason}")
            return reason
        finally:
            gc.collect()  # the model, before the next one is loaded
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return None


def is_complete(output: Path) -> bool:
    """Whether a training has written its last file."""
    return all((output / name).is_file() for name in _WRITTEN)


def _collect(output: Path, outputs: dict[Path, list[Path]], curve: dict[int, Path]) -> None:
    """Write what needs all folds, if they are complete."""
    if waiting := [str(one) for folds in outputs.values() for one in folds if not is_complete(one)]:
        logger.info(f"waiting     for {', '.join(waiting)}: the run that completes the last one collects the scores")
        return
    for directory, folds in outputs.items():
        write_cross_validation(directory, folds)
        logger.info(
            f"\n{format_scores(read_json(directory / 'metrics.json'))}\n\nwrote       {directory / 'cv_report.html'}\n"
            f"next        samed-hf predict {directory / 'ensemble'} SCAN.nii.gz --output segmentations"
        )
    if curve:
        write_learning_curve(output, curve)
        logger.info(f"\nwrote       {output / 'cv_report.html'}, learning_curve.csv and learning_curve.svg")


def _check(args: SamedTrainingArguments, num_parallel_folds: int, num_processes: int) -> None:
    """Refuse settings that contradict a cross-validation, and say what the held-out cases decide."""
    problems = [
        f"{name} is {getattr(args, name)!r}: expected none, as each fold {why}"
        for name, why in (("resume_from_checkpoint", "resumes by itself"), ("push_to_hub", "is an adapter"))
        if getattr(args, name) not in (None, False, "latest")
    ]
    if num_parallel_folds < 1 or (num_parallel_folds > 1 and num_processes > 1):
        problems.append(f"num_parallel_folds is {num_parallel_folds}: expected 1 or, in a single process, more")
    problems += ["plane is 'all': expected one plane, as each fold is an adapter"] * (args.plane == "all")
    if any((Path(args.output_dir) / name).exists() for name in ("adapter_model.safetensors", "planes.json")):
        problems.append(f"output_dir {args.output_dir!r} holds a training run: expected another directory")
    if problems:
        raise ValueError("; ".join(problems) + ".")
    if args.early_stopping_patience is not None:
        logger.info("note        the held-out cases choose when a fold stops, and are then scored: optimistic scores")
    elif args.save_best:
        logger.info("note        scores are of the last adapters, not of best/, which the held-out cases choose")


def _check_numbers(folds: Sequence[Fold], chosen: int | None, num_train_cases: Sequence[int]) -> None:
    """Refuse a fold that isn't there, and more training cases than there are."""
    largest, smallest = max(num_train_cases, default=1), min(len(train) for train, _ in folds)
    if (chosen or 0) >= len(folds):
        raise ValueError(f"fold is {chosen}: expected one of {len(folds)} folds, counted from 0.")
    if largest > smallest:
        raise ValueError(f"num_train_cases is {largest}: expected at most {smallest}, those of the smallest fold.")


def log_cross_validation(
    args: SamedTrainingArguments, *, num_train_cases: Sequence[int] = (), num_parallel_folds: int = 1
) -> None:
    """Log the folds and the plan of one; train and write nothing."""
    _check(args, num_parallel_folds, num_processes=1)
    output = Path(args.output_dir)
    with tempfile.TemporaryDirectory(prefix="samed-hf-dry-run-") as temporary:
        phantom = output / "phantom"
        args, data = read_cases(args, phantom if phantom.is_dir() else Path(temporary) / "phantom")
        if (output / SPLITS).is_file():
            args = replace(args, splits=str(output / SPLITS), num_folds=None)
        folds = find_folds(args, data)
        if folds is None:
            args = replace(args, num_folds=args.num_folds or 5)
            folds = k_folds(data.train, args.num_folds or 5, data.groups)
            logger.info("note        the labels of the cases, which are not read now, decide which cases a fold has")
        _check_numbers(folds, args.fold, num_train_cases)
        for fold, (train, held_out) in enumerate(folds):
            logger.info(f"fold {fold:<7}{len(train)} cases to train on, {len(held_out)} held out")
        if num_train_cases:
            logger.info(f"curve       each fold with {', '.join(map(str, num_train_cases))} of its training cases")
        logger.info(f"\nFold {args.fold or 0}{':' if args.fold is None else ', the only one to train:'}")
        log_plan(replace(args, fold=args.fold or 0))
