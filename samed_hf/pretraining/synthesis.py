"""Random images with their label maps, drawn from a seed: what the small base model is pretrained on.

Domain randomisation, as in SynthSeg (arXiv 2107.09559) and anatomix (arXiv 2411.02372): shapes, intensities, texture,
blur, resolution, bias field and noise vary far beyond those of real scans, so that no real image is needed.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

__all__ = ["SyntheticImage", "draw_image", "draw_regions"]


class SyntheticImage(NamedTuple):
    """A synthetic image.

    Attributes:
        image: of shape `(3, size, size)`, float32 in [0, 1]: grey (equal channels), three neighbouring slices, or
            colour.
        clean: the same without blur, texture, bias field and noise; of any range.
        regions: of shape `(size, size)`, int64: the region of each pixel, in the middle one of three slices.
    """

    image: np.ndarray
    clean: np.ndarray
    regions: np.ndarray


def draw_image(size: int, generator: np.random.Generator) -> SyntheticImage:
    """Draw one image of `size` pixels a side; `generator` is the only source of randomness."""
    regions = draw_regions(size, generator)
    kind = generator.choice(["grey", "slices", "colour"], p=[0.4, 0.3, 0.3])
    channels = 1 if kind == "grey" else 3
    maps = [regions] * channels
    if kind == "slices":
        shift = _fields(2, size, generator.integers(2, 6), generator) * generator.uniform(0.5, 4) * size / 128
        growth = generator.uniform(-0.06, 0.06)
        maps = [_move(regions, side * shift, 1 + side * growth) for side in (-1, 0, 1)]
    count = int(regions.max()) + 1
    levels = [_draw_levels(count, generator) for _ in range(3 if kind == "colour" else 1)]
    clean = np.stack([levels[channel % len(levels)][labels] for channel, labels in enumerate(maps)]).astype(np.float32)
    image = _degrade(clean + _draw_texture(maps, count, generator), generator)
    image, clean = (np.broadcast_to(one, (3, size, size)) for one in (image, clean))
    return SyntheticImage(image, clean, regions)


def draw_regions(size: int, generator: np.random.Generator) -> np.ndarray:
    """Draw a label map of shape `(size, size)`, int64, of smooth regions and organ-like shapes.

    The background is a mosaic, the bands between levels of a smooth field, or one region. Up to twelve shapes lie on
    it: ellipses with displaced outlines, curved tubes, nested and divided ones. A third has a body on a background.
    """
    background = generator.choice(["mosaic", "bands", "plain"], p=[0.45, 0.25, 0.3])
    if background == "mosaic":
        regions = _fields(generator.integers(2, 11), size, generator.integers(2, 9), generator).argmax(axis=0)
    elif background == "bands":
        field = _fields(1, size, generator.integers(1, 6), generator)[0]
        shares = np.sort(generator.random(generator.integers(1, 6)))
        regions = np.digitize(field, np.quantile(field[::2, ::2], shares))
    else:
        regions = np.zeros((size, size), np.int64)
    displacements = _fields(6, size, generator.integers(2, 7), generator)
    for _ in range(generator.integers(2, 13) if background == "plain" else generator.integers(0, 10)):
        _paint_shape(regions, displacements, generator)
    if generator.random() < 0.35:
        rows, columns = _coordinates(size)
        outline = (rows + 0.06 * displacements[0]) / generator.uniform(0.6, 1.1)
        outline = outline**2 + ((columns + 0.06 * displacements[1]) / generator.uniform(0.6, 1.1)) ** 2
        regions[outline > 1] = regions.max() + 1
    present = np.bincount(regions.ravel()) > 0  # numbers without a gap
    return (np.cumsum(present) - 1)[regions]


def _paint_shape(regions: np.ndarray, displacements: np.ndarray, generator: np.random.Generator) -> None:
    """Paint a shape with one or two new numbers over `regions`."""
    first = generator.integers(0, len(displacements) - 1)
    rows, columns = _coordinates(len(regions))
    strength = generator.uniform(0, 0.12)
    rows = rows + strength * displacements[first] - generator.uniform(-0.85, 0.85)
    columns = columns + strength * displacements[first + 1] - generator.uniform(-0.85, 0.85)
    radius, stretch = math.exp(generator.uniform(math.log(0.05), math.log(0.7))), math.exp(generator.uniform(-0.9, 0.9))
    sine, cosine = np.sin(angle := generator.uniform(0, math.pi)), np.cos(angle)
    along, across = (rows * cosine + columns * sine) / (radius * stretch), (columns * cosine - rows * sine) * stretch
    across = across / radius
    distance = along**2 + across**2
    inside, style, new = distance < 1, generator.random(), int(regions.max()) + 1
    if style < 0.2:  # a curved tube
        curve = 0.6 * np.sin(2.5 * along + generator.uniform(0, 6))
        inside &= abs(across - curve) < generator.uniform(0.12, 0.45)
    regions[inside] = new
    if style > 0.75:  # one inside the other
        regions[distance < generator.uniform(0.35, 0.8) ** 2] = new + 1
    elif style > 0.5:  # two that touch
        regions[inside & (along > generator.uniform(-0.4, 0.4))] = new + 1


def _draw_levels(count: int, generator: np.random.Generator) -> np.ndarray:
    """Mean intensities in [0, 1] of `count` regions: in most images evenly spread, in the others independent."""
    levels = generator.random(count)
    return (generator.permutation(count) + levels) / count if generator.random() < 0.7 else levels


def _draw_texture(maps: list[np.ndarray], count: int, generator: np.random.Generator) -> np.ndarray:
    """Variation within the regions at three scales, of an amplitude for each region and scale."""
    size = len(maps[0])
    amplitudes = generator.uniform(0, 0.3) * generator.random((3, count)).astype(np.float32) ** 3
    cells = [generator.integers(low, high) for low, high in ((3, 9), (12, 25), (30, 51))]
    fields = [_fields(1, size, number, generator)[0] for number in cells]
    return np.stack([sum(amplitudes[i][labels] * fields[i] for i in range(3)) for labels in maps])


def _degrade(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Blur, a lower resolution, a bias field, noise and another contrast, on channels of shape `(C, size, size)`."""
    size = image.shape[-1]
    image = ndimage.gaussian_filter(image, (0, sigma := generator.uniform(0, 1.2) * size / 128, sigma), truncate=2.5)
    if generator.random() < 0.6:
        fewer = int(size * generator.uniform(0.3, 1))
        image = ndimage.gaussian_filter(image, (0, sigma := 0.4 * (size / fewer - 1), sigma), truncate=2.5)
        image = _resize(_resize(image, fewer), size)
    image = image * np.exp(generator.uniform(0, 0.35) * _fields(1, size, generator.integers(1, 4), generator)[0])
    grain = int(size * generator.uniform(0.35, 1))
    noise = generator.standard_normal((len(image), grain, grain), dtype=np.float32)
    image = image + 0.15 * generator.random() ** 2 * _resize(noise, size)
    low, high = np.quantile(image[:, ::3, ::3], [generator.uniform(0, 0.03), 1 - generator.uniform(0, 0.03)])
    image = ((image - low) / (high - low + 1e-6)).clip(0, 1)
    return (image ** math.exp(generator.uniform(-0.5, 0.5))).astype(np.float32)


def _fields(count: Any, size: int, cells: Any, generator: np.random.Generator) -> np.ndarray:
    """`(count, size, size)` smooth random fields with about `cells` cells a side, of mean 0 and deviation near 1."""
    spline = _cubic_spline(size, int(cells))
    noise = generator.standard_normal((count, spline.shape[1], spline.shape[1]), dtype=np.float32)
    return spline @ noise @ spline.T


@lru_cache(maxsize=256)
def _cubic_spline(size: int, cells: int) -> np.ndarray:
    """Weights `(size, cells + 3)` of cubic B-splines, scaled so that a sum of white noise has the variance 1."""
    positions = (np.arange(size) + 0.5) * cells / size + 1
    distances = abs(positions[:, None] - np.arange(cells + 3))
    near, far = 2 / 3 - distances**2 + distances**3 / 2, (2 - distances).clip(0) ** 3 / 6
    weights = np.where(distances < 1, near, far)
    return (weights / np.sqrt((weights**2).sum(axis=1, keepdims=True))).astype(np.float32)


@lru_cache(maxsize=512)
def _linear(size: int, target: int) -> np.ndarray:
    """Weights `(target, size)` of a linear interpolation between the centres of pixels."""
    positions = (np.arange(target) + 0.5) * size / target - 0.5
    return np.stack([np.interp(positions, np.arange(size), unit) for unit in np.eye(size)], axis=1).astype(np.float32)


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    weights = _linear(image.shape[-1], size)
    return weights @ image @ weights.T


def _move(regions: np.ndarray, shift: np.ndarray, factor: float) -> np.ndarray:
    """Label map sampled `shift` pixels away, `(2, size, size)`, and enlarged by `factor`."""
    size = len(regions)
    centre = (size - 1) / 2
    grid = (np.indices(regions.shape) - centre) / factor + centre + shift
    rows, columns = np.rint(grid).astype(np.int64).clip(0, size - 1)
    return regions[rows, columns]


@lru_cache(maxsize=8)
def _coordinates(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows `(size, 1)` and columns `(1, size)` from -1 to 1."""
    line = np.linspace(-1, 1, size, dtype=np.float32)
    return line[:, None], line[None]
