"""Synthetic abdominal CT patients, for demonstrations and tests that need no download.

A patient is drawn in three steps: a map of tissues from unions of soft ellipsoids (`_draw_trunk`, `_draw_bowel`,
`_draw_organs`), one HU value for each tissue of this patient, then texture, partial volume and noise (`make_ct`).
Anatomy is written in millimetres, x toward the patient's left, y toward anterior, z toward the head, from the
middle of the scan; random numbers for the anatomy are drawn before anything depends on `shape`, so that one seed
is one patient at every resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from .phantom_painting import CODES, ENDLESS, LUMEN, ORGANS, Grid, behind, chain, make_ct, paint, vary, warped_grid

__all__ = ["phantom_affine", "phantom_patient"]


def phantom_affine(spacing: Sequence[float]) -> np.ndarray:
    """Give the affine of a phantom stored as NIfTI would store it, with axes `(x, y, slice)`.

    Args:
        spacing: voxel size in mm along `(slice, x, y)`, as `phantom_patient` returns it.

    Returns:
        Array of shape `(4, 4)`, float64: voxel `(x, y, slice)` to RAS world in mm, the first voxel at the origin.
        World x decreases along the array's x, which runs toward the patient's left.
    """
    values = np.asarray(spacing, dtype=np.float64)
    if values.shape != (3,) or not np.all(np.isfinite(values) & (values > 0)):
        raise ValueError(f"spacing must be three positive numbers in mm, (slice, x, y), got {spacing!r}")
    return np.diag([-values[1], values[2], values[0], 1.0])


def phantom_patient(
    seed: int | Sequence[int], shape: tuple[int, int, int] = (24, 160, 160)
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Make one synthetic abdominal CT with eight organs labelled.

    Organs vary in position, size and shape; the gallbladder is missing in about 15 % of patients and one kidney in
    about 5 %. The field of view is always 192 mm of slices by 360 mm by 360 mm, whatever the shape.

    Args:
        seed: non-negative integer, or a sequence of them; the same seed gives the same patient.
        shape: `(slices, x, y)`, at least `(8, 48, 48)`.

    Returns:
        The image of shape `(slices, x, y)`, int16 in HU from -1024 to 1500; the label map of the same shape, uint8
        with the keys of `SYNAPSE_LABELS`; and the spacing in mm along `(slice, x, y)`. Slices rise toward the head,
        x runs toward the patient's left, y toward anterior: `image[k].T[::-1]` is what a radiologist looks at, and
        `np.transpose(image, (1, 2, 0))` goes with `phantom_affine(spacing)` into a NIfTI file.
    """
    if np.any(np.asarray(seed) < 0):
        raise ValueError(f"seed must be a non-negative integer or a sequence of them, got {seed!r}")
    sizes = np.asarray(shape)
    if sizes.shape != (3,) or sizes.dtype.kind != "i" or np.any(sizes < (8, 48, 48)):
        raise ValueError(f"shape must be three integers (slices, x, y) of at least (8, 48, 48), got {shape!r}")
    rng = np.random.default_rng(seed)
    grid = warped_grid(rng, shape)
    tissue = _draw_trunk(rng, grid)
    _draw_bowel(rng, grid, tissue)
    _draw_organs(rng, grid, tissue)
    return make_ct(rng, tissue)


def _oval(x: np.ndarray, y: np.ndarray, width: float, depth: float) -> np.ndarray:
    """Measure a rounded rectangle of half axes `width` and `depth` in mm: below 1 inside, and cheaper than powers."""
    x2, y2 = (x / np.float32(width)) ** 2, (y / np.float32(depth)) ** 2
    return x2 + y2 - np.float32(0.4) * x2 * y2


def _draw_trunk(rng: Generator, grid: Grid) -> np.ndarray:
    """Draw the body wall, ribs, spine, lungs and heart; the cavity comes out filled with fat."""
    x, y, z = grid.x, grid.y, grid.z
    fat = rng.uniform(8, 24)
    width, depth = 158 - fat, 112 - 0.8 * fat
    tissue = np.full(x.shape, CODES["air"], dtype=np.uint8)
    tissue[_oval(x, y, 158, 112) < 1] = CODES["fat"]
    tissue[_oval(x, y, width, depth) < 1] = CODES["muscle"]
    inside = _oval(x, y - 3, width - 11, depth - 11) < 1
    # Ribs run down toward the front inside the wall, and the costal margin rises toward the front.
    rib = (_oval(x, y - 2, width - 4, depth - 4) < 1) & ~inside & ((z + 0.5 * y + rng.uniform(0, 30)) % 30 < 11)
    tissue[rib & (z > 0.5 * y - 25) & (np.abs(x) > 28)] = CODES["rib"]
    tissue[inside] = CODES["belly fat"]
    _draw_lungs(rng, grid, tissue, inside)
    # The spine with its canal, the muscles of the back, the psoas and the crura of the diaphragm.
    for side in (-1, 1):
        back = (side * 34, -82, 0, 33, 20, ENDLESS)
        psoas = (side * 36, -52, -100, 17, 20, 75)
        crus = (side * 11, -32, 10, 7, 14, 60)
        paint(grid, tissue, "muscle", np.array([back, psoas, crus]), over=["belly fat", "fat", "lung"])
    body = (0, -52, 0, 20, 16, ENDLESS)
    arch = [(0, -77, 0, 14, 10, ENDLESS), (0, -86, 0, 3, 10, ENDLESS)]
    paint(grid, tissue, "bone", np.array([body, *arch]), over=CODES)
    paint(grid, tissue, "canal", np.array([(0, -75, 0, 9, 7, ENDLESS)]), over=CODES)
    return tissue


def _draw_lungs(rng: Generator, grid: Grid, tissue: np.ndarray, inside: np.ndarray) -> None:
    """Fill the chest above the two domes of the diaphragm with lung, and the middle with the heart."""
    x, y, z = grid.x, grid.y, grid.z
    right, left = rng.normal((76, 66), 4)
    rise = np.where(x < 0, np.float32(right), np.float32(left))
    # The recess between diaphragm and chest wall reaches lower behind than in front.
    fall = ((np.abs(x) - 68) / 70) ** 2 * 32 + ((y - 8) / 85) ** 2 * np.where(y < 8, np.float32(46), np.float32(26))
    chest = inside & (z > rise - fall)
    tissue[chest] = CODES["lung"]
    tissue[chest & ((x / 30) ** 2 + ((y + 8) / 80) ** 2 < 1)] = CODES["fat"]  # the mediastinum
    heart = vary(rng, [(26, 34, 104, 52, 42, 56)])  # rests on the diaphragm
    paint(grid, tissue, "fat", heart * [1, 1, 1, 1.1, 1.1, 1.1], over=["lung"])
    paint(grid, tissue, "heart", heart, over=["fat", "lung"])


def _draw_bowel(rng: Generator, grid: Grid, tissue: np.ndarray) -> None:
    """Draw colon, duodenum and loops of small bowel, background that makes the organs less easy to find."""
    colon = [
        [(-112, -30, -110, 22), (-108, -15, -70, 23), (-92, 30, -58, 21)],
        [(-92, 30, -58, 20), (-40, 72, -62, 18), (30, 74, -60, 18), (92, 30, -25, 18)],
        [(92, 20, -25, 17), (112, -20, -50, 16), (114, -30, -110, 16)],
        [(-40, 30, -22, 13), (-52, 2, -38, 14), (-38, -2, -62, 14), (0, 2, -70, 12)],  # the duodenum
    ]
    for beads in colon:
        _paint_bowel(rng, grid, tissue, vary(rng, chain(beads)))
    for _ in range(14):
        start = np.array([rng.uniform(-75, 85), rng.uniform(0, 65), rng.uniform(-110, -45)])
        steps = np.cumsum(rng.normal(0, (28, 18, 14), size=(4, 3)), axis=0)
        radius = rng.uniform(10, 14, size=(4, 1))
        _paint_bowel(rng, grid, tissue, chain(np.column_stack([start + steps, radius])))


def _paint_bowel(rng: Generator, grid: Grid, tissue: np.ndarray, loop: np.ndarray) -> None:
    """Paint one loop, sometimes with gas in its upper part: the patient lies on the back, so toward anterior."""
    gas = rng.random() < 0.35
    first, fill = rng.integers(len(loop) - 4), rng.uniform(-0.3, 0.5)
    paint(grid, tissue, "bowel", loop, over=["belly fat"])
    if gas:
        part = loop[first : first + 5]
        level = part[:, 1].mean() + fill * part[:, 4].mean()
        paint(grid, tissue, "bowel gas", part * LUMEN, over=["bowel"], cuts=behind(level))


def _draw_organs(rng: Generator, grid: Grid, tissue: np.ndarray) -> None:
    """Draw the eight organs and the great veins, the later ones displacing the earlier."""
    missing = rng.random(3) < (0.15, 0.025, 0.025)  # gallbladder, right kidney, left kidney
    _draw_liver(rng, grid, tissue)
    spleen = [(90, -58, 40, 28, 26, 36), (106, -38, 28, 27, 36, 46), (112, -8, 20, 20, 30, 34)]
    paint(grid, tissue, "spleen", vary(rng, spleen, size=0.1), cuts=vary(rng, [(62, -16, 30, 32, 36, 60)]))
    # The stomach: a J from the fundus under the left dome to the pylorus, in most patients with some gas.
    beads = [(58, -22, 62, 30), (66, 8, 38, 28), (56, 36, 8, 23), (26, 50, -18, 18), (-14, 40, -16, 12)]
    gas = rng.random() < 0.7
    level = rng.uniform(10, 45)
    stomach = vary(rng, chain(beads), size=0.1)
    paint(grid, tissue, "stomach", stomach, rim=0.75)
    if gas:  # lying on the back, it collects in front
        paint(grid, tissue, "stomach gas", stomach * LUMEN, over=["stomach"], cuts=behind(level))
    pancreas = [(-30, 4, -30, 15), (-12, 16, -16, 12), (18, 18, -4, 10.5), (48, 0, 8, 10.5), (74, -24, 16, 10)]
    paint(grid, tissue, "pancreas", vary(rng, chain(pancreas), size=0.05), rim=0.6)
    gallbladder = vary(rng, chain([(-36, 22, -10, 9), (-48, 38, -18, 15), (-56, 54, -28, 17)]), size=0.12)
    if not missing[0]:
        paint(grid, tissue, "gallbladder", gallbladder, rim=0.8)
    for side, height, gone in (("right", -36, missing[1]), ("left", -22, missing[2])):
        if not gone:
            _draw_kidney(rng, grid, tissue, side, height)
    soft = ["fat", "belly fat", "muscle", "lung", "bowel", "bowel gas", *ORGANS]
    cava = chain([(-22, -24, -130, 11), (-25, -22, 0, 11), (-22, -8, 90, 13)])
    paint(grid, tissue, "vein", vary(rng, cava, shift=2, tilt=0.02), soft)
    aorta = chain([(6, -25, -130, 9), (9, -23, -40, 10), (10, -24, 30, 11), (16, -30, 130, 12)], count=20)
    paint(grid, tissue, "aorta", vary(rng, aorta, shift=2, tilt=0.02), soft)


def _draw_liver(rng: Generator, grid: Grid, tissue: np.ndarray) -> None:
    """Draw the liver: a wedge from the large right lobe to the left lobe's thin tip, with its veins."""
    lobes = [
        (-82, -4, 28, 62, 70, 62),
        (-96, -6, -24, 40, 54, 46),
        (-32, 30, 38, 48, 44, 42),
        (16, 48, 44, 42, 28, 32),
        (58, 54, 52, 30, 17, 20),
    ]
    hilum = [(-22, -32, -8, 34, 34, 36)]
    paint(grid, tissue, "liver", vary(rng, lobes, size=0.08), cuts=vary(rng, hilum))
    for tip in [(-110, -30, 30), (-95, 35, 35), (-50, 45, 45), (-90, -10, -15), (15, 50, 42)]:
        root = (-35, 0, 30) if tip[2] < 40 else (-24, -8, 68)
        bend = (np.array(root) + tip) / 2 + rng.normal(0, 9, size=3)
        branch = chain([(*root, 6), (*bend, 5), (*tip, 2.5)], count=20)
        paint(grid, tissue, "liver vein", vary(rng, branch), over=["liver"])


def _draw_kidney(rng: Generator, grid: Grid, tissue: np.ndarray, side: str, height: float) -> None:
    """Draw one kidney: a bean with the upper pole toward the spine, medulla inside, the hilum cut in the middle."""
    sign = -1 if side == "right" else 1
    bean = [
        (sign * 57, -48, height + 26, 22, 23, 26),
        (sign * 65, -46, height, 24, 25, 30),
        (sign * 69, -42, height - 26, 22, 23, 26),
    ]
    kidney = vary(rng, [*bean, (sign * 40, -30, height, 20, 15, 20)], size=0.05)
    paint(grid, tissue, f"{side} kidney", kidney[:3], cuts=kidney[3:], rim=0.45)
    medulla = kidney[:3] * [1, 1, 1, 0.6, 0.6, 0.75]
    paint(grid, tissue, f"{side} medulla", medulla, over=[f"{side} kidney"])
