"""Label maps that were softened at their borders, by interpolation or JPEG, so that the values there are no labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

__all__ = ["LabelValues", "describe_softened"]

_SOFTENED = (
    "it is anti-aliased/softened at its border (blurred, resized with interpolation, or once a JPEG): give each pixel "
    "one label, e.g. 255 where the value is at least 128 and 0 elsewhere, without interpolation, and save it losslessly"
)


class LabelValues:
    """The values of a data set's label maps, and the maps of which most values occur only between two others.

    A label has somewhere a square of 3 × 3 pixels. A value between two labels has none: its pixels have neighbours
    below and above it, in every channel of a coloured mask.
    """

    def __init__(self) -> None:
        self.values: set[int] = set()
        self._labels: set[int] = set()  # values that fill a square somewhere
        self._suspects: dict[str, tuple[set[int], int]] = {}  # by map: values on borders only, number of its values

    def add(self, name: object, label: np.ndarray) -> None:
        """Count a label map of integers, `(height, width)` or slices of it; colours are 0xRRGGBB in uint32."""
        parts = label.reshape(-1, *label.shape[-2:])
        for part in parts:
            values = np.unique(part) if part.dtype == np.uint32 else np.flatnonzero(np.bincount(part.ravel()))
            self.values.update(values.tolist())
            # The slices of a scan are looked at only if they have more values than most label maps.
            if len(values) <= (2 if len(parts) == 1 else 8):
                self._labels.update(values.tolist())
                continue
            squares, between = _find_borders(part, values)
            self._labels.update(values[squares].tolist())
            if (soft := set(values[~squares & between].tolist())) and str(name) not in self._suspects:
                self._suspects[str(name)] = (soft, len(values))

    def softened(self) -> str:
        """A sentence on the first map that is softened; empty if none is."""
        for name, (soft, count) in self._suspects.items():
            if 2 * (number := len(soft - self._labels)) > count - 2:
                return f"{name} has {count} values, {number} of them only between two others: {_SOFTENED}"
        return ""


def describe_softened(label: np.ndarray) -> str:
    """What to add to the error on a label map with unexpected values if these come from softening; else empty."""
    found = LabelValues()
    found.add("", label)
    return f"; {_SOFTENED}" if found.softened() else ""


def _find_borders(label: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each value fills a square of 3 × 3, and whether most of its pixels lie between lower and higher ones."""
    channels: Sequence[np.ndarray] = [label]
    if label.dtype == np.uint32:
        channels = [(label >> shift & 255).astype(np.uint8) for shift in (16, 8, 0)]
    square, between = np.ones(label.shape, bool), np.ones(label.shape, bool)
    for channel in channels:
        low, high = minimum_filter(channel, 3), maximum_filter(channel, 3)
        square &= low == high
        between &= (low == high) | ((low < channel) & (channel < high))
    index = np.searchsorted(values, label.ravel())
    pixels = np.bincount(index, minlength=len(values))
    squares, betweens = (
        np.bincount(index, weights.ravel(), minlength=len(values)) for weights in (square, between & ~square)
    )
    return squares > 0, 2 * betweens >= pixels
