"""Scans of several frames, such as a beating heart or a contrast series, read one frame after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..utils.text import printable
from .geometry import Volume
from .images import luminance

__all__ = ["Frames", "Layout", "choose_frames", "color_layout", "convert_colors", "select_images", "split_shape"]


@dataclass(frozen=True)
class Frames:
    """The frames of a scan, volumes on one grid.

    Attributes:
        count: Number of frames in the file; of images their number.
        indices: Frames to read, counted from 0, ascending.
        volumes: Yields the volume of each of these frames, read when it is asked for; of images one volume, whose
            slices they are.
    """

    count: int
    indices: tuple[int, ...]
    volumes: Iterator[Volume]

    def only(self, path: Path) -> Volume:
        """Return the volume of a scan of one frame; a `ValueError` if it has several."""
        if len(self.indices) > 1:
            raise ValueError(
                f"{printable(path)} holds {self.count} frames, expected one 3-D volume; read one of them, "
                "or save each in a file of its own."
            )
        return next(self.volumes)


@dataclass(frozen=True)
class Layout:
    """How the axes of a file are used: `(x, y, z[, frames][, channels])`."""

    grid: tuple[int, int, int]
    frames: int
    channels: int
    are_grey: bool = False  # whether the channels are colours for a model of one

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one frame: `(x, y, z)` or `(x, y, z, channels)`."""
        return self.grid if self.channels == 1 else (*self.grid, self.channels)


def color_layout(path: Path, shape: Sequence[int], colors: int, num_channels: int) -> Layout:
    """[`split_shape`] for voxels of red, green, blue and perhaps alpha, for a model of one channel or three."""
    layout = split_shape(path, (*shape, *[1] * (3 - len(shape)), colors), colors)
    return replace(layout, are_grey=num_channels == 1)


def convert_colors(array: np.ndarray, layout: Layout) -> tuple[np.ndarray, tuple[str, ...]]:
    """Convert a frame `(x, y, z, 3 or 4)` in a layout of [`color_layout`] to RGB or grey, with a note on it."""
    if layout.are_grey:
        return luminance(np.moveaxis(array[..., :3], -1, 0)), ("its colours were converted to grey",)
    return array[..., :3], ()


def split_shape(path: Path, shape: Sequence[int], num_channels: int) -> Layout:
    """Tell frames from channels in the shape `(x, y[, z[, ...]])` of a header, for a model of `num_channels`.

    Two axes are one slice. After z, axes of length 1 are left out. For one channel the remaining axis counts frames;
    for several the last one counts the channels, and one before it frames.

    Raises:
        ValueError: An empty image, one of fewer axes or with another number of channels.
    """
    images = [length for length in shape[3:] if length != 1]
    channels = images[-1:] if num_channels > 1 else []
    frames = images[: len(images) - len(channels)]
    if len(shape) >= 2 and min(shape) > 0 and channels == [num_channels] * (num_channels > 1) and len(frames) < 2:
        x, y, z = (*shape, 1)[:3]
        return Layout((x, y, z), frames[0] if frames else 1, num_channels)
    if num_channels == 1:
        expected = "a 3-D volume, or frames along a fourth axis; save them so"
    else:
        expected = (
            f"{num_channels} channels on its last axis; save them so, or each channel in one file: "
            "case_0000, case_0001 and so on"
        )
    raise ValueError(f"{printable(path)} holds an image of shape {tuple(shape)}, expected {expected}.")


def choose_frames(path: Path, count: int, frames: Sequence[int] | None) -> tuple[int, ...]:
    """Return the requested frames of a scan of `count`, ascending and each once; all for `None`."""
    if frames is None:
        return tuple(range(count))
    if unknown := [index for index in frames if not 0 <= index < count]:
        has = f"{count} frames, 0 to {count - 1}" if count > 1 else "one frame, 0"
        raise ValueError(f"{printable(path)} has {has}, but frame {unknown[0]} is requested; choose among these.")
    return tuple(sorted(set(frames)))


def select_images(volume: Volume, path: Path, frames: Sequence[int] | None) -> Frames:
    """The frames of a volume that has been read: the slices of images, or the volume itself."""
    count = volume.grid[2] if volume.is_image else 1
    indices = choose_frames(path, count, frames)
    if len(indices) < count:
        header = volume.header
        if of_file := getattr(header, "frames", None):  # DICOM-SEG refers to the frames of the file
            header = replace(header, frames=tuple(of_file[index] for index in indices))
        volume = replace(volume, array=volume.array[:, :, list(indices)], header=header)
    return Frames(count, indices, iter([volume]))
