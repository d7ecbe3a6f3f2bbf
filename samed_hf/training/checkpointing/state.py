"""State of a training, saved in checkpoints and resumed exactly."""

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
from ...utils.text import one_line
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
    """What changes in a training from step to step; every process has one.

    Attributes:
        run: the run.
        model: the model as Accelerate wraps it.
        trained: the trained weights.
        optimizer: of the trained weights.
        schedule: of the learning rate, in optimizer steps.
        guard: counts the skipped steps.
        best: the best validation.
        average: of the trained weights; `None` without `ema_decay`.
        step: optimizer steps done.
        pending: log row of the last step until its validation is done.
        identity: the run's id for trackers that can resume.
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
        """Make the state of a training before its first step."""
        args, accelerator, plan = run.args, run.accelerator, run.plan
        weights = [weight for weight in run.model.parameters() if weight.requires_grad]
        optimizer = make_optimizer(weights, args, accelerator.device)
        # Accelerate would advance a prepared schedule once for every process.
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
        _save_adapter_only(state)
        return state

    @property
    def ended(self) -> bool:
        """Whether the training is complete."""
        return self.pending is None and (self.step >= self.run.plan.steps or self.best.stops)

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the model has the averaged weights, if there are any."""
        return nullcontext() if self.average is None else self.average.applied()

    def save(self) -> Path:
        """Write a checkpoint and return its directory; every process must call.

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

        def fill(directory: Path) -> None:
            run.accelerator.save_state(str(directory))
            if run.accelerator.is_main_process:
                write_text(directory / _STATE, json.dumps(state, indent=2) + "\n")
                if (run.output_dir / _LOG).is_file():
                    shutil.copyfile(run.output_dir / _LOG, directory / _LOG)

        return write_checkpoint(run.accelerator, run.output_dir, self.step, fill, run.args.checkpoints_total_limit)

    def resume(self) -> None:
        """Clean up the output directory, and load the checkpoint that `resume_from_checkpoint` names, if any.

        Raises:
            ValueError: the checkpoint is damaged, or was written with other settings or another number of processes.
            FileNotFoundError: the checkpoint does not exist.
        """
        run, requested = self.run, self.run.args.resume_from_checkpoint
        if run.accelerator.is_main_process:
            run.output_dir.mkdir(parents=True, exist_ok=True)
            remove_leftovers(run.output_dir)
        run.accelerator.wait_for_everyone()
        if requested is None:
            return
        directory = _agree(run, lambda: find_checkpoint(run.output_dir, requested))
        if directory is None:
            logger.info(f"resume      {run.output_dir} has no complete checkpoint yet: from the first step")
        else:
            self._load(directory)
            logger.info(f"resume      {directory}, {self.step} steps done")
        _agree(run, lambda: _archive_later_checkpoints(run, self.step))

    def _load(self, directory: Path) -> None:
        run = self.run
        try:
            state = json.loads((directory / _STATE).read_text(encoding="utf-8"))
        except ValueError as error:
            raise _damaged(directory, error) from error
        _check_fits(run, directory, state)
        try:
            run.accelerator.load_state(str(directory))
        except (SafetensorError, RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise _damaged(directory, error) from error
        self.step, self.pending, self.identity = int(state["step"]), state["pending"], state["identity"]
        self.guard.load_state_dict(state["guard"])
        self.best.load_state_dict(state["best"])
        run.log = read_log(directory / _LOG, self.step)


def _save_adapter_only(state: TrainingState) -> None:
    """Make Accelerate's `save_state` and `load_state` handle only the adapter instead of the whole model."""
    accelerator, adapted = state.run.accelerator, state.run.model

    def save(models: list[nn.Module], weights: list[dict], directory: str) -> None:
        weights.clear()
        adapter = adapter_weights(adapted)
        if accelerator.is_main_process:
            adapted.save_pretrained(directory, state_dict=adapter)

    def load(models: list[nn.Module], directory: str) -> None:
        models.clear()
        load_adapter(adapted, Path(directory))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def load_adapter(model: nn.Module, directory: Path) -> None:
    """Load a saved adapter's weights into a model that has an adapter.

    Raises:
        ValueError: the saved adapter has other modules.
    """
    weights = load_file(directory / "adapter_model.safetensors")
    weights = {name.removeprefix("base_model.model."): value for name, value in weights.items()}
    result: Any = set_peft_model_state_dict(model, shard_state_dict(model, weights))
    if result.unexpected_keys:
        raise ValueError(f"{directory} holds an adapter with other modules: {sorted(result.unexpected_keys)[:3]}.")


def _shared_settings(run: TrainingRun) -> dict[str, Any]:
    """Settings that a resumed run must share with the run that wrote the checkpoint."""
    return {name: getattr(run.args, name) for name in field_names(run.args, "resume")} | {
        "training slices": run.num_slices
    }


def _check_fits(run: TrainingRun, directory: Path, state: dict[str, Any]) -> None:
    """Check that this run can continue a checkpoint exactly.

    Raises:
        ValueError: other settings, another number of processes or more steps than the run has.
    """
    earlier = state["settings"]
    differences = [
        f"{name} {earlier[name]} then, {value} now"
        for name, value in _shared_settings(run).items()
        if name in earlier and earlier[name] != value
    ]
    if differences:
        raise ValueError(
            f"{directory} was written with other settings ({'; '.join(differences)}): give the same ones, or "
            "start a new run without --resume_from_checkpoint."
        )
    if state["num_processes"] != run.accelerator.num_processes:
        raise ValueError(
            f"{directory} was written by {state['num_processes']} processes, this run has "
            f"{run.accelerator.num_processes}: an exact continuation needs the same number."
        )
    if state["step"] > run.plan.steps:
        raise ValueError(
            f"resume_from_checkpoint {str(directory)!r} has {state['step']} steps done, but the run has "
            f"{run.plan.steps}: give the settings of the interrupted run, or more epochs."
        )


def _damaged(directory: Path, error: Exception) -> ValueError:
    return ValueError(
        f"The checkpoint {directory} is damaged ({one_line(error)[:200]}): move it to another directory and give "
        "--resume_from_checkpoint another one, or latest."
    )


def _archive_later_checkpoints(run: TrainingRun, step: int) -> None:
    """Move checkpoints of later steps to `earlier-N`: they are damaged, or belong to the run before it was resumed."""
    later = [path for path in list_checkpoints(run.output_dir) if int(path.name.rpartition("-")[2]) > step]
    if later:
        earlier = archive_directories(run.output_dir, later)
        logger.info(f"note        {', '.join(path.name for path in later)} moved to {earlier}")


def _agree(run: TrainingRun, find: Callable[[], Any]) -> Any:
    """Call `find` on the main process, and return its result, or raise its error, on all processes."""
    outcome: list[Any] = [None, None]
    if run.accelerator.is_main_process:
        try:
            outcome[0] = find()
        except (ValueError, OSError) as error:
            outcome[1] = error
    result, failure = broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    return result
