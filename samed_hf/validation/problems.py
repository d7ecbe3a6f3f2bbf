"""What is found in a data set: how bad it is, of which kind, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..utils.text import printable

__all__ = ["KINDS", "SEVERITIES", "Problem", "sort_problems"]

SEVERITIES = ("error", "warning", "note")

KINDS = {
    "unreadable": "Files that can't be read",
    "geometry": "Image and label don't fit together",
    "header": "Doubtful geometry in the header",
    "label-values": "Label values without a name",
    "no-labels-between": "Label maps that are none",
    "not-finite": "NaN or infinite intensities",
    "constant": "Scans of one intensity",
    "range": "Intensities out of the layout's range",
    "units": "Intensities that aren't Hounsfield units",
    "leak": "The same case in two splits",
    "duplicate": "The same scan twice",
    "same-label": "The same label map twice",
    "missing-class": "Labels missing from a split",
    "empty": "Cases without any label",
    "tiny": "Labels of a few voxels",
    "sparse": "Labels in single slices only",
    "mostly-labelled": "Hardly any background",
    "swapped": "Labels on the wrong side",
    "spacing": "Spacing",
    "size": "Size",
    "orientation": "Orientation",
    "types": "Types of numbers",
    "unused": "Files that nothing uses",
    "splits": "Splits",
    "data-set": "What the data set lacks",
}
"""Heading of each kind of problem."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data set, or worth knowing.

    Attributes:
        severity: "error": training would fail or its scores would lie; "warning": probably a mistake; "note".
        kind: a key of [`KINDS`].
        text: what is wrong and what to do, one line.
        case: the case's name; `None` where it is about the whole data set.
        split: "train", "validation" or "test", where it is about one.
    """

    severity: str
    kind: str
    text: str
    case: str | None = None
    split: str | None = None

    @property
    def line(self) -> str:
        """The problem in one line that starts with the case's name."""
        return printable(self.text if self.case is None else f"{self.case}: {self.text}")

    def to_dict(self) -> dict[str, str | None]:
        """The problem for JSON."""
        return {
            "severity": self.severity,
            "kind": self.kind,
            "case": self.case,
            "split": self.split,
            "text": printable(self.text),
        }


def sort_problems(problems: Iterable[Problem]) -> list[Problem]:
    """The worst first, kinds and cases together."""
    kinds = list(KINDS)
    return sorted(
        problems, key=lambda one: (SEVERITIES.index(one.severity), kinds.index(one.kind), one.case or "", one.text)
    )
