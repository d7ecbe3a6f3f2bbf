"""The image processor that fits a data set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ..model.image_processing_samed import SamedImageProcessor
from ..transforms.intensity import PREPROCESSING, guess_preprocessing, preprocessing_settings
from ..volumes.file_checks import NotFiniteError
from .arguments import DataArguments
from .dataset import CaseDataset

__all__ = ["PLANES", "make_processor", "slice_side"]

PLANES = {"axial": ((2, 1, 0), "LPS"), "coronal": ((1, 2, 0), "LPI"), "sagittal": ((0, 2, 1), "LPI")}
"""Axes that become slices, rows and columns, and the orientation in which the head or the front is above."""


def make_processor(args: DataArguments, data: CaseDataset, image_size: int | None = None) -> SamedImageProcessor:
    """Make the image processor of a data set; training stores it with the adapter.

    Args:
        args: the plane, the orientation and the intensities; what they leave open depends on the data.
        data: the data set, with the names of its channels.
        image_size: side of the model's input in pixels; defaults to 512.

    Raises:
        ValueError: a plane other than axial of data that consists of slices, an unknown channel, or more than three
            channels without a choice or a projection.
    """
    if args.plane not in (None, "axial") and (data.is_2d or data.is_sliced):
        raise ValueError(f"plane is {args.plane}, but {data.root} holds slices ({data.layout}): expected whole scans.")
    if args.plane == "all":
        raise ValueError("plane is all: expected one plane here; samed-hf train alone trains an adapter of each.")
    axis_order, orientation = PLANES[args.plane or "axial"]
    names = data.channel_names
    channels = None if args.channels is None else choose_channels(args.channels, names, data.root)
    if channels is None and (len(names) > 3) != args.channel_projection:
        raise ValueError(
            f"{data.root} has {len(names)} channels ({', '.join(names)[:200]}), SAM three: choose up to three by "
            "--channels A,B,C, or let --channel_projection learn three of them."
            if len(names) > 3
            else f"channel_projection is given, but {data.root} has {len(names)} channels: expected more than three."
        )
    presets = (
        [args.preprocessing] * len(names) if args.preprocessing else guess_preprocessing(names, pictures=data.is_2d)
    )
    if channels is not None:  # those of channels that aren't used must not contradict the others
        presets = [preset if index in channels else presets[channels[0]] for index, preset in enumerate(presets)]
    settings = preprocessing_settings(presets)
    if data.intensity_range is not None and settings == PREPROCESSING["picture"]:
        settings["intensity_window"] = data.intensity_range
    if args.intensity_window is not None:
        settings["intensity_window"] = args.intensity_window
    return SamedImageProcessor(
        image_size or 512,
        input_size=data.input_size,
        axis_order=axis_order,
        orientation=args.orientation or (orientation if data.orientation == "LPS" else data.orientation),
        channel_names=data.channel_names,
        context_slices=args.context_slices,
        channels=channels,
        **settings,
    )


def choose_channels(text: str, names: Sequence[str], root: object) -> list[int]:
    """The indices of the channels in "A,B,C", which are names or numbers from 0."""
    chosen: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        found = {index for index, name in enumerate(names) if name == part}
        found = found or {index for index, name in enumerate(names) if name.lower() == part.lower()}
        found |= {int(part)} & set(range(len(names))) if part.isdecimal() else set()
        if len(found) != 1:
            known = ", ".join(f"{index} {name}" for index, name in enumerate(names))
            what = "is the name or number of several channels" if found else "is no channel"
            raise ValueError(f"channels is {text!r}: {part!r} {what} of {root}, expected some of {known}.")
        chosen += found
    if len(set(chosen)) < len(chosen) or len(chosen) > 3:
        raise ValueError(f"channels is {text!r}: expected one to three different channels.")
    return chosen


def slice_side(data: CaseDataset, processor: SamedImageProcessor) -> int:
    """Return the longer side in pixels of the slices of the first training case with finite intensities."""
    for name in data.train[:-1]:
        with suppress(NotFiniteError):
            return max(data.read_raw(name, processor).label.shape[1:])
    return max(data.read_raw(data.train[-1], processor).label.shape[1:])
