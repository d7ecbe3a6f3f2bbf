"""Checkpoints of a training run: the adapter and all that an exact continuation needs, whole or not there."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from peft import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from .files import write_text

__all__ = ["find_checkpoint", "load_checkpoint", "register_adapter_hooks", "save_checkpoint"]

_NAME = re.compile(r"^checkpoint-(\d+)$")
_STATE = "training_state.json"


def register_adapter_hooks(accelerator: Accelerator, model: nn.Module) -> None:
    """Make Accelerate's `save_state` and `load_state` carry the adapter alone instead of the whole model."""

    def save(models: list[nn.Module], weights: list[dict], folder: str) -> None:
        weights.clear()
        if accelerator.is_main_process:
            accelerator.unwrap_model(model).save_pretrained(folder)

    def load(models: list[nn.Module], folder: str) -> None:
        models.clear()
        state = load_file(Path(folder) / "adapter_model.safetensors")
        result = set_peft_model_state_dict(accelerator.unwrap_model(model), _without_prefix(state))
        if result.unexpected_keys:
            raise ValueError(f"{folder} holds an adapter of other modules: {sorted(result.unexpected_keys)[:3]}.")

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def _without_prefix(state: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("base_model.model."): value for key, value in state.items()}


def save_checkpoint(accelerator: Accelerator, output_dir: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write `checkpoint-STEP` aside and move it in when whole; then remove the oldest beyond `keep`.

    Args:
        accelerator: every process must call.
        output_dir: the run's folder.
        step: optimizer steps done.
        state: what the run needs beside Accelerate's own state; JSON.
        keep: how many checkpoints stay.
    """
    folder = output_dir / f"checkpoint-{step}"
    aside = output_dir / f".checkpoint-{step}.tmp"
    if accelerator.is_main_process:
        shutil.rmtree(aside, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(aside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_text(aside / _STATE, json.dumps(state | {"step": step}, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        for old in _checkpoints(output_dir)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return folder


def load_checkpoint(accelerator: Accelerator, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Bring model, optimizer, schedule, scaler and random streams to a checkpoint's state; returns the run's own.

    Args:
        accelerator: every process must call.
        folder: the checkpoint.
        settings: what an exact continuation must share with the run that wrote it, by name.

    Raises:
        ValueError: another number of processes or other settings wrote it, or it is damaged.
    """
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(folder, error) from error
    others = [
        f"{name} {state['settings'][name]} then, {value} now"
        for name, value in settings.items()
        if name in state.get("settings", {}) and state["settings"][name] != value
    ]
    if others:
        raise ValueError(
            f"{folder} was written with other settings ({'; '.join(others)}): give the same ones again, or leave out "
            "--resume_from_checkpoint to begin anew."
        )
    if state["num_processes"] != accelerator.num_processes:
        raise ValueError(
            f"{folder} was written by {state['num_processes']} processes, this run has {accelerator.num_processes}: "
            "an exact continuation needs the same number."
        )
    try:
        accelerator.load_state(str(folder))
    except (SafetensorError, RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise _damaged(folder, error) from error
    return state


def _damaged(folder: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(
        f"The checkpoint {folder} is damaged ({reason}): move it away and give --resume_from_checkpoint another one, "
        "or latest."
    )


def find_checkpoint(output_dir: Path, wanted: str) -> Path:
    """The checkpoint to continue from: a folder, or "latest" for the newest of the run.

    Raises:
        FileNotFoundError: it isn't there, or isn't whole.
    """
    if wanted == "latest":
        found = _checkpoints(output_dir)
        if not found:
            raise FileNotFoundError(
                f"resume_from_checkpoint is latest, but {output_dir} has no checkpoint: leave it out to begin anew."
            )
        return found[-1]
    folder = Path(wanted)
    if not (folder / _STATE).is_file():
        raise FileNotFoundError(
            f"resume_from_checkpoint {wanted!r} is no whole checkpoint (no {_STATE} in it): expected a folder "
            f"checkpoint-STEP, or latest."
        )
    return folder


def _checkpoints(output_dir: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    steps = {
        int(match[1]): path
        for path in output_dir.glob("checkpoint-*")
        if (match := _NAME.match(path.name)) and (path / _STATE).is_file()
    }
    return [steps[step] for step in sorted(steps)]
