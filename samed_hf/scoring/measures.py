"""The scores that can be chosen, and those of one class's masks under a protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .arguments import METRICS
from .hausdorff import hd95
from .overlap import Counts, match_lesions
from .surfaces import require_areas, surface_dice, surface_distances

__all__ = ["HIGHER_IS_BETTER", "METRICS", "Measures", "Score", "undefined_score"]

Score = dict[str, float | None]
"""Scores of one class in one case by their names; `None` where the protocol leaves one undefined."""

HIGHER_IS_BETTER: dict[str, bool] = {
    **dict.fromkeys(("dice", "iou", "sensitivity", "precision", "specificity", "nsd", "lesion_tp", "lesion_f1"), True),
    **dict.fromkeys(
        ("hd95", "hd", "assd", "volume_error_ml", "lesion_fp", "lesion_fn", *METRICS["calibration"]), False
    ),
}
"""The direction of each score that has one: volumes and the signed relative error have none."""

_COUNTED = ("dice", "iou", "sensitivity", "precision", "specificity")
_SAMED = ("dice", "hd95")


@dataclass(frozen=True)
class Measures:
    """Metrics to compute and their parameters.

    Attributes:
        metrics: names of [`METRICS`].
        nsd_tolerance_mm: largest distance of surfaces that agree in mm (in voxels without spacing), for all classes or
            by the name of the class.
        lesion_min_iou: see [`match_lesions`].
    """

    metrics: tuple[str, ...] = ("dice", "hd95")
    nsd_tolerance_mm: float | Mapping[str, float] = 2.0
    lesion_min_iou: float | None = None

    def check(self, protocol: str, names: Sequence[str] | None = None) -> None:
        """Raise a `ValueError` for what is unknown, doesn't suit the protocol, is out of range or has no effect.

        `names` are those of the classes, once they are known. Without MONAI, "nsd" is an `ImportError`.
        """
        allowed = _SAMED if protocol == "samed" else tuple(METRICS)
        if not self.metrics or (unknown := [name for name in self.metrics if name not in allowed]):
            found = ", ".join(map(repr, unknown)) if self.metrics else "empty"
            raise ValueError(f"metrics has {found}: expected some of {', '.join(allowed)} under protocol {protocol!r}.")
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"metrics is {', '.join(self.metrics)}: expected each score once.")
        tolerances = self.nsd_tolerance_mm
        if isinstance(tolerances, Mapping) and names is not None and set(tolerances) != set(names):
            odd = ", ".join(sorted(set(tolerances) ^ set(names)))
            raise ValueError(f"nsd_tolerance_mm differs from the labels in {odd}: expected one tolerance for each.")
        values = tolerances.values() if isinstance(tolerances, Mapping) else [tolerances]
        if not all(0 <= value < np.inf for value in values):
            raise ValueError(f"nsd_tolerance_mm is {tolerances}: expected at least 0 mm.")
        if self.lesion_min_iou is not None and not 0 < self.lesion_min_iou <= 1:
            raise ValueError(f"lesion_min_iou is {self.lesion_min_iou}: expected above 0 and at most 1.")
        for metric, name in (("nsd", "nsd_tolerance_mm"), ("lesions", "lesion_min_iou")):
            value = getattr(self, name)
            if metric not in self.metrics and value != getattr(_DEFAULT, name):
                raise ValueError(f"{name} is {value}, but metrics has no {metric!r}: add it, or leave {name} out.")
        if "nsd" in self.metrics:
            require_areas()

    @property
    def keys(self) -> list[str]:
        """Names of the scores."""
        return [key for name in self.metrics for key in METRICS[name]]

    def score(
        self,
        name: str,
        prediction: np.ndarray,
        label: np.ndarray,
        protocol: str,
        spacing: tuple[float, ...] | None,
        size: int,
        extra: Score,
    ) -> Score:
        """Score the boolean masks of the class `name`, cropped from an array of `size` voxels.

        `spacing` is in mm along each array axis; `None` measures in voxels, and leaves volumes undefined. `extra` are
        scores that masks don't have.
        """
        in_prediction, in_label = bool(prediction.any()), bool(label.any())
        if protocol == "samed" and not (in_prediction and in_label):
            scores = {"dice": 1.0, "hd95": 0.0} if in_prediction else {"dice": 0.0, "hd95": 0.0}
            return {key: scores[key] for key in self.keys}
        if not (in_prediction or in_label):
            return undefined_score(self.keys)
        counts = Counts.of(prediction, label, size)
        found: Score = {key: getattr(counts, key) for key in _COUNTED}
        found |= self._surface_scores(name, prediction, label, spacing if protocol == "strict" else None)
        found |= _volumes(counts, spacing) | extra
        if "lesions" in self.metrics:
            lesions = match_lesions(prediction, label, self.lesion_min_iou)
            found |= dict(zip(METRICS["lesions"], (*lesions, lesions.f1), strict=True))
        return {key: found[key] for key in self.keys}

    def _surface_scores(
        self, name: str, prediction: np.ndarray, label: np.ndarray, spacing: tuple[float, ...] | None
    ) -> Score:
        found: Score = {"hd95": None, "hd": None, "assd": None}
        both = prediction.any() and label.any()
        if both and "hd95" in self.metrics:
            found["hd95"] = hd95(prediction, label, spacing)
        if both and not {"hd", "assd"}.isdisjoint(self.metrics):
            distances = surface_distances(prediction, label, spacing)
            found |= {"hd": distances.hd, "assd": distances.assd}
        if "nsd" in self.metrics:
            tolerance = self.nsd_tolerance_mm
            tolerance = tolerance[name] if isinstance(tolerance, Mapping) else tolerance
            found["nsd"] = surface_dice(prediction, label, tolerance, spacing or (1.0,) * label.ndim)
        return found


_DEFAULT = Measures()


def undefined_score(keys: Sequence[str]) -> Score:
    """The score of a class that is in neither mask."""
    return dict.fromkeys(keys)


def _volumes(counts: Counts, spacing: tuple[float, ...] | None) -> Score:
    voxels, labelled = (counts.true_positive + other for other in (counts.false_positive, counts.false_negative))
    relative = (voxels - labelled) / labelled if labelled else None
    if spacing is None or len(spacing) != 3:
        return undefined_score(METRICS["volume"]) | {"relative_volume_error": relative}
    volume, label = (count * float(np.prod(spacing)) / 1000 for count in (voxels, labelled))
    return dict(zip(METRICS["volume"], (volume, label, abs(volume - label), relative), strict=True))
