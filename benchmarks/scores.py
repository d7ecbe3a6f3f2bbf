"""Scores compared with medpy, MONAI, surface-distance and brute force on 300 random and 40 degenerate pairs of masks.

`python -m benchmarks.scores` prints Markdown tables: the largest difference from each reference with the time for a
pair, and the time for all scores of a 120×512×512 case with 8 organs. surface-distance is compared if it is installed
or if `--surface_distance DIR` has its package. The exit status is 1 if a score differs.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import math
import sys
import time
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from medpy.metric import binary
from monai.metrics import compute_panoptic_quality, compute_surface_dice
from scipy import ndimage

from samed_hf.scoring.measures import METRICS, Measures
from samed_hf.scoring.metrics import score_case

from .mask_pairs import MaskPair, degenerate_pairs, random_pairs
from .scoring import synthetic_case

__all__ = ["Comparison", "compare", "real_size", "references", "table"]

_TOLERANCE_MM, _MIN_IOU = 1.0, math.nextafter(0.5, 1)  # MONAI matches above 0.5
_MEASURES = Measures(tuple(name for name in METRICS if name != "calibration"), _TOLERANCE_MM)
_BY_IOU = Measures(("lesions",), lesion_min_iou=_MIN_IOU)

# docs/evaluation.md: the score if the label alone is empty, and if the prediction alone is; all are undefined if both.
RULES: dict[str, tuple[float | None, float | None]] = {
    **{"dice": (0, 0), "iou": (0, 0), "sensitivity": (None, 0), "precision": (0, None), "nsd": (0, 0)},
    **{"hd95": (None, None), "hd": (None, None), "assd": (None, None), "relative_volume_error": (None, -1)},
    "lesion_f1": (0, 0),
}

Reference = Callable[[MaskPair], float]


@dataclass
class Comparison:
    """A score, its reference, and what the comparison found."""

    key: str
    title: str
    reference: Reference
    tolerance: float = 1e-9
    measures: Measures = _MEASURES
    timed: bool = True
    takes_empty: bool = False  # the reference is defined if one mask is empty
    largest: float = 0.0
    compared: int = 0
    by_rule: int = 0
    wrong: list[str] = field(default_factory=list)
    ours_s: float = 0.0
    theirs_s: float = 0.0

    def add(self, pair: MaskPair, found: float | None) -> None:
        """Compare one pair's score: with the reference, or with the rule where the reference has no value."""
        has_no_meaning = pair.empty == "both" or self._is_undefined(pair)
        if has_no_meaning or (pair.empty and not self.takes_empty):
            self.by_rule += 1
            rule = None if has_no_meaning else RULES[self.key][("label", "prediction").index(pair.empty)]
            if found != rule:
                self.wrong.append(f"{pair.name}: {found}, expected {rule} by the rule")
            return
        metric = next(name for name, keys in METRICS.items() if self.key in keys)
        alone = Measures((metric,), self.measures.nsd_tolerance_mm, self.measures.lesion_min_iou)
        masks = pair.prediction, pair.label
        start = time.perf_counter()
        alone.score("1", *masks, "strict", pair.spacing, pair.label.size, {})
        middle = time.perf_counter()
        expected = self.reference(pair)
        self.theirs_s += time.perf_counter() - middle
        self.ours_s += middle - start
        self.compared += 1
        difference = math.inf if found is None else abs(found - expected)
        self.largest = max(self.largest, difference)
        if not difference <= self.tolerance:
            self.wrong.append(f"{pair.name}: {found}, expected {expected}")

    def _is_undefined(self, pair: MaskPair) -> bool:
        """Whether the score has no meaning although masks aren't empty; medpy gives 0."""
        return (self.key == "specificity" and bool(pair.label.all())) or (
            self.key[-2:] == "ml" and pair.label.ndim == 2
        )


def references(surface_distance: Any = None) -> list[Comparison]:
    """Return the comparisons; those with surface-distance need its module `metrics`."""
    counted = {"dice": "dc", "iou": "jc", "sensitivity": "sensitivity", "precision": "precision"}
    rows = [_medpy(key, name) for key, name in counted.items()]
    rows += [_medpy("specificity", "specificity", takes_empty=True), _medpy("relative_volume_error", "ravd")]
    rows += [_medpy(key, key, spaced=True) for key in ("hd95", "hd", "assd")]
    if surface_distance is not None:

        def nsd(pair: MaskPair) -> float:
            distances = surface_distance.compute_surface_distances(pair.label, pair.prediction, pair.spacing)
            return float(surface_distance.compute_surface_dice_at_tolerance(distances, _TOLERANCE_MM))

        title = "surface-distance `compute_surface_dice_at_tolerance`"
        rows.append(Comparison("nsd", title, nsd, 1e-6, takes_empty=True))
    rows.append(Comparison("nsd", "MONAI `compute_surface_dice`", _monai_surface_dice, 1e-6))
    volumes: dict[str, Callable[[float, float], float]] = {
        "volume_ml": lambda prediction, label: prediction,
        "label_volume_ml": lambda prediction, label: label,
        "volume_error_ml": lambda prediction, label: abs(prediction - label),
    }
    for key, of in volumes.items():
        rows.append(
            Comparison(key, "NumPy", lambda pair, of=of: of(*map(partial(_ml, pair), pair[1:3])), takes_empty=True)
        )
    for index, key in enumerate(METRICS["lesions"]):
        for measures, rule in ((_MEASURES, "one voxel"), (_BY_IOU, "IoU > 0.5")):
            title = f"flood fill in Python, {rule}"
            of = lambda pair, index=index, measures=measures: lesions(pair, measures.lesion_min_iou)[index]  # noqa: E731
            rows.append(Comparison(key, title, of, measures=measures, timed=False, takes_empty=True))
    title = "MONAI `compute_panoptic_quality` (RQ), IoU > 0.5"
    rows.append(Comparison("lesion_f1", title, _recognition_quality, 1e-6, _BY_IOU))
    return rows


def _medpy(key: str, name: str, *, spaced: bool = False, takes_empty: bool = False) -> Comparison:
    def reference(pair: MaskPair) -> float:
        options = {"voxelspacing": pair.spacing} if spaced else {}
        return getattr(binary, name)(pair.prediction, pair.label, **options)

    return Comparison(key, f"medpy `{name}`", reference, takes_empty=takes_empty)


def _ml(pair: MaskPair, mask: np.ndarray) -> float:
    return float(mask.sum()) * math.prod(pair.spacing) / 1000


def _monai_surface_dice(pair: MaskPair) -> float:
    # Padded, as MONAI leaves the array's border out.
    maps = [torch.from_numpy(np.pad(mask, 2))[None, None].float() for mask in (pair.prediction, pair.label)]
    classes = (torch.cat([1 - one, one], dim=1) for one in maps)
    return float(compute_surface_dice(*classes, [_TOLERANCE_MM], spacing=pair.spacing, use_subvoxels=True))


def _recognition_quality(pair: MaskPair) -> float:
    structure = np.ones((3,) * pair.label.ndim)
    instances = (torch.from_numpy(ndimage.label(mask, structure)[0]) for mask in (pair.prediction, pair.label))
    return float(compute_panoptic_quality(*instances, metric_name="rq", smooth_numerator=0.0))


def lesions(pair: MaskPair, min_iou: float | None) -> tuple[int, int, int, float]:
    """Count found, invented and missed lesions by flood fill, and their F1; above IoU 0.5 matches are unique."""
    predicted, labelled = (_components(mask.shape, mask.tobytes()) for mask in pair[1:3])
    if min_iou is None:
        found = sum(any(one & other for other in predicted) for one in labelled)
        invented = sum(not any(one & other for other in labelled) for one in predicted)
    else:
        found = sum(len(a & b) / len(a | b) >= min_iou for a, b in itertools.product(labelled, predicted) if a & b)
        invented = len(predicted) - found
    missed = len(labelled) - found
    return found, invented, missed, 2 * found / (2 * found + invented + missed)


@lru_cache(2)  # the next scores are of the same masks
def _components(shape: tuple[int, ...], content: bytes) -> list[set[tuple[int, ...]]]:
    mask = np.frombuffer(content, bool).reshape(shape)
    left, found = set(map(tuple, np.argwhere(mask).tolist())), []
    steps = list(itertools.product((-1, 0, 1), repeat=mask.ndim))
    while left:
        todo, component = [left.pop()], set()
        while todo:
            voxel = todo.pop()
            component.add(voxel)
            near = {tuple(map(sum, zip(voxel, step, strict=True))) for step in steps} & left
            left -= near
            todo += near
        found.append(component)
    return found


def compare(pairs: Iterable[MaskPair], rows: Sequence[Comparison]) -> Sequence[Comparison]:
    """Score the pairs, as [`score_case`] does those of a case, and compare each score."""
    for pair in pairs:
        maps = pair.prediction.astype(np.uint8), pair.label.astype(np.uint8)
        scores = {
            id(measures): score_case(*maps, 2, spacing=pair.spacing, measures=measures)["1"]
            for measures in (_MEASURES, _BY_IOU)
        }
        for row in rows:
            row.add(pair, scores[id(row.measures)][row.key])
    return rows


def table(rows: Sequence[Comparison]) -> str:
    """Return the comparisons as a Markdown table."""
    lines = [
        "| score | reference | pairs compared | by the rule instead | largest difference | µs | its µs |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours, theirs = (1e6 * seconds / max(row.compared, 1) for seconds in (row.ours_s, row.theirs_s))
        counts = f"{row.compared} | {row.by_rule} | {row.largest:.1e}"
        lines.append(f"| `{row.key}` | {row.title} | {counts} | {ours:.0f} | {f'{theirs:.0f}' if row.timed else '–'} |")
    return "\n".join(lines)


def load_surface_distance(directory: str | None) -> Any:
    """Import surface-distance's `metrics`, whose version 0.1 uses names that NumPy 2 and SciPy removed; else `None`."""
    if directory:
        sys.path.insert(0, directory)
    if not hasattr(np, "Inf"):
        np.Inf = np.inf
    try:
        module = importlib.import_module("surface_distance.metrics")
    except ImportError:
        if directory:
            raise
        return None
    module.ndimage = types.SimpleNamespace(filters=ndimage, morphology=ndimage)
    return module


def real_size(shape: tuple[int, int, int] = (120, 512, 512)) -> str:
    """Time all scores of one case with eight organs: ours, and medpy's functions on the whole masks."""
    prediction, label, spacing = synthetic_case(shape)
    start = time.perf_counter()
    score_case(prediction, label, 9, spacing=spacing, measures=_MEASURES)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    for index in range(1, 9):
        masks = prediction == index, label == index
        for name in ("dc", "jc", "sensitivity", "precision", "specificity", "ravd"):
            getattr(binary, name)(*masks)
        for name in ("hd95", "hd", "assd"):
            getattr(binary, name)(*masks, voxelspacing=spacing)
    theirs = time.perf_counter() - start
    return (
        f"One case of {'×'.join(map(str, shape))} voxels, 8 organs: {len(_MEASURES.keys)} scores in {ours:.1f} s; "
        f"medpy's nine in {theirs:.1f} s, {theirs / ours:.0f} times as long."
    )


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scores", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=300, metavar="N", help="random pairs [300]")
    parser.add_argument("--seed", type=int, default=0, help="of the random pairs [0]")
    parser.add_argument("--surface_distance", metavar="DIR", help="directory with the package surface_distance")
    parser.add_argument("--quick", action="store_true", help="a scan of 40×160×160 voxels instead of 120×512×512")
    args = parser.parse_args()
    module = load_surface_distance(args.surface_distance)
    degenerate = degenerate_pairs()
    rows = compare([*random_pairs(args.pairs, args.seed), *degenerate], references(module))
    print(f"{args.pairs} random pairs (seed {args.seed}) and {len(degenerate)} degenerate ones.\n\n{table(rows)}\n")
    print("Where a mask is empty and the reference has no value, the score is that of docs/evaluation.md's table.\n")
    if module is None:
        print("surface-distance isn't installed: not compared; --surface_distance DIR names its directory.\n")
    wrong = [f"{row.key}, {row.title}: {text}" for row in rows for text in row.wrong]
    print(
        "\n".join(["NOT EQUAL:", *wrong])
        if wrong
        else "All scores are equal, to 1e-9, and 1e-6 where areas or float32 enter."
    )
    print(f"\n{real_size((40, 160, 160) if args.quick else (120, 512, 512))}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
