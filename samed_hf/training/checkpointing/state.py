"""All that a training has become so far, and how it is saved and taken up again exactly."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from accelerate.utils import broadcast_object_list
from peft import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ...utils.atomic import remove_leftovers, write_text
from ...utils.settings import field_names
from ..distributed.fsdp import adapter_weights, shard_state_dict
from ..distributed.logging import get_logger
from ..early_stopping import EarlyStopping
from ..ema import ExponentialMovingAverage
from ..monitoring.nonfinite import NonFiniteGuard
from ..monitoring.progress import read_log
from ..optimizers import make_optimizer
from ..schedules import warmup_polynomial
from ..setup import TrainingRun
from .checkpoints import find_checkpoint, list_checkpoints, write_checkpoint
from .run_directory import archive_directories

__all__ = ["TrainingState", "load_adapter"]

logger = get_logger(__name__)

_STATE, _LOG = "training_state.json", "training_log.csv"


@dataclass
class TrainingState:
    """What a training changes from step to step; on every process.

    Attributes:
        run: what it started from.
        model: the model as Accelerate wraps it.
        trained: its weights that are trained.
        optimizer: of these.
        schedule: of the learning rate, in optimizer steps.
        guard: counts the steps skipped.
        best: the best validation.
        average: of the trained weights, where one is asked for.
        step: optimizer steps done.
        pending: the log's row of the last step, where its validation was put off by an interruption.
        identity: a name for the trackers that know a run again by one.
    """

    run: TrainingRun
    model: nn.Module
    trained: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    guard: NonFiniteGuard
    best: EarlyStopping
    average: ExponentialMovingAverage | None = None
    step: int = 0
    pending: dict[str, Any] | None = None
    identity: str = field(default_factory=lambda: uuid4().hex[:8])

    @classmethod
    def of(cls, run: TrainingRun) -> TrainingState:
        """That of a training before its first step."""
        args, accelerator, plan = run.args, run.accelerator, run.plan
        weights = [weight for weight in run.model.parameters() if weight.requires_grad]
        optimizer = make_optimizer(weights, args, accelerator.device)
        # Not prepared by Accelerate, which would step it once for every process: the schedule counts optimizer steps.
        schedule = LambdaLR(
            optimizer,
            lambda step: warmup_polynomial(step, warmup_steps=plan.warmup, horizon=plan.horizon, power=args.lr_power),
        )
        model, optimizer = accelerator.prepare(run.model, optimizer)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        guard, best = NonFiniteGuard(args.max_skipped_steps), EarlyStopping(args.early_stopping_patience)
        average = ExponentialMovingAverage(trained, args.ema_decay) if args.ema_decay is not None else None
        accelerator.register_for_checkpointing(schedule, *([average] if average is not None else []))
        state = cls(run, model, trained, optimizer, schedule, guard, best, average)
        _carry_the_adapter_alone(state)
        return state

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train."""
        return self.pending is None and (self.step >= self.run.plan.steps or self.best.stops)

    def averaged(self) -> AbstractContextManager[None]:
        """The model as it is validated and given away: with the averages, where there are any."""
        return nullcontext() if self.average is None else self.average.applied()

    def save(self) -> Path:
        """Write a checkpoint; every process must call.

        Raises:
            OSError: it can't be written.
        """
        run = self.run
        state = {
            "step": self.step,
            "num_processes": run.accelerator.num_processes,
            "settings": _shared_settings(run),
            "guard": self.guard.state_dict(),
            "best": self.best.state_dict(),
            "pending": self.pending,
            "identity": self.identity,
        }

        def fill(folder: Path) -> None:
            run.accelerator.save_state(str(folder))
            if run.accelerator.is_main_process:
                write_text(folder / _STATE, json.dumps(state, indent=2) + "\n")
                if (run.output_dir / _LOG).is_file():
                    shutil.copyfile(run.output_dir / _LOG, folder / _LOG)

        return write_checkpoint(run.accelerator, run.output_dir, self.step, fill, run.args.checkpoints_total_limit)

    def resume(self) -> None:
        """Make the run's folder fit to work in, and go on from a checkpoint where one is asked for and found.

        Raises:
            ValueError: other settings or another number of processes wrote it, or it is damaged.
            FileNotFoundError: it isn't there.
        """
        run, requested = self.run, self.run.args.resume_from_checkpoint
        if run.accelerator.is_main_process:
            run.output_dir.mkdir(parents=True, exist_ok=True)
            remove_leftovers(run.output_dir)
        run.accelerator.wait_for_everyone()
        if requested is None:
            return
        folder = _agree(run, lambda: find_checkpoint(run.output_dir, requested))
        if folder is None:
            logger.info(f"resume      {run.output_dir} has no whole checkpoint yet: from the first step")
        else:
            self._load(folder)
            logger.info(f"resume      {folder}, {self.step} steps done")
        _agree(run, lambda: _archive_later_checkpoints(run, self.step))

    def _load(self, folder: Path) -> None:
        run = self.run
        try:
            state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        except ValueError as error:
            raise _damaged(folder, error) from error
        _check_fits(run, folder, state)
        try:
            run.accelerator.load_state(str(folder))
        except (SafetensorError, RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise _damaged(folder, error) from error
        self.step, self.pending, self.identity = int(state["step"]), state["pending"], state["identity"]
        self.guard.load_state_dict(state["guard"])
        self.best.load_state_dict(state["best"])
        run.log = read_log(folder / _LOG, self.step)


def _carry_the_adapter_alone(state: TrainingState) -> None:
    """Make Accelerate's `save_state` and `load_state` carry the adapter alone instead of the whole model."""
    accelerator, adapted = state.run.accelerator, state.run.model

    def save(models: list[nn.Module], weights: list[dict], folder: str) -> None:
        weights.clear()
        adapter = adapter_weights(adapted)
        if accelerator.is_main_process:
            adapted.save_pretrained(folder, state_dict=adapter)

    def load(models: list[nn.Module], folder: str) -> None:
        models.clear()
        load_adapter(adapted, Path(folder))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Give an adapted model the weights of a saved adapter.

    Raises:
        ValueError: they are those of other modules.
    """
    weights = load_file(folder / "adapter_model.safetensors")
    weights = {name.removeprefix("base_model.model."): value for name, value in weights.items()}
    result: Any = set_peft_model_state_dict(model, shard_state_dict(model, weights))
    if result.unexpected_keys:
        raise ValueError(f"{folder} holds an adapter of other modules: {sorted(result.unexpected_keys)[:3]}.")


def _shared_settings(run: TrainingRun) -> dict[str, Any]:
    """What a run that continues another must have in common with it."""
    return {name: getattr(run.args, name) for name in field_names(run.args, "resume")} | {
        "training slices": run.num_slices
    }


def _check_fits(run: TrainingRun, folder: Path, state: dict[str, Any]) -> None:
    """Refuse a checkpoint that this run can't continue exactly."""
    then = state["settings"]
    others = [
        f"{name} {then[name]} then, {value} now"
        for name, value in _shared_settings(run).items()
        if name in then and then[name] != value
    ]
    if others:
        raise ValueError(
            f"{folder} was written with other settings ({'; '.join(others)}): give the same ones again, or leave out "
            "--resume_from_checkpoint to begin anew."
        )
    if state["num_processes"] != run.accelerator.num_processes:
        raise ValueError(
            f"{folder} was written by {state['num_processes']} processes, this run has "
            f"{run.accelerator.num_processes}: an exact continuation needs the same number."
        )
    if state["step"] > run.plan.steps:
        raise ValueError(
            f"resume_from_checkpoint {str(folder)!r} has {state['step']} steps done, but the run has "
            f"{run.plan.steps}: give the settings of the interrupted run, or more epochs."
        )


def _damaged(folder: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(
        f"The checkpoint {folder} is damaged ({reason}): move it away and give --resume_from_checkpoint another one, "
        "or latest."
    )


def _archive_later_checkpoints(run: TrainingRun, step: int) -> None:
    """Move checkpoints of later steps away: they are damaged, or of a course that is left here."""
    later = [path for path in list_checkpoints(run.output_dir) if int(path.name.rpartition("-")[2]) > step]
    if later:
        earlier = archive_directories(run.output_dir, later)
        logger.info(f"note        {', '.join(path.name for path in later)} moved to {earlier}")


def _agree(run: TrainingRun, find: Callable[[], Any]) -> Any:
    """What the main process finds, on all of them; an error there is one everywhere."""
    found: list[Any] = [None, None]
    if run.accelerator.is_main_process:
        try:
            found[0] = find()
        except (ValueError, OSError) as error:
            found[1] = error
    found = broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]
