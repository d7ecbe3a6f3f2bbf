"""Intensity window, zooms and augmentation of slices: pure functions, randomness from an explicit generator.

A cubic spline zoom between two fixed sizes is linear and separable, so it is two small matrix products; the matrices
come from scipy's own zoom of the identity and the results equal scipy's. An order-0 zoom is a table of indices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

__all__ = [
    "Augmentation",
    "augment",
    "default_augmentation",
    "nearest_indices",
    "nearest_zoom",
    "spline_matrix",
    "spline_zoom",
    "window_intensity",
]


def window_intensity(image: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """Clip to an intensity window and scale it to [0, 1].

    Args:
        image: any shape, any real dtype, in the window's unit (HU for CT).
        window: the lower and the upper bound; SAMed's is (-125, 275) HU.

    Returns:
        float32 array of the same shape in [0, 1].

    Raises:
        ValueError: the bounds are not two increasing numbers.
    """
    low, high = (float(bound) for bound in window)
    if not low < high:
        raise ValueError(f"window is ({low}, {high}): expected a lower and a higher bound, e.g. (-125, 275).")
    clipped = np.clip(image, np.float32(low), np.float32(high), dtype=np.float32)
    return (clipped - np.float32(low)) / np.float32(high - low)


@lru_cache(maxsize=64)
def spline_matrix(size: int, new_size: int, order: int = 3) -> np.ndarray:
    """Matrix `(new_size, size)`, float64, of scipy's spline zoom along one axis, read-only."""
    identity = np.eye(size)
    matrix = ndimage.zoom(identity, (new_size / size, 1), order=order) if new_size != size else identity
    matrix.setflags(write=False)
    return matrix


def spline_zoom(image: np.ndarray, size: tuple[int, int], order: int = 3) -> np.ndarray:
    """Zoom the last two axes by spline interpolation, as `scipy.ndimage.zoom` does.

    Args:
        image: of shape `(..., height, width)`, any real dtype.
        size: the new height and width in pixels.
        order: degree of the spline; SAMed's is 3.

    Returns:
        Array of shape `(..., *size)`; float64 for float64 input, else float32. A cubic spline overshoots at edges: the
        range can be slightly wider than the input's.
    """
    dtype = np.float64 if image.dtype == np.float64 else np.float32
    if image.shape[-2:] == tuple(size):
        return image.astype(dtype)
    rows = spline_matrix(image.shape[-2], size[0], order).astype(dtype)
    columns = spline_matrix(image.shape[-1], size[1], order).astype(dtype)
    return rows @ image.astype(dtype, copy=False) @ columns.T


@lru_cache(maxsize=64)
def nearest_indices(size: int, new_size: int) -> np.ndarray:
    """Indices `(new_size,)`, int64 in [0, size), that scipy's order-0 zoom samples along one axis, read-only."""
    indices = np.arange(size)
    if new_size != size:
        indices = ndimage.zoom(indices, new_size / size, order=0)
    indices.setflags(write=False)
    return indices


def nearest_zoom(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Zoom the last two axes by nearest neighbour at scipy's sampling positions; shape `(..., *size)`, same dtype."""
    if label.shape[-2:] == tuple(size):
        return label
    rows, columns = nearest_indices(label.shape[-2], size[0]), nearest_indices(label.shape[-1], size[1])
    return label[..., rows[:, None], columns]


class Augmentation(NamedTuple):
    """How a training slice is varied.

    Attributes:
        mirror: probability of swapping left and right, a slice's columns. Not for labels that have a side.
        flip_rot90: probability of a random quarter turn followed by a random mirroring. It swaps left and right, so it
            isn't for labels that have a side.
        rotation: probability of a rotation about the centre, among the slices that were not turned and mirrored.
        degrees: the rotation's angle is uniform in [-degrees, degrees).
        order: spline degree with which a rotation samples the image; 0 is nearest neighbour. Labels always use 0.
        whole_degrees: draw whole numbers of degrees only.
        scaling: probability of enlarging or shrinking the slice about its centre, by a factor uniform in [1 - scale,
            1 + scale].
        scale: see `scaling`.
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


# What the reference implementation does: half of the slices are turned and mirrored, half of the others rotated with
# nearest-neighbour sampling.
SAMED_AUGMENTATION = Augmentation(flip_rot90=0.5, rotation=0.5, degrees=20.0, order=0, whole_degrees=True)


def default_augmentation(label_names: Iterable[str], *, left_right: bool = True) -> Augmentation:
    """The sound choice for labels of these names: rotation, scaling, gamma, and mirroring where none has a side.

    A label has a side where its name says left or right, as "left kidney": its mirror image is another organ.

    Args:
        label_names: the names.
        left_right: whether a slice's columns run from one side of the body to the other; else nothing is mirrored.
    """
    sided = not left_right or any({"left", "right"} & set(re.findall(r"[a-z]+", name.lower())) for name in label_names)
    return Augmentation(mirror=0.0 if sided else 0.5, scaling=0.5, gamma=0.5)


def augment(
    image: np.ndarray, label: np.ndarray, augmentation: Augmentation, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Vary one slice and its label map at random.

    Args:
        image: of shape `(height, width)` or `(channels, height, width)`, floating point.
        label: of shape `(height, width)`, integer.
        augmentation: what may happen.
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
        image = rotate(image, angle, augmentation.order)
        label = rotate(label, angle, 0)
    if augmentation.scaling and generator.random() < augmentation.scaling:
        factor = generator.uniform(1 - augmentation.scale, 1 + augmentation.scale)
        image, label = enlarge(image, factor, augmentation.order), enlarge(label, factor, 0)
    if augmentation.gamma and generator.random() < augmentation.gamma:
        power = 1.5 ** generator.uniform(-1, 1)
        image = np.clip(image, 0, 1) ** image.dtype.type(power)
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


def rotate_flip(array: np.ndarray, turns: int, axis: int) -> np.ndarray:
    """Turn `(…, height, width)` by `turns` quarter turns, then mirror it along `axis` 0 (rows) or 1; a view."""
    return np.flip(np.rot90(array, turns, axes=(-2, -1)), axis=axis - 2)


def enlarge(array: np.ndarray, factor: float, order: int) -> np.ndarray:
    """Enlarge what `(…, height, width)` shows about its centre by a spline of degree `order`, zeros coming in."""
    if array.ndim > 2:
        return np.stack([enlarge(one, factor, order) for one in array])
    centre = (np.array(array.shape) - 1) / 2
    return ndimage.affine_transform(array, [1 / factor] * 2, centre - centre / factor, order=order)


def rotate(array: np.ndarray, degrees: float, order: int) -> np.ndarray:
    """Rotate `(…, height, width)` about its centre by `degrees` with a spline of degree `order`, zeros coming in."""
    if array.ndim > 2:
        return np.stack([rotate(one, degrees, order) for one in array])
    return ndimage.rotate(array, degrees, order=order, reshape=False)
