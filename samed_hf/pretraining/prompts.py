"""Masks to ask for in a label map, and the points and boxes that ask for them."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["choose_masks", "draw_box", "draw_point", "worst_point"]

_FEWEST_PIXELS, _LARGEST_SHARE = 16, 0.6


def choose_masks(regions: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray | None:
    """Choose connected parts of the regions of a label map, large ones more often.

    Args:
        regions: of shape `(height, width)`, integers from 0.
        count: number of masks; some are the same if there are fewer parts.
        generator: the only source of randomness.

    Returns:
        Masks of shape `(count, height, width)`, bool, of 16 pixels to 60 % of the image, or `None` if there are none.
    """
    parts, areas = [], []
    for region in range(int(regions.max()) + 1):
        labels, number = ndimage.label(regions == region)
        sizes = np.bincount(labels.ravel(), minlength=number + 1)
        for part in range(1, number + 1):
            if _FEWEST_PIXELS <= sizes[part] <= _LARGEST_SHARE * regions.size:
                parts.append((labels, part))
                areas.append(sizes[part])
    if not parts:
        return None
    weights = np.array(areas) ** 0.3
    chosen = generator.choice(len(parts), count, p=weights / weights.sum(), replace=len(parts) < count)
    return np.stack([parts[index][0] == parts[index][1] for index in chosen])


def draw_point(mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A uniformly drawn pixel of a mask `(height, width)`: x and y of its centre in pixels, float32."""
    indices = np.flatnonzero(mask)
    row, column = divmod(int(indices[generator.integers(len(indices))]), mask.shape[1])
    return np.array([column + 0.5, row + 0.5], np.float32)


def draw_box(mask: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
    """The box of a mask: x and y of two corners in pixels, float32, of shape `(4,)`.

    With a generator each side moves at random, by a twentieth of the box's length on average.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
    if generator is None:
        return box
    lengths = np.tile(box[2:] - box[:2], 2)
    return box + (0.05 * generator.standard_normal(4) * lengths).clip(-20, 20).astype(np.float32)


def worst_point(predicted: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The pixel farthest inside the errors of a predicted mask, and whether it belongs to the mask (1) or not (0).

    Without errors it is the pixel farthest inside the mask. Both masks have the shape `(height, width)`; the point is x
    and y of its centre in pixels, float32.
    """
    errors = predicted != mask
    inside = np.pad(errors if errors.any() else mask, 1)
    depth = ndimage.distance_transform_cdt(inside, metric="chessboard")[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), mask.shape[1])
    return np.array([column + 0.5, row + 0.5], np.float32), int(mask[row, column])
