"""Warnings about labels that are never trained or predicted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...reporting.formatting import format_names
from ..distributed.logging import get_logger

__all__ = ["CaseLabels", "LabelChecks", "labels_in", "list_cases"]

logger = get_logger(__name__)

_MAX_NAMES = 12


def list_cases(names: Iterable[str]) -> str:
    """Join sorted names of cases for a message: at most twelve, and the number of others."""
    return format_names(sorted(set(names)), _MAX_NAMES) or "unknown cases"


def labels_in(array: np.ndarray) -> frozenset[int]:
    """Return the values in a label map; it is read slice by slice to save memory.

    Args:
        array: of shape `(slices, height, width)`, integers of at least 0.
    """
    found: set[int] = set()
    for part in array:
        found.update(np.flatnonzero(np.bincount(np.asarray(part).ravel())).tolist())
    return frozenset(found)


class CaseLabels(NamedTuple):
    """The labels in a case's truth and in its prediction."""

    name: str
    present: frozenset[int]
    predicted: frozenset[int]


class LabelChecks:
    """Warns once for each case without any label, and once for each label without any case, in truth or prediction.

    Args:
        id2label: name of each label; 0 is the background.
    """

    def __init__(self, id2label: Mapping[int, str]) -> None:
        self.id2label = dict(id2label)
        self._reported: set[object] = set()

    def training(self, cases: Iterable[tuple[str, np.ndarray]]) -> None:
        """Check the training labels before the training.

        Args:
            cases: name and label map, `(slices, height, width)`, of every training case.
        """
        found = {name: labels_in(label) for name, label in cases}
        empty = self._new([name for name, labels in found.items() if not labels - {0}])
        if empty:
            logger.warning(f"the labels of {list_cases(empty)} are background alone: check that this is intended")
        present = frozenset().union(*found.values())
        for _, label in self._new([("trained", label) for label in self._organs() if label not in present]):
            logger.warning(
                f"no training case holds {self.id2label[label]} (label {label}): it can't be learned; "
                "check the label's number"
            )

    def predictions(self, step: int, cases: Sequence[CaseLabels]) -> None:
        """Check the predictions of a validation.

        Args:
            step: optimizer steps done.
            cases: the validation cases of all processes.
        """
        empty = [case.name for case in cases if case.present - {0} and not case.predicted - {0}]
        if empty and len(empty) == sum(bool(case.present - {0}) for case in cases):
            if self._new(["everything"]):
                logger.warning(
                    f"after step {step} the model predicts background alone in every validation case "
                    f"({list_cases(empty)}): usual at first; if it lasts, try another --learning_rate"
                )
            return
        new = self._new([("predicted", name) for name in empty])
        if new:
            logger.warning(f"after step {step} {list_cases(name for _, name in new)} is predicted as background alone")
        present = frozenset().union(*(case.present for case in cases))
        predicted = frozenset().union(*(case.predicted for case in cases))
        never = self._new([("never", label) for label in self._organs() if label in present - predicted])
        if never:
            names = ", ".join(self.id2label[label] for _, label in never)
            logger.warning(f"after step {step} predicted in no validation case: {names}")

    def _organs(self) -> list[int]:
        return [label for label in self.id2label if label != 0]

    def _new(self, keys: Sequence[Any]) -> list[Any]:
        """Return the keys that have not been reported yet."""
        new = [key for key in keys if key not in self._reported]
        self._reported.update(new)
        return new
