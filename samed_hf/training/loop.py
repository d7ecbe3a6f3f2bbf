"""The training loop: steps, validations, checkpoints and uploads until the adapter is saved."""

from __future__ import annotations

import errno
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from ..model import SamedForSemanticSegmentation
from ..utils.atomic import atomic_directory, write_text
from ..utils.threads import single_threaded_blas
from .arguments import SamedTrainingArguments
from .checkpointing.checkpoints import list_checkpoints
from .checkpointing.run_directory import check_writable, on_all_ranks
from .checkpointing.state import TrainingState, load_adapter
from .distributed.fsdp import adapter_weights, is_sharded
from .distributed.interruption import Interruption, end_distributed
from .distributed.logging import get_logger
from .monitoring.checks import LabelChecks
from .monitoring.progress import Progress
from .monitoring.snapshots import ValidationSnapshots
from .setup import TrainingRun, set_up_run
from .step import read_batches, take_step
from .validation import validate

__all__ = ["train"]

logger = get_logger(__name__)

_BEST = "best"
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
OnPush = Callable[[TrainingRun, Path], None]


def train(args: SamedTrainingArguments, on_push: OnPush | None = None) -> TrainingRun:
    """Train an adapter and save it in `args.output_dir`, with `training_log.csv` and checkpoints.

    The saved adapter is the last one; with `ema_decay` it has the averaged weights, with `early_stopping_patience`
    those of the best validation. The best one is also kept in `best`, unless `save_best` is off. The process group and
    the trackers stay open: close them by `run.accelerator.end_training()`.

    Args:
        args: the settings; the run that is returned has those in use.
        on_push: called on the main process every `push_every` steps with the run and a directory of the adapter.

    Raises:
        ValueError, FileNotFoundError: bad settings or data, before the first step; or too many steps in a row without
            a finite loss and gradient.
        OSError: `output_dir` can't be written to.
        Interrupted: after SIGTERM or SIGINT, once a checkpoint is written.
    """
    try:
        check_writable(Path(args.output_dir))
        run = set_up_run(args)
        logger.info(run.describe())
        started = time.monotonic()
        state = TrainingState.of(run)
        state.resume()
        with single_threaded_blas():
            _loop(state, on_push)
        run.seconds = time.monotonic() - started
        _finish(state)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        checkpoints = list_checkpoints(Path(args.output_dir))
        resume = f"; resume from {checkpoints[-1].name} with --resume_from_checkpoint latest" if checkpoints else ""
        raise OSError(
            f"{error.filename or args.output_dir} can't be written to ({error.strerror}): free some space or make the "
            f"directory writable, or give another --output_dir{resume}."
        ) from error
    return run


def _loop(state: TrainingState, on_push: OnPush | None) -> None:
    run, args = state.run, state.run.args
    every = args.checkpointing_steps if args.checkpointing_steps is not None else max(1, run.plan.batches_per_epoch)
    labels, snapshots = LabelChecks(run.model.config.id2label), ValidationSnapshots(run, args.watched_slices)
    if state.step == 0 and run.accelerator.is_main_process:
        labels.training((name, run.store.label(name)) for name in run.data.train)
    first = state.step - bool(state.pending)
    _start_trackers(state, first)
    run.model.train()
    # The loader's workers must be closed, or the process waits for them at its end.
    with (
        closing(read_batches(run, state.step)) as batches,
        Interruption(run.accelerator) as interruption,
        Progress(run, first) as progress,
    ):
        while not state.ended:
            if state.pending is None:
                state.pending = take_step(state, batches)
            scores = _validate(state, interruption, labels, snapshots)
            if scores is not None:
                progress.add(state.pending | scores)
                state.pending = None
            if interruption.requested:
                directory = state.save()
                logger.info(
                    f"stopped     after step {state.step} of {run.plan.steps}: {directory} is complete. To resume, "
                    "repeat the command with --resume_from_checkpoint latest."
                )
                end_distributed(run.accelerator)
                raise interruption.end()
            if on_push and args.push_every and state.step % args.push_every == 0 and not state.ended:
                _push(state, on_push)
            if every and state.step % every == 0 and not state.ended:
                state.save()
    run.model.eval()
    state.guard.check_end()
    if state.step < run.plan.steps:
        logger.info(f"stopped     early, after step {state.step}: the best validation was at step {state.best.step}")


def _start_trackers(state: TrainingState, first: int) -> None:
    """Start or resume the trackers; events that a killed run logged after step `first` are purged."""
    run = state.run
    if not run.accelerator.log_with:
        return
    settings: dict[str, dict[str, Any]] = {
        "wandb": {"id": state.identity, "resume": "allow"},
        "trackio": {"name": f"{run.output_dir.name}-{state.identity}", "resume": "allow"},
    }
    if run.args.resume_from_checkpoint is not None:
        settings["tensorboard"] = {"purge_step": first + 1}
    config = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in run.args.to_dict().items()
        if value is not None
    }
    run.accelerator.init_trackers("samed_hf", config=config, init_kwargs=settings)


def _validate(
    state: TrainingState, interruption: Interruption, labels: LabelChecks, snapshots: ValidationSnapshots
) -> dict[str, Any] | None:
    """Return the scores to add to the step's log row, none if no validation is due; `None` if interrupted."""
    run, step, args = state.run, state.step, state.run.args
    if not run.data.selection or (step % run.plan.eval_steps and step != run.plan.steps):
        return {}
    if interruption.requested:
        return None
    with state.averaged():
        result = validate(run, interruption, snapshots.cases)
        if result is None:
            return None
        if state.best.add(step, result.dice) and (args.save_best or args.early_stopping_patience):
            on_all_ranks(run.accelerator, lambda: _save_best(state))
    if run.accelerator.is_main_process:
        labels.predictions(step, result.labels)
        snapshots.draw(step, result.predictions)
    return {"validation_dice": result.dice, "validation_dice_per_class": result.per_class}


def _save_best(state: TrainingState) -> None:
    """Save the current adapter in `best`."""
    run, best, data = state.run, state.run.output_dir / _BEST, state.run.data
    weights = adapter_weights(run.model)
    if not run.accelerator.is_main_process:
        return
    with atomic_directory(best) as directory:
        run.model.save_pretrained(directory, image_processor=run.processor, state_dict=weights)
        about = {"step": state.best.step, "validation_dice": state.best.score, "cases": len(data.selection)}
        write_text(directory / "validation.json", json.dumps(about, indent=2) + "\n")
    seen = f"{len(data.selection)} of {len(data.validation)} cases"
    logger.info(f"best        validation Dice {state.best.score:.4f} of {seen} at step {state.best.step}: {best}")


def _push(state: TrainingState, on_push: OnPush) -> None:
    """Call `on_push` with the current adapter."""
    run = state.run
    with state.averaged(), tempfile.TemporaryDirectory() as directory:
        run.save_adapter(Path(directory))
        if run.accelerator.is_main_process:
            on_push(run, Path(directory))
    run.accelerator.wait_for_everyone()


def _finish(state: TrainingState) -> None:
    """Save the adapter, and give the model in memory the saved weights."""
    run, args = state.run, state.run.args
    run.accelerator.wait_for_everyone()
    if state.average is not None:
        state.average.apply()
    if args.early_stopping_patience is not None and state.best.step is not None:
        load_adapter(run.model, run.output_dir / _BEST)
        logger.info(f"adapter     of the best validation, step {state.best.step}")
    on_all_ranks(run.accelerator, lambda: run.save_adapter(run.output_dir))
    run.accelerator.wait_for_everyone()
    if args.frozen_dtype == "bfloat16" or is_sharded(run.model):
        # Scored as it will be loaded: with the base model's float32 weights, complete on every process.
        run.model = SamedForSemanticSegmentation.from_pretrained(run.output_dir).to(run.accelerator.device)
