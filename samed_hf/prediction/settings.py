"""What a prediction run is asked for, checked before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from ..volumes.registry import LABEL_FORMATS as FORMATS

__all__ = ["ALL", "FORMATS", "PredictionSettings"]

ALL = "all"
"""Stands for every label, in the settings of the clean-up."""


@dataclasses.dataclass(frozen=True)
class PredictionSettings:
    """How scans are segmented and what is written.

    Attributes:
        format: Of the label maps, one of `FORMATS`; `None` for each scan's own: DICOM-SEG for DICOM, PNG for pictures.
        labels: Names of the labels to keep; the others become background. `None` keeps all.
        probabilities: Write the softmax of every label.
        per_class: Write a mask for each label.
        tta: Average over views of each slice (test-time augmentation).
        keep_largest: Names of the labels of which only the largest connected piece stays, or `("all",)`.
        min_island_ml: Size in ml below which a connected piece of a label is removed, by the label's name, or for
            "all".
        batch_size: Slices through a model at once; `None` chooses it by the memory that is free.
        preview: Draw a picture of each case.

    Raises:
        ValueError: A value out of its range.
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

    def __post_init__(self) -> None:
        """Check what can be checked without the labels' names."""
        if self.format is not None and self.format not in FORMATS:
            raise ValueError(f"format is {self.format!r}: expected one of {', '.join(FORMATS)}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: expected at least 1 slice.")
        for name, ml in self.min_island_ml.items():
            if not (math.isfinite(ml) and ml > 0):
                raise ValueError(f"min_island_ml is {ml} for {name!r}: expected a size above 0 ml, e.g. 0.5.")
        for what, names in (("labels", self.labels), ("keep_largest", self.keep_largest)):
            if names is not None and (repeated := [name for name in names if names.count(name) > 1]):
                raise ValueError(f"{what} names {repeated[0]!r} twice: expected each label once.")
        if self.labels == ():
            raise ValueError("labels is empty: expected at least one label's name, or None for all.")

    def check_labels(self, id2label: Mapping[int, str]) -> None:
        """Refuse names that the model doesn't know.

        Raises:
            ValueError: It names them, and those there are.
        """
        known = [name for index, name in sorted(id2label.items()) if index]
        for what, names in (
            ("labels", self.labels or ()),
            ("keep_largest", _apart_from_all(self.keep_largest)),
            ("min_island_ml", _apart_from_all(self.min_island_ml)),
        ):
            unknown = [name for name in names if name not in known]
            if unknown:
                raise ValueError(
                    f"{what} names {', '.join(map(repr, unknown))}, which the model doesn't have: "
                    f"expected some of {', '.join(known)}."
                )

    def wanted(self, id2label: Mapping[int, str]) -> dict[int, str]:
        """The labels that are kept, by their index, without the background."""
        return {
            index: name
            for index, name in sorted(id2label.items())
            if index and (self.labels is None or name in self.labels)
        }

    def largest_only(self, id2label: Mapping[int, str]) -> list[int]:
        """Indices of the labels of which the largest piece stays."""
        every = ALL in self.keep_largest
        return [index for index, name in self.wanted(id2label).items() if every or name in self.keep_largest]

    def island_ml(self, id2label: Mapping[int, str]) -> dict[int, float]:
        """The smallest island in ml by the label's index; a label's own size goes before that of "all"."""
        sizes = {
            index: self.min_island_ml.get(name, self.min_island_ml.get(ALL))
            for index, name in self.wanted(id2label).items()
        }
        return {index: ml for index, ml in sizes.items() if ml is not None}

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, ready for JSON."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            key: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
            for key, value in content.items()
        }


def _apart_from_all(names: Collection[str]) -> list[str]:
    return [name for name in names if name != ALL]
