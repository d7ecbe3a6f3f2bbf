"""The image processor that fits a data set."""

from __future__ import annotations

from contextlib import suppress

from ..model.image_processing_samed import SamedImageProcessor
from ..transforms.intensity import PREPROCESSING, guess_preprocessing, preprocessing_settings
from ..volumes.file_checks import NotFiniteError
from .arguments import DataArguments
from .dataset import CaseDataset

__all__ = ["make_processor", "slice_side"]

_PLANES = {"axial": ((2, 1, 0), "LPS"), "coronal": ((1, 2, 0), "LPI"), "sagittal": ((0, 2, 1), "LPI")}
"""Axes that become slices, rows and columns, and the orientation in which the head or the front is above."""


def make_processor(args: DataArguments, data: CaseDataset, image_size: int | None = None) -> SamedImageProcessor:
    """Make the image processor of a data set; training stores it with the adapter.

    Args:
        args: the plane, the orientation and the intensities; what they leave open depends on the data.
        data: the data set, with the names of its channels.
        image_size: side of the model's input in pixels; defaults to 512.

    Raises:
        ValueError: a plane other than axial of data that consists of slices.
    """
    if args.plane not in (None, "axial") and (data.is_2d or data.layout == "Synapse"):
        raise ValueError(f"plane is {args.plane}, but {data.root} holds slices ({data.layout}): expected whole scans.")
    axis_order, orientation = _PLANES[args.plane or "axial"]
    presets = [args.preprocessing] * len(data.channel_names) if args.preprocessing else None
    settings = preprocessing_settings(presets or guess_preprocessing(data.channel_names, pictures=data.is_2d))
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
        **settings,
    )


def slice_side(data: CaseDataset, processor: SamedImageProcessor) -> int:
    """Return the longer side in pixels of the slices of the first training case with finite intensities."""
    for name in data.train[:-1]:
        with suppress(NotFiniteError):
            return max(data.read_raw(name, processor).label.shape[1:])
    return max(data.read_raw(data.train[-1], processor).label.shape[1:])
