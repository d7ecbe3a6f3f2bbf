"""The settings of the scores, as command-line flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..utils.settings import setting
from ..utils.text import comma_separated, parse_sizes

if TYPE_CHECKING:
    from .measures import Measures

__all__ = ["METRICS", "ScoringArguments"]

METRICS: dict[str, tuple[str, ...]] = {
    **{
        name: (name,)
        for name in ("dice", "hd95", "iou", "sensitivity", "precision", "specificity", "hd", "assd", "nsd")
    },
    "volume": ("volume_ml", "label_volume_ml", "volume_error_ml", "relative_volume_error"),
    "lesions": ("lesion_tp", "lesion_fp", "lesion_fn", "lesion_f1"),
    "calibration": ("ece", "brier", "ece_near", "brier_near"),
}
"""The names of the scores of each metric."""


@dataclass
class ScoringArguments:
    """Which scores are computed, and their parameters."""

    metrics: str = setting("dice,hd95", f"Scores A,B,…: {', '.join(METRICS)}.", on_card=False)
    nsd_tolerance_mm: str = setting(
        "2", "Distance of surfaces that agree, for nsd: for all labels, or for each as A=MM,B=MM.", on_card=False
    )
    lesion_min_iou: float | None = setting(
        None, "Intersection over union from which lesions match [if they share a voxel].", on_card=False
    )

    @property
    def measures(self) -> Measures:
        """The scores to compute; a ValueError if a tolerance isn't a number."""
        from .measures import Measures  # imports scipy

        tolerances = parse_sizes(self.nsd_tolerance_mm, "nsd_tolerance_mm", "mm")
        tolerance = tolerances["all"] if set(tolerances) == {"all"} else tolerances
        return Measures(comma_separated(self.metrics), tolerance, self.lesion_min_iou)
