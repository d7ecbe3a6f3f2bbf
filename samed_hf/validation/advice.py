"""How to train on a validated data set: settings, batch size, command and the memory they need."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from ..data.dataset import CaseDataset
from ..diagnostics.memory import MemoryEstimate, StepSettings
from .fingerprint import make_fingerprint
from .measuring import CaseFacts
from .run import Validation
from .suggestions import Suggestion, suggest_settings

__all__ = ["Advice", "directory_name", "make_advice", "suggest_batch", "training_command"]

_BATCH_SIZES = (12, 6, 4, 3, 2, 1)  # the paper's 12, and those that accumulate to it
_SHARE = 0.8
"""Share of a device's memory that a training may use."""


@dataclass(frozen=True)
class Advice:
    """A data set's fingerprint and how to train on it.

    Attributes:
        fingerprint: of all cases; see [`make_fingerprint`].
        suggestions: settings, each with its reason.
        command: `samed-hf train` with these settings.
        model: path or Hub id of the base model.
        memory: memory of the base model at the suggested image size, on this machine's device.
    """

    fingerprint: dict[str, Any]
    suggestions: list[Suggestion]
    command: str
    model: str
    memory: MemoryEstimate


def make_advice(
    validation: Validation, *, model: str, base_config: Mapping[str, Any], flags: Sequence[str] = ()
) -> Advice:
    """Suggest settings for a training on a validated data set.

    Args:
        validation: at least one of its cases could be read.
        model: path or Hub id of the base model, for the command.
        base_config: content of the base model's config.json.
        flags: flags of `samed-hf train` that the user has chosen already, such as those that name the data.
    """
    data, processor = validation.data, validation.processor
    suggestions = suggest_settings(make_fingerprint(data, processor, _cases_to_trust(validation)), processor)
    size = next(one.value for one in suggestions if one.setting == "image_size")
    fused = torch.accelerator.is_available()
    memory = MemoryEstimate(base_config, StepSettings(image_size=size, num_labels=len(data.id2label), fused=fused))
    suggestions += suggest_batch(memory, *_available_memory())
    flags = ["--model_name_or_path", model, *flags, "--output_dir", f"outputs/{directory_name(data)}"]
    fingerprint = make_fingerprint(data, processor, validation.cases)
    return Advice(fingerprint, suggestions, training_command(suggestions, flags), model, memory)


def suggest_batch(estimate: MemoryEstimate, available: int, device: str) -> list[Suggestion]:
    """Suggest the largest batch size that fits into memory.

    Args:
        estimate: the model's memory.
        available: bytes that a training may use.
        device: description of the device, for the reason.
    """
    name, giga = "per_device_train_batch_size", 1e9
    size = next((size for size in _BATCH_SIZES if estimate.training(size).total <= available), None)
    limit = f"a training may use {available / giga:.1f} GB of {device}"
    accumulation = "12 slices a step, as in the paper"
    if size is None:
        need = estimate.training(1, gradient_checkpointing=True).total / giga
        reason = f"{limit}, less than one slice needs; with gradient checkpointing it needs about {need:.1f} GB"
        return [
            Suggestion(name, 1, reason),
            Suggestion("gradient_accumulation_steps", _BATCH_SIZES[0], accumulation),
            Suggestion("gradient_checkpointing", True, "computes the encoder twice instead of storing its activations"),
        ]
    suggestions = [Suggestion(name, size, f"needs about {estimate.training(size).total / giga:.1f} GB; {limit}")]
    if steps := _BATCH_SIZES[0] // size - 1:
        suggestions.append(Suggestion("gradient_accumulation_steps", steps + 1, accumulation))
    return suggestions


def training_command(settings: Sequence[Suggestion], flags: Sequence[str]) -> str:
    """Return the command of a training, quoted for a shell.

    Args:
        settings: suggested settings.
        flags: flags that name model, data and output.
    """
    return shlex.join(["samed-hf", "train", *flags, *(flag for one in settings for flag in one.flags)])


def directory_name(data: CaseDataset) -> str:
    """Make a directory name of the data set's name."""
    name = str(data.about.get("name") or Path(str(data.root)).name)
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.").lower() or "data"


def _cases_to_trust(validation: Validation) -> list[CaseFacts]:
    """Return the cases with plausible intensities, if any: mistakes in a few must not decide on the window."""
    kinds = ("units", "range", "constant", "not-finite")
    doubtful = {problem.case for problem in validation.problems if problem.kind in kinds}
    readable = [facts for facts in validation.cases if facts.sample is not None]
    return [facts for facts in readable if facts.name not in doubtful] or readable


def _available_memory() -> tuple[int, str]:
    """Return the bytes that a training may use here, and of which device."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        return int(_SHARE * properties.total_memory), f"{properties.name}'s {properties.total_memory / 1e9:.0f} GB"
    total = psutil.virtual_memory().total
    return int(_SHARE * total), f"this machine's {total / 1e9:.0f} GB (it has no GPU)"
