"""Problems of a data set: severity, kind and case."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ..utils.text import printable

__all__ = ["KINDS", "SEVERITIES", "Problem", "sort_problems"]

SEVERITIES = ("error", "warning", "note")

KINDS = {
    "unreadable": "Files that can't be read",
    "geometry": "Image and label have different geometry",
    "header": "Doubtful geometry in the header",
    "label-values": "Label values without a name",
    "overlap": "Labels that overlap or are inexact",
    "no-labels-between": "Label values that are no whole numbers",
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
    "unused": "Files without a case",
    "splits": "Splits",
    "data-set": "What the data set lacks",
}
"""Heading of each kind of problem."""


@dataclass(frozen=True)
class Problem:
    """A problem of a data set.

    Attributes:
        severity: "error": training would fail or its scores would be wrong; "warning": probably a mistake; "note".
        kind: e.g. "unreadable" or "geometry".
        text: what is wrong and what to do, one line.
        case: name of the case; `None` for the whole data set.
        split: "train", "validation" or "test", if it concerns one.
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
        """Return the problem for JSON."""
        return asdict(self) | {"text": printable(self.text)}


def sort_problems(problems: Iterable[Problem]) -> list[Problem]:
    """Sort problems by severity, kind and case."""
    ranks = {key: rank for rank, key in enumerate([*SEVERITIES, *KINDS])}
    return sorted(problems, key=lambda one: (ranks[one.severity], ranks[one.kind], one.case or "", one.text))
