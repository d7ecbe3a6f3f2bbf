"""State of a training, saved in checkpoints and resumed exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from peft import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
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
from ..setup import TrainingRun, refuse_deepspeed
from .checkpoints import find_checkpoint, list_checkpoints, write_checkpoint
from .provenance import compare_provenance
from .run_directory import archive_directories, on_main_rank
from .serialization import flatten_state, load_optimizer, random_states, set_random_states, unflatten_state

__all__ = ["TrainingState", "load_adapter"]

logger = get_logger(__name__)

_STATE, _TENSORS, _RANDOM = "training_state.json", "training_state.safetensors", "random_states_{}.json"
_LOG = "training_log.csv"
_FINGERPRINTS = ("data_fingerprint", "training_cases", "base_model")  # of a run's record
_FILE_ERRORS = (SafetensorError, RuntimeError, OSError, EOFError)


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
        run, accelerator = self.run, self.run.accelerator
        refuse_deepspeed(accelerator)
        averages = {"average": self.average.state_dict()} if self.average is not None else {}

        def fill(directory: Path) -> None:
            # All that is gathered comes first, so that no process waits for one whose disk is full.
            adapter = adapter_weights(run.model)
            tensors, values = flatten_state({"optimizer": self.optimizer.state_dict()["state"]} | averages)
            name, states = _RANDOM.format(accelerator.process_index), random_states(accelerator.device)
            write_text(directory / name, json.dumps(states) + "\n")
            if accelerator.is_main_process:
                run.model.save_pretrained(directory, state_dict=adapter)
                save_file(tensors, directory / _TENSORS)
                write_text(directory / _STATE, json.dumps(self._describe() | {"values": values}, indent=2) + "\n")
                if (run.output_dir / _LOG).is_file():
                    shutil.copyfile(run.output_dir / _LOG, directory / _LOG)

        return write_checkpoint(accelerator, run.output_dir, self.step, fill, run.args.checkpoints_total_limit)

    def _describe(self) -> dict[str, Any]:
        """What `training_state.json` has besides the values of optimizer and averages."""
        run, scaler = self.run, self.run.accelerator.scaler
        return {
            "step": self.step,
            "num_processes": run.accelerator.num_processes,
            "settings": _shared_settings(run),
            "run": {name: run.record.get(name) for name in _FINGERPRINTS},
            "schedule": {"step": self.schedule.last_epoch, "learning_rates": self.schedule.get_last_lr()},
            "scaler": None if scaler is None else scaler.state_dict(),
            "guard": self.guard.state_dict(),
            "best": self.best.state_dict(),
            "pending": self.pending,
            "identity": self.identity,
        }

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
        directory, content = on_main_rank(run.accelerator, lambda: _find_state(run, requested))
        if directory is None:
            logger.info(f"resume      {run.output_dir} has no complete checkpoint yet: from the first step")
        else:
            with _report_damage(directory):
                self._restore(directory, content)
            logger.info(f"resume      {directory}, {self.step} steps done")

        def archive_later() -> None:
            checkpoints = list_checkpoints(run.output_dir)
            if later := [path for path in checkpoints if int(path.name.rpartition("-")[2]) > self.step]:
                earlier = archive_directories(run.output_dir, later)
                logger.info(f"note        {', '.join(path.name for path in later)} moved to {earlier}")

        on_main_rank(run.accelerator, archive_later)

    def _restore(self, directory: Path, content: dict[str, Any]) -> None:
        accelerator, schedule = self.run.accelerator, content["schedule"]
        load_adapter(self.run.model, directory)
        state = unflatten_state(load_file(directory / _TENSORS) | content["values"])
        load_optimizer(self.optimizer, state.get("optimizer", {}))
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        step, rates = int(schedule["step"]), [float(rate) for rate in schedule["learning_rates"]]
        progress = {"last_epoch": step, "_step_count": step + 1, "_last_lr": rates}
        self.schedule.load_state_dict(self.schedule.state_dict() | progress)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(content["scaler"])
        self.step, self.identity = int(content["step"]), str(content["identity"])
        self.pending = None if content["pending"] is None else dict(content["pending"])
        self.guard.load_state_dict(content["guard"])
        self.best.load_state_dict(content["best"])
        self.run.log = read_log(directory / _LOG, self.step)
        states = (directory / _RANDOM.format(accelerator.process_index)).read_text(encoding="utf-8")
        set_random_states(json.loads(states), accelerator.device)


def _find_state(run: TrainingRun, requested: str) -> tuple[Path | None, dict[str, Any]]:
    """Find the checkpoint to resume from, read its `training_state.json`, and check that this run can continue it."""
    directory = find_checkpoint(run.output_dir, requested)
    if directory is None:
        return None, {}
    with _report_damage(directory):
        content = json.loads((directory / _STATE).read_text(encoding="utf-8"))
        _check_fits(run, directory, content)
    return directory, content


@contextmanager
def _report_damage(directory: Path) -> Iterator[None]:
    """Turn what damaged files raise into a `ValueError` that names the checkpoint."""
    try:
        yield
    except (_UnfitCheckpointError, torch.OutOfMemoryError):
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, *_FILE_ERRORS) as error:
        raise ValueError(
            f"The checkpoint {directory} is damaged ({one_line(error)[:200]}): move it to another directory and "
            "give --resume_from_checkpoint another one, or latest."
        ) from error


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


class _UnfitCheckpointError(ValueError):
    """A complete checkpoint that this run can't continue exactly."""


def _check_fits(run: TrainingRun, directory: Path, content: dict[str, Any]) -> None:
    """Check, on the main process, that this run can continue a checkpoint exactly."""
    anew = "start a new run without --resume_from_checkpoint."
    if "schedule" not in content:
        raise _UnfitCheckpointError(
            f"{directory} was written by an earlier version of samed_hf, with pickled files, which are never loaded: "
            f"finish that run with that version, or {anew}"
        )
    earlier = {"loss_resolution": "low"} | content["settings"]  # the only one of earlier versions
    differences = [
        f"{name} {earlier[name]} then, {value} now"
        for name, value in _shared_settings(run).items()
        if name in earlier and earlier[name] != value
    ]
    if differences:
        raise _UnfitCheckpointError(
            f"{directory} was written with other settings ({'; '.join(differences)}): give the same ones, or {anew}"
        )
    if others := compare_provenance(content["run"], {name: run.record.get(name) for name in _FINGERPRINTS}):
        raise _UnfitCheckpointError(
            f"{directory} was written by a run with other inputs: {' and '.join(others)} differ. Give --data_dir and "
            f"--model_name_or_path of that run, wherever they are now, or {anew}"
        )
    steps, processes = content["step"], run.accelerator.num_processes
    if content["num_processes"] != processes:
        raise _UnfitCheckpointError(
            f"{directory} was written by {content['num_processes']} processes, this run has {processes}: an exact "
            "continuation needs the same number."
        )
    if not 0 <= steps <= run.plan.steps:
        raise _UnfitCheckpointError(
            f"resume_from_checkpoint {str(directory)!r} has {steps} steps done, but the run has {run.plan.steps}: give "
            "the settings of the interrupted run, or more epochs."
        )
