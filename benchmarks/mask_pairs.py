"""Pairs of masks on which scores are compared with other libraries: random ones, and 40 degenerate ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

__all__ = ["MaskPair", "degenerate_pairs", "random_pairs"]

_SPACINGS = ((1.0, 1.0, 1.0), (0.7, 0.7, 0.7), (3.0, 0.7421875, 0.7421875), (1.1, 0.3, 2.7))
_ISOTROPIC = _SPACINGS[0]


class MaskPair(NamedTuple):
    """Boolean masks of one shape with two or three axes, and the spacing in mm along each."""

    name: str
    prediction: np.ndarray
    label: np.ndarray
    spacing: tuple[float, ...]

    @property
    def empty(self) -> str:
        """Which masks are empty: "", "label", "prediction" or "both"."""
        names = [name for name in ("label", "prediction") if not getattr(self, name).any()]
        return "both" if len(names) == 2 else "".join(names)


def random_pairs(count: int, seed: int = 0) -> Iterator[MaskPair]:
    """Make pairs in 2-D and 3-D by turns, of sides up to 40 pixels or 16 voxels and four spacings."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        ndim = 2 + number % 2
        shape = tuple(rng.integers(1, 40 if ndim == 2 else 16, ndim).tolist())
        label = _random_mask(rng, shape)
        is_alike = rng.random() < 0.5
        prediction = label ^ (rng.random(shape) < 0.05) if is_alike else _random_mask(rng, shape)
        yield MaskPair(f"random {number}", prediction, label, _SPACINGS[number // 2 % len(_SPACINGS)][-ndim:])


def _random_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """One voxel, blobs, or a block of random density; rarely nothing."""
    mask = np.zeros(shape, bool)
    kind = rng.integers(4)
    if kind == 0:
        mask[tuple(rng.integers(shape))] = True
    elif kind == 1:
        mask = gaussian_filter(rng.normal(size=shape), 2) > 0.05
    else:
        block = tuple(slice(*sorted(rng.integers(0, length + 1, 2))) for length in shape)
        mask[block] = rng.random(mask[block].shape) < rng.choice([0.02, 0.5, 1.0])
    return mask


def degenerate_pairs() -> list[MaskPair]:
    """Make 40 pairs: empty, full and one-voxel masks, at the border, thin, nested, with holes, of one slice, 2-D."""
    shape = (9, 12, 10)
    empty, full = np.zeros(shape, bool), np.ones(shape, bool)
    grid = np.indices(shape)
    voxel, cube, small = _block(shape, (4, 5, 5)), _block(shape, (2, 3, 3), 5), _block(shape, (3, 4, 4), 3)
    corner, far = _block(shape, (0, 0, 0)), _block(shape, (8, 11, 9))
    hollow, shell = cube & ~small, _block(shape, (1, 1, 1), 7) & ~cube
    slab, wall = grid[0] == 4, grid[1] == 6
    line, diagonal = (grid[0] == 4) & (grid[1] == 6), (grid[0] == grid[1]) & (grid[1] == grid[2])
    board = grid.sum(axis=0) % 2 == 0
    islands = (grid % 3 == 0).all(axis=0)
    two = _block(shape, (2, 3, 1), 3) | _block(shape, (2, 3, 6), 3)
    pairs = {
        "both empty": (empty, empty),
        "prediction empty, label full": (empty, full),
        "prediction full, label empty": (full, empty),
        "both full": (full, full),
        "prediction empty, label one voxel": (empty, voxel),
        "prediction one voxel, label empty": (voxel, empty),
        "one voxel, the same": (voxel, voxel),
        "one voxel, the next": (voxel, np.roll(voxel, 1, 0)),
        "one voxel, the diagonal next": (voxel, np.roll(voxel, (1, 1, 1), (0, 1, 2))),
        "one voxel in opposite corners": (corner, far),
        "one voxel in a cube": (voxel, cube),
        "a cube around one voxel": (cube, voxel),
        "one voxel, label full": (voxel, full),
        "identical cubes": (cube, cube),
        "cubes, shifted by a voxel": (np.roll(cube, 1, 2), cube),
        "disjoint cubes": (_block(shape, (0, 0, 0), 3), _block(shape, (5, 7, 6), 3)),
        "cubes that touch at a face": (_block(shape, (1, 1, 1), 3), _block(shape, (4, 1, 1), 3)),
        "cubes that touch at an edge": (_block(shape, (1, 1, 1), 3), _block(shape, (4, 4, 1), 3)),
        "cubes that touch at a corner": (_block(shape, (1, 1, 1), 3), _block(shape, (4, 4, 4), 3)),
        "nested cubes": (small, cube),
        "a cube and one with a hole": (cube, hollow),
        "a hole's filling and its cube": (small, hollow),
        "a cube and the shell around it": (cube, shell),
        "cubes at the border": (_block(shape, (0, 0, 0), 4), _block(shape, (0, 1, 0), 4)),
        "faces at opposite borders": (grid[0] == 0, grid[0] == 8),
        "slabs of one voxel, shifted": (slab, np.roll(slab, 1, 0)),
        "slabs of one voxel that cross": (slab, wall),
        "a line and its slab": (line, slab),
        "a diagonal of corners and a line": (diagonal, line),
        "a chessboard and its complement": (board, ~board),
        "a chessboard and one of its voxels": (board, board & voxel | corner),
        "one prediction over two lesions": (two | (grid[0] == 3) & (grid[1] == 4), two),
        "islands and half of them": (islands, islands & (grid[0] < 4)),
    }
    found = [MaskPair(name, *masks, _ISOTROPIC) for name, masks in pairs.items()]
    thick, thin = (5.0, 0.7, 0.7), (0.05, 0.05, 20.0)
    found.append(MaskPair("slices of 5 mm, shifted by one", np.roll(cube, 1, 0), cube, thick))
    found.append(MaskPair("voxels of 0.05 × 0.05 × 20 mm", np.roll(cube, (1, 2, 1), (0, 1, 2)), cube, thin))
    found.append(MaskPair("one slice", _block((1, 9, 9), (0, 2, 2), 4), _block((1, 9, 9), (0, 3, 2), 4), thick))
    found.append(MaskPair("one row of voxels", _block((1, 1, 9), (0, 0, 2), 3), _block((1, 1, 9), (0, 0, 4), 3), thin))
    found.append(MaskPair("one voxel in all", np.ones((1, 1, 1), bool), np.ones((1, 1, 1), bool), _ISOTROPIC))
    ring = _block((12, 12), (2, 2), 8) & ~_block((12, 12), (4, 4), 4)
    found.append(MaskPair("2-D, a ring and its square", ring, _block((12, 12), (2, 2), 8), (1.5, 0.5)))
    found.append(MaskPair("2-D, prediction empty, label one pixel", np.zeros((5, 5), bool), np.eye(5) > 0, (1.0, 1.0)))
    return found


def _block(shape: tuple[int, ...], start: tuple[int, ...], side: int = 1) -> np.ndarray:
    """A block of equal sides, cut off at the border."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(first, first + side) for first in start)] = True
    return mask
