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
from ..monitoring.checks import NonFiniteGuard
from ..monitoring.log import read_log
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
    """What changes in a training from step to step; every process has one."""

    run: TrainingRun
    model: nn.Module  # as Accelerate wraps it
    trained: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR  # of the learning rate, in optimizer steps
    guard: NonFiniteGuard
    best: EarlyStopping
    average: ExponentialMovingAverage | None = None
    step: int = 0  # optimizer steps done
    pending: dict[str, Any] | None = None  # log row of the last step until its validation is done
    identity: str = field(default_factory=lambda: uuid4().hex[:8])  # of the run, for trackers that can resume

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
        _save_adapter_only(run)
        return cls(run, model, trained, optimizer, schedule, guard, best, average)

    @property
    def ended(self) -> bool:
        """Whether the training is complete."""
        return self.pending is None and (self.step >= self.run.plan.steps or self.best.stops)

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the model has the averaged weights, if there are any."""
        return nullcontext() if self.average is None else self.average.applied()

    def save(self) -> Path:
        """Write a checkpoint and return its directory; every process must call."""
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

        Checkpoints of later steps are moved to `earlier-N`: they are damaged, or belong to the run before it was
        resumed.
        """
        run, requested = self.run, self.run.args.resume_from_checkpoint
        if run.accelerator.is_main_process:
            run.output_dir.mkdir(parents=True, exist_ok=True)
            remove_leftovers(run.output_dir)
        run.accelerator.wait_for_everyone()
        if requested is None:
            return
        directory = _on_main_rank(run, lambda: find_checkpoint(run.output_dir, requested))
        if directory is None:
            logger.info(f"resume      {run.output_dir} has no complete checkpoint yet: from the first step")
        else:
            self._load(directory)
            logger.info(f"resume      {directory}, {self.step} steps done")

        def archive_later() -> None:
            checkpoints = list_checkpoints(run.output_dir)
            if later := [path for path in checkpoints if int(path.name.rpartition("-")[2]) > self.step]:
                earlier = archive_directories(run.output_dir, later)
                logger.info(f"note        {', '.join(path.name for path in later)} moved to {earlier}")

        _on_main_rank(run, archive_later)

    def _load(self, directory: Path) -> None:
        damage = SafetensorError, RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError
        try:
            state = json.loads((directory / _STATE).read_text(encoding="utf-8"))
            _check_fits(self.run, directory, state)
            self.run.accelerator.load_state(str(directory))
        except (json.JSONDecodeError, UnicodeDecodeError, *damage) as error:
            raise ValueError(
                f"The checkpoint {directory} is damaged ({one_line(error)[:200]}): move it to another directory and "
                "give --resume_from_checkpoint another one, or latest."
            ) from error
        self.step, self.pending, self.identity = int(state["step"]), state["pending"], state["identity"]
        self.guard.load_state_dict(state["guard"])
        self.best.load_state_dict(state["best"])
        self.run.log = read_log(directory / _LOG, self.step)


def _save_adapter_only(run: TrainingRun) -> None:
    """Make Accelerate's `save_state` and `load_state` handle only the adapter instead of the whole model."""

    def save(models: list[nn.Module], weights: list[dict], directory: str) -> None:
        weights.clear()
        adapter = adapter_weights(run.model)
        if run.accelerator.is_main_process:
            run.model.save_pretrained(directory, state_dict=adapter)

    def load(models: list[nn.Module], directory: str) -> None:
        models.clear()
        load_adapter(run.model, Path(directory))

    run.accelerator.register_save_state_pre_hook(save)
    run.accelerator.register_load_state_pre_hook(load)


def load_adapter(model: nn.Module, directory: Path) -> None:
    """Load a saved adapter's weights into a model with an adapter of the same modules."""
    weights = load_file(directory / "adapter_model.safetensors")
    weights = {name.removeprefix("base_model.model."): value for name, value in weights.items()}
    result: Any = set_peft_model_state_dict(model, shard_state_dict(model, weights))
    if result.unexpected_keys:
        raise ValueError(f"{directory} holds an adapter with other modules: {sorted(result.unexpected_keys)[:3]}.")


def _shared_settings(run: TrainingRun) -> dict[str, Any]:
    """Settings that a resumed run must share with the run that wrote the checkpoint."""
    settings = {name: getattr(run.args, name) for name in field_names(run.args, "resume")}
    return settings | {"training slices": run.num_slices}


def _check_fits(run: TrainingRun, directory: Path, state: dict[str, Any]) -> None:
    """Check that this run can continue a checkpoint exactly."""
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


def _on_main_rank(run: TrainingRun, action: Callable[[], Any]) -> Any:
    """Call `action` on the main process, and return its result, or raise its error, on all processes."""
    outcome: list[Any] = [None, None]
    if run.accelerator.is_main_process:
        try:
            outcome[0] = action()
        except (ValueError, OSError) as error:
            outcome[1] = error
    result, failure = broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    return result
