"""Settings of a prediction, checked before a model is loaded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from ..volumes.registry import LABEL_FORMATS

__all__ = ["ALL", "PredictionSettings"]

ALL = "all"  # every label, in `keep_largest` and `min_island_ml`


@dataclasses.dataclass(frozen=True)
class PredictionSettings:
    """How scans are segmented and which files are written.

    Attributes:
        format: of the label maps, e.g. "nii.gz"; `None`: each scan's own, DICOM-SEG for DICOM, PNG for 2-D images.
        labels: names of the labels to keep; the others become background. `None` keeps all.
        probabilities: write the softmax of every label.
        per_class: write a mask for each label.
        tta: average over views of each slice (test-time augmentation).
        keep_largest: names of the labels of which only the largest connected component is kept, or `("all",)`.
        min_island_ml: size in ml below which a connected component is removed, by the label's name or "all".
        batch_size: slices in a batch; `None` chooses it by the free memory.
        preview: draw an image of each case.
        frames: indices, from 0, of the frames of a scan to segment; `None` segments all.
    """

    format: str | None = None
    labels: tuple[str, ...] | None = None
    probabilities: bool = False
    per_class: bool = False
    tta: bool = False
    keep_largest: tuple[str, ...] = ()
    min_island_ml: Mapping[str, float] = dataclasses.field(default_factory=dict)
    batch_size: int | None = None
    preview: bool = True
    frames: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without the model's labels."""
        errors = []
        if self.format is not None and self.format not in LABEL_FORMATS:
            errors.append(f"format is {self.format!r}: expected one of {', '.join(LABEL_FORMATS)}.")
        if self.batch_size is not None and self.batch_size < 1:
            errors.append(f"batch_size is {self.batch_size}: expected at least 1 slice.")
        for name, ml in self.min_island_ml.items():
            if not (math.isfinite(ml) and ml > 0):
                errors.append(f"min_island_ml is {ml} for {name!r}: expected a size above 0 ml, e.g. 0.5.")
        for what, names in (("labels", self.labels), ("keep_largest", self.keep_largest)):
            repeated = [name for name in dict.fromkeys(names or ()) if (names or ()).count(name) > 1]
            errors += [f"{what} names {name!r} twice: expected each label once." for name in repeated]
        if self.frames is not None and (not self.frames or min(self.frames) < 0):
            errors.append(f"frames is {self.frames}: expected indices of frames, from 0, or None for all.")
        if self.labels == ():
            errors.append("labels is empty: expected at least one label's name, or None for all.")
        if errors:
            raise ValueError(" ".join(errors))

    def check_labels(self, id2label: Mapping[int, str], regions: Mapping[int, object] | None = None) -> None:
        """Check that the model has all labels that the settings name, and no regions, whose parts they would cut."""
        known = [name for index, name in sorted(id2label.items()) if index]
        errors = []
        for what in ("labels", "keep_largest", "min_island_ml"):
            allowed = known if what == "labels" else [*known, ALL]
            if unknown := [name for name in getattr(self, what) or () if name not in allowed]:
                errors.append(f"{what} names {', '.join(map(repr, unknown))}, which the model doesn't have")
        if regions and (given := [what for what in ("labels", "keep_largest", "min_island_ml") if getattr(self, what)]):
            raise ValueError(f"{given[0]} is given, but the model's labels are parts of regions: leave it out.")
        if errors:
            raise ValueError(f"{'; '.join(errors)}: expected some of {', '.join(known)}.")

    def requested(self, id2label: Mapping[int, str]) -> dict[int, str]:
        """Return the names of the labels to keep by their indices, without the background."""
        kept = id2label.values() if self.labels is None else self.labels
        return {index: name for index, name in sorted(id2label.items()) if index and name in kept}

    def largest_only(self, id2label: Mapping[int, str]) -> list[int]:
        """Return the indices of the labels of which only the largest component is kept."""
        every = ALL in self.keep_largest
        return [index for index, name in self.requested(id2label).items() if every or name in self.keep_largest]

    def island_ml(self, id2label: Mapping[int, str]) -> dict[int, float]:
        """Return the smallest size in ml of a component by the label's index; a label's own size overrides "all"."""
        sizes = dict.fromkeys(id2label.values(), self.min_island_ml.get(ALL)) | dict(self.min_island_ml)
        requested = self.requested(id2label)
        return {index: size for index, name in requested.items() if (size := sizes[name]) is not None}
