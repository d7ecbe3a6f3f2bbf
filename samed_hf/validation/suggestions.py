"""Settings that suit a data set, each with its reason, and the command that trains with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..model.image_processing_samed import SamedImageProcessor
from ..transforms.intensity import CT_WINDOW, guess_preprocessing

__all__ = ["Suggestion", "looks_like_ct", "suggest_settings"]

_SIZES = (128, 256, 384, 512)
_SMALL = 4.0
_CONTEXT_MM = 3.0
_PLANES = {"axial": "up_down", "coronal": "front_back", "sagittal": "left_right"}
_PLANE_OF_LETTER = {"R": "sagittal", "L": "sagittal", "A": "coronal", "P": "coronal", "S": "axial", "I": "axial"}


@dataclass(frozen=True)
class Suggestion:
    """One setting.

    Attributes:
        setting: name of the flag.
        value: as it would be given; `None` where training's own choice fits.
        reason: why, for people.
    """

    setting: str
    value: Any
    reason: str

    @property
    def flags(self) -> list[str]:
        """The flag with its values, as `samed-hf train` takes it; nothing where training's own choice fits."""
        if self.value is None:
            return []
        if self.value is True:
            return [f"--{self.setting}"]
        values = self.value if isinstance(self.value, list | tuple) else [self.value]
        return [f"--{self.setting}", *(f"{value:g}" if isinstance(value, float) else str(value) for value in values)]

    @property
    def text(self) -> str:
        """The flags in one string; "no --SETTING" where training's default fits."""
        return " ".join(self.flags) or f"no --{self.setting}"


def suggest_settings(fingerprint: Mapping[str, Any], processor: SamedImageProcessor) -> list[Suggestion]:
    """Intensities, image size, plane and context slices that suit a data set.

    Args:
        fingerprint: of [`~samed_hf.validation.fingerprint.make_fingerprint`].
        processor: how its scans were cut and scaled.
    """
    letter = None if processor.orientation is None else processor.orientation[processor.axis_order[0]]
    own = _PLANE_OF_LETTER.get(letter, "axial")
    settings = [_intensities(fingerprint, processor)]
    plane = own
    if not (fingerprint["data"]["pictures"] or fingerprint["data"]["layout"] == "Synapse"):
        plane, suggestion = _plane(fingerprint, own)
        settings.append(suggestion)
    return [*settings, _image_size(fingerprint, plane, own), _context(fingerprint, plane, own)]


def _intensities(fingerprint: Mapping[str, Any], processor: SamedImageProcessor) -> Suggestion:
    data = fingerprint["data"]
    name = "preprocessing"
    if data["layout"] == "Synapse":
        return Suggestion(name, None, "the slices hold windowed intensities in [0, 1] already")
    if data["pictures"]:
        return Suggestion(name, None, "pictures are taken as they are")
    channels = list(fingerprint["intensity"].values())
    presets = guess_preprocessing(data["channels"])
    if len(channels) != 1:
        several = ", ".join(f"{channel} as {preset}" for channel, preset in zip(data["channels"], presets, strict=True))
        return Suggestion(name, None, f"by the names of the channels: {several}")
    intensity, channel = channels[0], data["channels"][0]
    if presets == ["ct"] or looks_like_ct(
        intensity["all"]["percentiles"]["1"], intensity["all"]["percentiles"]["99.5"]
    ):
        return _ct_window(intensity, "CT by its name" if presets == ["ct"] else "reaches from air to bone, so it is CT")
    low, high = processor.percentiles or (0.5, 99.5)
    reason = f"{channel!r} is no CT: each scan's own percentiles {low:g} and {high:g} become 0 and 1"
    return Suggestion(name, presets[0], reason if presets == ["mr"] else f"{channel!r} is taken as it is, by its name")


def looks_like_ct(low: float, high: float) -> bool:
    """Whether the percentiles 1 and 99.5 of intensities are those of air and of bone, in Hounsfield units."""
    return -1100 <= low <= -200 and high > 100


def _ct_window(intensity: Mapping[str, Any], why: str) -> Suggestion:
    """SAMed's window where the labels' intensities fill it, else one of their own."""
    name, usual = "preprocessing", f"{CT_WINDOW[0]:g} to {CT_WINDOW[1]:g} HU"
    if intensity["min"] >= 0:
        return Suggestion(name, None, f"{why}, but its intensities aren't Hounsfield units: mend them first")
    if intensity["foreground"] is None:
        return Suggestion(name, "ct", f"{why}; without labels, SAMed's window of {usual}")
    foreground = intensity["foreground"]["percentiles"]
    # Gas in a stomach and clips in a vein would decide on the outermost percentiles.
    low, high = foreground["5"], foreground["95"]
    lies = f"{why}; nine tenths of the labelled voxels lie between {low:g} and {high:g} HU"
    inside = low >= CT_WINDOW[0] and high <= CT_WINDOW[1]
    if inside and high - low >= (CT_WINDOW[1] - CT_WINDOW[0]) / 8:
        return Suggestion(name, "ct", f"{lies}, within SAMed's window of {usual}")
    margin = max(20.0, 0.5 * (high - low))
    own = (5 * math.floor((low - margin) / 5), 5 * math.ceil((high + margin) / 5))
    return Suggestion("intensity_window", own, f"{lies}; a window of their own, half as wide again on either side")


def _image_size(fingerprint: Mapping[str, Any], plane: str, own: str) -> Suggestion:
    shape = fingerprint["shape"]
    sides = [shape["height"]["median"], shape["width"]["median"]]
    if plane != own:
        sides = [side for axis, side in fingerprint["shape_by_anatomy"].items() if axis != _PLANES[plane]]
    side = max(sides)
    size = next((size for size in _SIZES if size >= 2 * side), _SIZES[-1])
    reason = f"slices have {side:g} pixels along their longer side (median); "
    if size >= 2 * side:
        reason += "at least twice as many, so that a point of the logits, a quarter of the input, covers two pixels"
    elif side <= size:
        reason += "the size of the paper"
    else:
        reason += f"the size of the paper, which makes them {side / size:.2g} times smaller"
    cells = (size / 4) ** 2 / (sides[0] * sides[1])
    small = [
        name
        for name, label in fingerprint["labels"].items()
        if plane == own and label["area_pixels"] and label["area_pixels"] * cells < _SMALL
    ]
    if small:
        reason += f"; fewer than {_SMALL:g} points of the logits show {', '.join(small[:5])}: a larger size may help"
    return Suggestion("image_size", size, reason)


def _plane(fingerprint: Mapping[str, Any], own: str) -> tuple[str, Suggestion]:
    spacing = fingerprint["spacing_by_anatomy_mm"]
    chosen = None if own == "axial" else own
    if spacing is None:
        return own, Suggestion("plane", chosen, f"{own}; no file says its spacing")
    voxel = " × ".join(f"{side:.3g}" for side in spacing.values())
    best = max(_PLANES, key=lambda plane: spacing[_PLANES[plane]])
    if spacing[_PLANES[best]] < 1.2 * spacing[_PLANES[own]]:
        reason = (
            f"{own}: no other plane has clearly finer pixels (voxels of {voxel} mm left-right, front-back, up-down)"
        )
        return own, Suggestion("plane", chosen, reason)
    reason = f"{best}: slices with the finest pixels (voxels of {voxel} mm left-right, front-back, up-down)"
    return best, Suggestion("plane", best, reason)


def _context(fingerprint: Mapping[str, Any], plane: str, own: str) -> Suggestion:
    name = "context_slices"
    spacing, channels = fingerprint["spacing_mm"], len(fingerprint["data"]["channels"])
    if channels > 1:
        return Suggestion(name, None, f"no: the {channels} channels fill the model's three")
    if spacing is None or fingerprint["shape"]["slices"]["median"] < 3:
        return Suggestion(name, None, "no: there are no neighbouring slices at a known distance")
    between, pixel = spacing["slices"]["median"], max(spacing["height"]["median"], spacing["width"]["median"])
    if plane != own:
        by_axis = dict(fingerprint["spacing_by_anatomy_mm"])
        between, pixel = by_axis.pop(_PLANES[plane]), max(by_axis.values())
    apart = f"slices lie {between:.3g} mm apart, {between / pixel:.2g} times a pixel's side"
    if between <= _CONTEXT_MM and between <= 3 * pixel:
        return Suggestion(name, True, f"{apart}: near enough to tell of each other")
    return Suggestion(name, None, f"no: {apart}")
