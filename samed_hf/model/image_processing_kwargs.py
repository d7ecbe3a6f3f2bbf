"""The keyword arguments of [`SamedImageProcessor`], transformers' own and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.image_processing_utils import get_size_dict
from transformers.processing_utils import ImagesKwargs

from .configuration_samed import MAX_CHANNELS

__all__ = ["KEYWORDS", "SETTINGS", "SamedImageProcessorKwargs", "check_call", "check_fixed", "replaced", "square_side"]


class SamedImageProcessorKwargs(ImagesKwargs, total=False):
    """Keyword arguments of [`SamedImageProcessor`], of its constructor and of a call.

    Attributes:
        rescaled (`bool`, *optional*): whether intensities other than uint8 are in [0, 1] already.
    """

    image_size: int | None
    intensity_window: Sequence[Any] | None
    input_size: int | None
    axis_order: Sequence[int] | None
    orientation: str | None
    percentiles: Sequence[float] | None
    channel_names: Sequence[str] | None
    context_slices: bool | None
    channels: Sequence[int] | None
    rescaled: bool | None


KEYWORDS = tuple(SamedImageProcessorKwargs.__annotations__)
# Settings, which a call can replace; the other keywords are options of a call.
SETTINGS = ("size", *(name for name in KEYWORDS if name not in ImagesKwargs.__annotations__ and name != "rescaled"))
# What the model's training fixes: the values of transformers' keywords that say the same.
_FIXED: dict[str, tuple[Any, ...]] = {
    "resample": (None,),
    "rescale_factor": (None, 1 / 255),
    "do_normalize": (None, False),
    "do_pad": (None, False),
    "do_center_crop": (None, False),
}
# Scans aren't prepared by calls, so a processor that skips a step would treat images and scans differently.
_FIXED_BUT_IN_CALLS = {"do_resize": (None, True), "do_rescale": (None, True), "rescaled": (None, False)}


def replaced(own: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """A constructor's arguments `own` with the settings taken out of a call's `options`; empty without any."""
    settings = {name: options.pop(name) for name in SETTINGS if name in options}
    # Of these, `None` replaces nothing.
    settings = {k: v for k, v in settings.items() if v is not None or k not in ("size", "image_size", "axis_order")}
    if "size" in settings:
        own = {name: value for name, value in own.items() if name != "image_size"}
    return own | settings if settings else {}


def square_side(image_size: int | None, size: Any) -> int:
    """The side in pixels that `image_size` and transformers' `size` name."""
    if size is None:
        return 512 if image_size is None else image_size
    sides = dict(get_size_dict(size))
    side = sides.get("height", 0)
    if sides != {"height": side, "width": side} or image_size not in (None, side):
        raise ValueError(
            f"size is {sides}, image_size {image_size}: expected one of them, or the same square in both, e.g. "
            "{'height': 512, 'width': 512}."
        )
    return side


def check_fixed(kwargs: dict[str, Any], fixed: dict[str, tuple[Any, ...]] | None = None) -> None:
    """Refuse values of transformers' keywords that contradict the model's training."""
    for name, values in (fixed or _FIXED | _FIXED_BUT_IN_CALLS).items():
        if kwargs.get(name) not in values:
            also = f"; a call can be given {name}={kwargs[name]}" if name in _FIXED_BUT_IN_CALLS else ""
            raise ValueError(
                f"{name} is {kwargs[name]!r}: expected {values[-1]}, as the model was trained{also}. Intensities are "
                "scaled by intensity_window or percentiles, and images are zoomed by cubic splines."
            )


def check_names(channel_names: Any) -> list[str] | None:
    """The names of the channels as strings."""
    if not isinstance(channel_names, list | tuple | None):
        raise ValueError(f"channel_names is {channel_names!r}: expected a list of names.")
    return None if channel_names is None else [str(name) for name in channel_names]


def check_channels(channels: Any, names: Sequence[str] | None, context_slices: bool) -> list[int] | None:
    """The indices of the chosen channels as a list; with context slices the model must see one channel."""
    known = range(1 if names is None else len(names))
    seen = list(channels if isinstance(channels, list | tuple) else known)
    if not 1 <= len(known) <= MAX_CHANNELS or (context_slices and len(seen) > 1):
        raise ValueError(
            f"channel_names is {names}, channels {channels}, context_slices {context_slices}: expected 1 to "
            f"{MAX_CHANNELS} channels, and one where the neighbouring slices fill the others."
        )
    are_indices = all(type(one) is int and one in known for one in seen) and 1 <= len({*seen}) == len(seen) <= 3
    if channels is not None and not (isinstance(channels, list | tuple) and are_indices):
        raise ValueError(
            f"channels is {channels}: expected one to three different indices of the {len(known)} channels."
        )
    return None if channels is None else seen


def check_call(options: dict[str, Any]) -> None:
    """Refuse options of a call: what contradicts the model's training, and devices that aren't there."""
    check_fixed(options, _FIXED)
    try:
        torch.empty(0, device=options["device"])
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {options['device']!r}: expected a device of this machine. ({reason})") from error
