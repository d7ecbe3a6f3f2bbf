"""How to train on a validated data set: settings with their reasons, batch size, command and memory."""

import math
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
from ..model.image_processing_samed import SamedImageProcessor
from ..reporting.formatting import format_sides
from ..reporting.preview import slice_plane
from ..transforms.intensity import CT_WINDOW, guess_preprocessing
from ..utils.text import name_some
from .case_checks import looks_like_ct
from .fingerprint import make_fingerprint
from .run import Validation

__all__ = ["Advice", "Suggestion", "directory_name", "make_advice", "suggest_settings"]

_SIZES = (128, 256, 384, 512)
_MIN_POINTS = 4.0  # of the logits, in a slice of a label
_MAX_CONTEXT_MM = 3.0
_ANATOMY = {"axial": "up_down", "coronal": "front_back", "sagittal": "left_right"}
_BATCH_SIZES = (12, 6, 4, 3, 2, 1)  # the paper's 12, and those that accumulate to it
_SHARE = 0.8  # of a device's memory that a training may use


@dataclass(frozen=True)
class Suggestion:
    """A suggested setting of a training, with its reason for people."""

    setting: str  # name of the flag
    value: Any  # `None` if training's default fits
    reason: str

    @property
    def flags(self) -> list[str]:
        """The flag with its values for `samed-hf train`; empty if training's default fits."""
        if self.value is None:
            return []
        if self.value is True:
            return [f"--{self.setting}"]
        values = self.value if isinstance(self.value, list | tuple) else [self.value]
        return [f"--{self.setting}", *(f"{value:g}" if isinstance(value, float) else str(value) for value in values)]

    @property
    def text(self) -> str:
        """The flags in one string; "no --SETTING" if training's default fits."""
        return " ".join(self.flags) or f"no --{self.setting}"


@dataclass(frozen=True)
class Advice:
    """A data set's fingerprint and how to train on it."""

    fingerprint: dict[str, Any]  # of all cases; see [`make_fingerprint`]
    suggestions: list[Suggestion]
    command: str  # `samed-hf train` with these settings
    model: str  # path or Hub id of the base model
    memory: MemoryEstimate  # of the base model at the suggested image size, on this machine's device


def make_advice(
    validation: Validation, *, model: str, base_config: Mapping[str, Any], flags: Sequence[str] = ()
) -> Advice:
    """Suggest settings for a training on a validated data set, of which at least one case could be read.

    `base_config` is the content of the base model's config.json; `flags` of `samed-hf train` are chosen already.
    """
    data, processor = validation.data, validation.processor
    # Mistakes in a few cases must not decide on the window.
    kinds = ("units", "range", "constant", "not-finite")
    doubtful = {problem.case for problem in validation.problems if problem.kind in kinds}
    readable = [facts for facts in validation.cases if facts.sample is not None]
    trusted = [facts for facts in readable if facts.name not in doubtful] or readable
    suggestions = suggest_settings(make_fingerprint(data, processor, trusted), processor)
    size = next(one.value for one in suggestions if one.setting == "image_size")
    fused = torch.accelerator.is_available()
    memory = MemoryEstimate(base_config, StepSettings(image_size=size, num_labels=len(data.id2label), fused=fused))
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        total = properties.total_memory
        device = f"{properties.name}'s {total / 1e9:.0f} GB"
    else:
        total = psutil.virtual_memory().total
        device = f"this machine's {total / 1e9:.0f} GB (it has no GPU)"
    suggestions += suggest_batch(memory, int(_SHARE * total), device)
    flags = ["--model_name_or_path", model, *flags, "--output_dir", f"outputs/{directory_name(data)}"]
    fingerprint = make_fingerprint(data, processor, validation.cases)
    return Advice(fingerprint, suggestions, training_command(suggestions, flags), model, memory)


def suggest_batch(estimate: MemoryEstimate, available: int, device: str) -> list[Suggestion]:
    """Suggest the largest batch size that fits into the `available` bytes of a device."""
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
    if size < _BATCH_SIZES[0]:
        suggestions.append(Suggestion("gradient_accumulation_steps", _BATCH_SIZES[0] // size, accumulation))
    return suggestions


def training_command(settings: Sequence[Suggestion], flags: Sequence[str]) -> str:
    """Return the command of a training, quoted for a shell; `flags` name model, data and output."""
    return shlex.join(["samed-hf", "train", *flags, *(flag for one in settings for flag in one.flags)])


def directory_name(data: CaseDataset) -> str:
    """Make a directory name of the data set's name."""
    name = str(data.about.get("name") or Path(str(data.root)).name)
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.").lower() or "data"


def suggest_settings(fingerprint: Mapping[str, Any], processor: SamedImageProcessor) -> list[Suggestion]:
    """Suggest preprocessing, image size, plane and context slices for a data set with a [`make_fingerprint`].

    `processor` is how its scans were cut and scaled.
    """
    current = "axial" if processor.orientation is None else slice_plane(processor.orientation, processor.axis_order[0])
    settings, plane = [_preprocessing(fingerprint, processor)], current
    if not (fingerprint["data"]["pictures"] or fingerprint["data"]["layout"] == "Synapse"):
        plane, suggestion = _plane(fingerprint, current)
        settings.append(suggestion)
    return [*settings, _image_size(fingerprint, plane, current), _context(fingerprint, plane, current)]


def _preprocessing(fingerprint: Mapping[str, Any], processor: SamedImageProcessor) -> Suggestion:
    data, name = fingerprint["data"], "preprocessing"
    if data["layout"] == "Synapse":
        return Suggestion(name, None, "the slices' intensities are windowed to [0, 1] already")
    if data["pictures"]:
        return Suggestion(name, None, "the intensities of 2-D images are used as they are")
    presets = guess_preprocessing(data["channels"])
    if len(fingerprint["intensity"]) != 1:
        several = ", ".join(f"{channel} as {preset}" for channel, preset in zip(data["channels"], presets, strict=True))
        return Suggestion(name, None, f"by the names of the channels: {several}")
    (intensity,), channel = fingerprint["intensity"].values(), data["channels"][0]
    percentiles = intensity["all"]["percentiles"]
    if presets == ["ct"]:
        return _ct_window(intensity, "CT by its name")
    if looks_like_ct(percentiles["1"], percentiles["99.5"]):
        return _ct_window(intensity, "CT, as its intensities reach from air to bone")
    if presets == ["mr"]:
        low, high = processor.percentiles or (0.5, 99.5)
        reason = f"{channel!r} is no CT: each scan's percentiles {low:g} and {high:g} become 0 and 1"
        return Suggestion(name, "mr", reason)
    return Suggestion(name, presets[0], f"{channel!r} is used as it is, by its name")


def _ct_window(intensity: Mapping[str, Any], why: str) -> Suggestion:
    """Suggest SAMed's window if the labels' intensities fill it, or a window for them."""
    name, usual = "preprocessing", f"SAMed's window of {CT_WINDOW[0]:g} to {CT_WINDOW[1]:g} HU"
    if intensity["min"] >= 0:
        return Suggestion(name, None, f"{why}, but its intensities aren't Hounsfield units: correct them first")
    if intensity["foreground"] is None:
        return Suggestion(name, "ct", f"{why}; {usual}, as there are no labels")
    # The outermost percentiles may be those of gas in a stomach or of clips in a vein.
    low, high = (intensity["foreground"]["percentiles"][key] for key in ("5", "95"))
    spread = f"{why}; 90 % of the labelled voxels are between {low:g} and {high:g} HU"
    inside = low >= CT_WINDOW[0] and high <= CT_WINDOW[1]
    if inside and high - low >= (CT_WINDOW[1] - CT_WINDOW[0]) / 8:
        return Suggestion(name, "ct", f"{spread}, within {usual}")
    margin = max(20.0, 0.5 * (high - low))
    own = (5 * math.floor((low - margin) / 5), 5 * math.ceil((high + margin) / 5))
    return Suggestion("intensity_window", own, f"{spread}; the window has half of this range as margin on either side")


def _image_size(fingerprint: Mapping[str, Any], plane: str, current: str) -> Suggestion:
    shape = fingerprint["shape"]
    sides = [shape["height"]["median"], shape["width"]["median"]]
    if plane != current:
        sides = [side for axis, side in fingerprint["shape_by_anatomy"].items() if axis != _ANATOMY[plane]]
    side = max(sides)
    size = next((size for size in _SIZES if size >= 2 * side), _SIZES[-1])
    reason = f"slices have {side:g} pixels along their longer side (median); "
    if size >= 2 * side:
        reason += "at least twice as many, as the logits have a quarter of the input's side"
    elif side <= size:
        reason += "the size of the paper"
    else:
        reason += f"the size of the paper, which makes them {side / size:.2g} times smaller"
    points = (size / 4) ** 2 / (sides[0] * sides[1])  # of the logits in a pixel
    areas = {name: label["area_pixels"] or math.inf for name, label in fingerprint["labels"].items()}
    small = [name for name, area in areas.items() if plane == current and area * points < _MIN_POINTS]
    if small:
        reason += f"; fewer than {_MIN_POINTS:g} points of the logits show {name_some(small, 5)}"
        reason += ": a larger size may help"
    return Suggestion("image_size", size, reason)


def _plane(fingerprint: Mapping[str, Any], current: str) -> tuple[str, Suggestion]:
    spacing = fingerprint["spacing_by_anatomy_mm"]
    value = None if current == "axial" else current
    if spacing is None:
        return current, Suggestion("plane", value, f"{current}; no file has a spacing")
    best = max(_ANATOMY, key=lambda plane: spacing[_ANATOMY[plane]])
    voxel = f"(voxels of {format_sides([*spacing.values()])} mm left-right, front-back, up-down)"
    if spacing[_ANATOMY[best]] < 1.2 * spacing[_ANATOMY[current]]:
        return current, Suggestion("plane", value, f"{current}: no other plane has clearly finer pixels {voxel}")
    return best, Suggestion("plane", best, f"{best}: slices with the finest pixels {voxel}")


def _context(fingerprint: Mapping[str, Any], plane: str, current: str) -> Suggestion:
    name = "context_slices"
    spacing, channels = fingerprint["spacing_mm"], len(fingerprint["data"]["channels"])
    if channels > 3:
        return Suggestion(
            "channel_projection", True, f"SAM takes three of {channels} channels; --channels chooses them"
        )
    if channels > 1:
        return Suggestion(name, None, f"no: the {channels} channels fill the model's three")
    if spacing is None or fingerprint["shape"]["slices"]["median"] < 3:
        return Suggestion(name, None, "no: there are no neighbouring slices at a known distance")
    distance, pixel = spacing["slices"]["median"], max(spacing["height"]["median"], spacing["width"]["median"])
    if plane != current:
        by_axis = dict(fingerprint["spacing_by_anatomy_mm"])
        distance, pixel = by_axis.pop(_ANATOMY[plane]), max(by_axis.values())
    measure = f"slices are {distance:.3g} mm apart, {distance / pixel:.2g} times a pixel's side"
    if distance <= _MAX_CONTEXT_MM and distance <= 3 * pixel:
        return Suggestion(name, True, f"{measure}: close enough to help each other")
    return Suggestion(name, None, f"no: {measure}")
