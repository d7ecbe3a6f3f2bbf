"""Limits on the size of what is read, checked before memory is taken for it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..utils.text import printable

__all__ = ["InputLimitError", "InputLimits"]

# Pillow opens no image of more pixels than _LOCAL has.
_LOCAL = {"side": 65_535, "pixels": 178_956_970, "slices": 20_000, "voxels": 1 << 33, "bytes": 1 << 36}
_SERVED = {"side": 10_000, "pixels": 25_000_000, "slices": 512, "voxels": 1 << 27, "bytes": 1 << 30}


class InputLimitError(ValueError):
    """An input is larger than the [`InputLimits`], and intact as far as it was read."""


@dataclass(frozen=True)
class InputLimits:
    """The largest input that is read. Something larger is an [`InputLimitError`] before memory is taken for it.

    The environment variables `SAMED_MAX_SIDE`, `SAMED_MAX_PIXELS`, `SAMED_MAX_SLICES`, `SAMED_MAX_VOXELS` and
    `SAMED_MAX_BYTES` replace the values of [`local`] and [`served`].

    Attributes:
        side: Length of any axis, in voxels or pixels.
        pixels: Number of pixels of an image, or of a slice.
        slices: Number of slices of a scan.
        voxels: Number of voxels of a scan, in all its frames.
        bytes: Size of a file, decompressed.
    """

    side: int
    pixels: int
    slices: int
    voxels: int
    bytes: int

    @classmethod
    def local(cls) -> InputLimits:
        """Return the limits for files on the user's machine, which the commands read."""
        return cls._from_environment(_LOCAL)

    @classmethod
    def served(cls) -> InputLimits:
        """Return the limits for what others send to a server: a CT of 512 slices of 512 × 512, an image of 25 MP."""
        return cls._from_environment(_SERVED)

    @classmethod
    def _from_environment(cls, defaults: dict[str, int]) -> InputLimits:
        values = {}
        for name, default in defaults.items():
            stated = os.environ.get(f"SAMED_MAX_{name.upper()}") or str(default)
            if not stated.isdecimal() or int(stated) < 1:
                raise ValueError(f"SAMED_MAX_{name.upper()} is {stated!r}: expected a whole number of at least 1.")
            values[name] = int(stated)
        return cls(**values)

    def check(self, path: str | Path, **found: int) -> None:
        """Refuse a file, which messages call `path`, of which more than a limit was found, e.g. `slices=2000`."""
        for name, number in found.items():
            if number > (most := getattr(self, name)):
                what = "pixels along a side" if name == "side" else name
                raise InputLimitError(
                    f"{printable(path)} has {number:,} {what}, expected at most {most:,}; make it smaller, or raise "
                    f"the limit: SAMED_MAX_{name.upper()}, or {name} of InputLimits."
                )

    def check_shape(self, path: str | Path, shape: Sequence[int]) -> None:
        """[`check`] for the shape `(x, y, z[, frames])` of a scan, whose slices may lie across any axis."""
        self.check(path, side=max(shape[:3], default=0), voxels=math.prod(shape))

    def check_slices(self, path: str | Path, shape: Sequence[int]) -> None:
        """[`check`] for slices of shape `(slices, ..., height, width)`."""
        self.check(path, slices=shape[0], side=max(shape[-2:]), pixels=shape[-2] * shape[-1])

    def check_stack(self, path: str | Path, shape: Sequence[int]) -> None:
        """[`check`] for an array `([slices,] height, width)` of a file, also for the number of its voxels."""
        if len(shape) >= 2:  # other shapes are refused once they are read
            self.check_slices(path, (shape[0] if len(shape) > 2 else 1, *shape[-2:]))
        self.check(path, voxels=math.prod(shape))
