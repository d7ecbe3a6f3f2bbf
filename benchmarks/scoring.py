"""Seconds to score a case, given its prediction: `score_case` compared with medpy on full masks.

`python -m benchmarks.scoring` takes two minutes, mostly in medpy; `--quick` takes a few seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from medpy.metric import binary
from torch.nn import functional as F

from samed_hf.data.phantom import phantom_patient
from samed_hf.scoring.metrics import score_case

__all__ = ["measure", "synthetic_case"]

_SHAPE, _QUICK_SHAPE = (120, 512, 512), (40, 160, 160)
_ORGANS = 8
_REPEATS = 5


def synthetic_case(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Make a phantom's label map with eight organs and a prediction of it.

    The prediction is the label map deformed by a few voxels, with two stray islands of every organ at random positions.

    Returns:
        Prediction and label, uint8 of the given shape, and the spacing in mm along its axes.
    """
    rng = np.random.default_rng(0)
    _, label, spacing = phantom_patient(0, shape)
    size = torch.tensor([1.0, 2.5, 2.5]).view(3, 1, 1, 1)  # deformation in voxels (standard deviation)
    coarse = torch.from_numpy(rng.standard_normal((3, 6, 9, 9), np.float32)) * size
    steps = F.interpolate(coarse[None], shape, mode="trilinear", align_corners=True)[0].round().to(torch.int16).numpy()
    grid = np.ogrid[tuple(slice(length) for length in shape)]
    prediction = label[tuple((grid[axis] + steps[axis]).clip(0, shape[axis] - 1) for axis in range(3))]
    for index in [*range(1, _ORGANS + 1)] * 2:
        z, y, x = (rng.integers(length - 6) for length in shape)
        prediction[z : z + 2, y : y + 6, x : x + 6] = index
    return prediction, label, spacing


def measure(quick: bool = False) -> dict[str, Any]:
    """Score one case with this package and with medpy.

    Args:
        quick: use a scan of 40×160×160 instead of 120×512×512 voxels.

    Returns:
        "ours_s" (median of several runs) and "medpy_s" in seconds, their "ratio", and whether all scores are "equal"
        to the last bit.
    """
    prediction, label, spacing = synthetic_case(_QUICK_SHAPE if quick else _SHAPE)
    runs = [_timed(lambda: score_case(prediction, label, _ORGANS + 1, spacing=spacing)) for _ in range(_REPEATS)]
    ours_s = median(seconds for seconds, _ in runs)
    medpy_s, theirs = _timed(lambda: _medpy_scores(prediction, label, spacing))
    equal = all([tuple(score.values()) for score in scores.values()] == theirs for _, scores in runs)
    return {"ours_s": ours_s, "medpy_s": medpy_s, "ratio": medpy_s / ours_s, "equal": equal}


def _medpy_scores(prediction: np.ndarray, label: np.ndarray, spacing: tuple[float, ...]) -> list[tuple[float, float]]:
    scores = []
    for index in range(1, _ORGANS + 1):
        masks = prediction == index, label == index
        scores.append((binary.dc(*masks), binary.hd95(*masks, voxelspacing=spacing)))
    return scores


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main() -> None:
    """Print the results of [`measure`]."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a scan of 40×160×160 voxels instead of 120×512×512")
    quick = parser.parse_args().quick
    figures = measure(quick)
    print(f"{'×'.join(map(str, _QUICK_SHAPE if quick else _SHAPE))} voxels, {_ORGANS} organs, Dice and HD95 in mm")
    print(f"samed_hf  {figures['ours_s']:8.3f} s")
    print(f"medpy     {figures['medpy_s']:8.3f} s, {figures['ratio']:.0f} times as long")
    print(f"scores    {'equal to the last bit' if figures['equal'] else 'NOT EQUAL'}")


if __name__ == "__main__":
    main()
