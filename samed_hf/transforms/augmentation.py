"""Intensity window and augmentation of slices: pure functions with an explicit generator.

Rotations and scalings sample at scipy's positions and with its rule for the border, but several times faster.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage, special

if TYPE_CHECKING:
    from .zoom import Array

__all__ = ["SAMED_AUGMENTATION", "Augmentation", "augment", "default_augmentation", "window_intensity"]


def window_intensity(image: Array, window: Sequence[float]) -> Array:
    """Clip to an intensity window and scale it to [0, 1].

    Args:
        image: array or tensor of any shape and real dtype, in the window's unit (HU for CT).
        window: the lower and the upper bound; SAMed's is (-125, 275) HU.

    Returns:
        float32 in [0, 1], of the same shape and on the same device.
    """
    low, high = (float(bound) for bound in window)
    if not low < high:
        raise ValueError(f"window is ({low}, {high}): expected a lower and a higher bound, e.g. (-125, 275).")
    if not isinstance(image, np.ndarray):
        return (image.float().clamp(low, high) - low) / (high - low)
    clipped = np.clip(image, np.float32(low), np.float32(high), dtype=np.float32)
    return (clipped - np.float32(low)) / np.float32(high - low)


class Augmentation(NamedTuple):
    """Probabilities and ranges of the changes to a training slice.

    Attributes:
        mirror: probability of swapping left and right, a slice's columns. Not for labels that have a side.
        flip_rot90: probability of a random quarter turn and a random flip. Not for labels that have a side.
        rotation: probability of a rotation about the centre, among the slices without quarter turn.
        degrees: the rotation's angle is uniform in [-degrees, degrees).
        order: spline degree with which a rotation samples the image; 0 is nearest neighbour. Labels always use 0.
        whole_degrees: draw whole numbers of degrees only.
        scaling, scale: probability of scaling about the centre, by a factor uniform in [1 - scale, 1 + scale].
        gamma: probability of raising the image's intensities, in [0, 1], to a power between 1/1.5 and 1.5.
    """

    mirror: float = 0.0
    flip_rot90: float = 0.0
    rotation: float = 0.5
    degrees: float = 20.0
    order: int = 1
    whole_degrees: bool = False
    scaling: float = 0.0
    scale: float = 0.2
    gamma: float = 0.0


# The reference implementation's (github.com/hitachinsk/SAMed): a quarter turn and a flip for half of the slices, a
# rotation with nearest-neighbour sampling for half of the others.
SAMED_AUGMENTATION = Augmentation(flip_rot90=0.5, rotation=0.5, degrees=20.0, order=0, whole_degrees=True)


def default_augmentation(label_names: Iterable[str], *, left_right: bool = True) -> Augmentation:
    """The default augmentation: rotation, scaling, gamma, and mirroring if no label has a side, as "left kidney" has.

    The mirror image of such a label is another organ. Nothing is mirrored either if the columns of the slices do not
    run from one side of the body to the other (`left_right`).
    """
    sided = not left_right or any({"left", "right"} & set(re.findall(r"[a-z]+", name.lower())) for name in label_names)
    return Augmentation(mirror=0.0 if sided else 0.5, scaling=0.5, gamma=0.5)


def augment(
    image: np.ndarray, label: np.ndarray, augmentation: Augmentation, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Vary one slice and its label map at random.

    Args:
        image: `(height, width)` or `(channels, height, width)`, floating point.
        label: `(height, width)`, integer.
        augmentation: probabilities and ranges.
        generator: the only source of randomness.

    Returns:
        Image and label, contiguous, of the shapes given (a quarter turn swaps height and width).
    """
    if augmentation.mirror and generator.random() < augmentation.mirror:
        image, label = image[..., ::-1], label[..., ::-1]
    if generator.random() < augmentation.flip_rot90:
        turns, axis = int(generator.integers(0, 4)), int(generator.integers(0, 2))
        image, label = (rotate_flip(array, turns, axis) for array in (image, label))
    elif generator.random() < augmentation.rotation:
        angle = generator.uniform(-augmentation.degrees, augmentation.degrees)
        angle = float(np.floor(angle)) if augmentation.whole_degrees else angle
        image, label = rotate(image, angle, augmentation.order), rotate(label, angle, 0)
    if augmentation.scaling and generator.random() < augmentation.scaling:
        factor = generator.uniform(1 - augmentation.scale, 1 + augmentation.scale)
        image, label = enlarge(image, factor, augmentation.order), enlarge(label, factor, 0)
    if augmentation.gamma and generator.random() < augmentation.gamma:
        power = 1.5 ** generator.uniform(-1, 1)
        image = np.clip(image, 0, 1) ** image.dtype.type(power)
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


def rotate_flip(array: np.ndarray, turns: int, axis: int) -> np.ndarray:
    """Rotate `(…, height, width)` by `turns` quarter turns, then flip it along `axis` 0 (rows) or 1; a view."""
    return np.flip(np.rot90(array, turns, axes=(-2, -1)), axis=axis - 2)


def enlarge(array: np.ndarray, factor: float, order: int) -> np.ndarray:
    """Enlarge `(…, height, width)` about its centre by a spline of degree `order`; zeros enter at the border."""
    if _is_for_scipy(array, order):
        centre = (np.array(array.shape[-2:]) - 1) / 2
        matrix, offset = [1 / factor] * 2, centre - centre / factor
        planes = array.reshape(-1, *array.shape[-2:])
        enlarged = [ndimage.affine_transform(plane, matrix, offset, order=order) for plane in planes]
        return np.stack(enlarged).reshape(array.shape)
    return _enlargement(array.shape[-2:], factor).sample(array, order)


def rotate(array: np.ndarray, degrees: float, order: int) -> np.ndarray:
    """Rotate `(…, height, width)` about its centre by a spline of degree `order`; zeros enter at the border."""
    if _is_for_scipy(array, order):
        return ndimage.rotate(array, degrees, axes=(-1, -2), order=order, reshape=False)
    return _rotation(array.shape[-2:], degrees).sample(array, order)


def _is_for_scipy(array: np.ndarray, order: int) -> bool:
    """Whether scipy computes it: splines of higher degree, integers to be rounded, images of one row or column."""
    return order > 1 or (order == 1 and array.dtype.kind != "f") or min(array.shape[-2:]) < 2


# Image and label map of a slice are rotated in turn: the positions are the same.
@lru_cache(maxsize=1)
def _rotation(shape: tuple[int, int], degrees: float) -> _Positions:
    cosine, sine = special.cosdg(degrees), special.sindg(degrees)
    matrix, centre = np.array([[cosine, sine], [-sine, cosine]]), (np.array(shape) - 1) / 2
    offset = centre - matrix @ centre
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])
    # Summed in scipy's order, so that positions on the border round alike.
    from_rows, from_columns = (offset[i] + rows * matrix[i, 0] + columns * matrix[i, 1] for i in (0, 1))
    return _Positions(from_rows, from_columns, shape)


@lru_cache(maxsize=1)
def _enlargement(shape: tuple[int, int], factor: float) -> _Positions:
    centre, step = (np.array(shape) - 1) / 2, 1 / factor
    shift = (centre - centre / factor) / step
    return _Positions((np.arange(shape[0])[:, None] + shift[0]) * step, (np.arange(shape[1]) + shift[1]) * step, shape)


class _Positions:
    """The positions, in pixels, in an image of a shape `(height, width)` at which the transformed one is sampled."""

    def __init__(self, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> None:
        self.rows, self.columns, self.shape = rows, columns, shape
        # scipy samples positions beyond the centres of the outermost pixels as zeros.
        self.outside = (rows < 0) | (rows > shape[0] - 1) | (columns < 0) | (columns > shape[1] - 1)

    @cached_property
    def nearest(self) -> np.ndarray:
        """Index of the pixel at each position, counted through the image."""
        return self._index((self.rows + 0.5).astype(np.int64), (self.columns + 0.5).astype(np.int64))

    @cached_property
    def linear(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Index of the upper left of the four pixels around each position, and the distances down and right from it."""
        up = np.minimum(self.rows.astype(np.int64), self.shape[0] - 2)
        left = np.minimum(self.columns.astype(np.int64), self.shape[1] - 2)
        return self._index(up, left), self.rows - up, self.columns - left

    def _index(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        index = rows * self.shape[1] + columns
        np.copyto(index, 0, where=self.outside)
        return index

    def sample(self, array: np.ndarray, order: int) -> np.ndarray:
        """Sample an array `(…, *shape)` by nearest neighbour (`order` 0) or linearly (1)."""
        flat, width = array.reshape(*array.shape[:-2], -1), self.shape[1]
        if order == 0:
            moved = flat.take(self.nearest, axis=-1)
        else:
            index, *distances = self.linear
            down, right = (distance.astype(array.dtype) for distance in distances)
            corners = (flat[..., first:].take(index, axis=-1) for first in (0, 1, width, width + 1))
            moved, upper_right, lower, lower_right = corners
            moved += (upper_right - moved) * right
            lower += (lower_right - lower) * right
            moved += (lower - moved) * down
        np.copyto(moved, 0, where=self.outside)
        return moved
