"""Checks of a training: steps that are not finite, and labels that are never trained or predicted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...utils.text import name_some
from ..distributed.logging import get_logger

__all__ = ["CaseLabels", "LabelChecks", "NonFiniteGuard", "labels_in"]

logger = get_logger(__name__)

_MAX_NAMES = 12
_HALVINGS = 40  # from the loss scaler's first scale, 2^16, to float16's smallest number, 2^-24
_ADVICE = (
    "Check these cases (samed-hf validate), or try a lower --learning_rate, --max_grad_norm 1, or --mixed_precision no."
)


def _list_cases(names: Iterable[str]) -> str:
    """Join sorted names of cases for a message: at most twelve, and the number of others."""
    return name_some(sorted(set(names)), _MAX_NAMES) or "unknown cases"


class NonFiniteGuard:
    """Skips optimizer steps without finite loss and gradient, and stops a run with too many of them in a row.

    The limit is on steps in a row: one bad image costs one step in every epoch, while a run that has diverged skips
    all further steps. 0 stops at the first one. `skipped` is the total number.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"limit is {limit}: expected a number of skipped steps of at least 0.")
        self.limit = limit
        self.skipped = self.in_a_row = self.scaled_down = self.done = 0

    def accepts(self, step: int, loss: float, norm: float, cases: Sequence[str], *, scaled: bool = False) -> bool:
        """Return whether the optimizer may do the step with this number, from 1; the same on all processes.

        `loss` is the mean over the batches of all processes, `norm` that of the gradient before clipping. If there is a
        loss scaler (fp16, `scaled`), it skips steps whose gradient overflows at a finite loss by itself and reduces the
        scale. After a rejected step call its `update()`.
        """
        overflow = not math.isfinite(norm)
        accepted = math.isfinite(loss) and (scaled or not overflow)
        if accepted:
            self.in_a_row = 0
            self.scaled_down = self.scaled_down + 1 if overflow else 0
            self.done += not overflow
        else:
            self.skipped += 1
            self.in_a_row += 1
        where = f"the loss is {loss:g}, the gradient's norm {norm:g}, in slices of {_list_cases(cases)}"
        count = self.scaled_down if accepted else self.in_a_row
        if count > self.limit + (_HALVINGS if accepted else 0):
            steps = "1 step" if count == 1 else f"{count} steps in a row"
            raise ValueError(
                f"The training stopped at step {step}: {where}; {steps} skipped, max_skipped_steps is {self.limit}. "
                f"{_ADVICE}"
            )
        if not accepted:
            logger.warning(f"step {step} skipped: {where} (skipped in all: {self.skipped})")
        return accepted

    def check_end(self) -> None:
        """Check at the end of the training that at least one step was done."""
        if not self.done and (self.skipped or self.scaled_down):
            raise ValueError(
                f"The training ended without one finite step, {self.skipped + self.scaled_down} were skipped: there "
                f"is no adapter to save. {_ADVICE}"
            )

    def state_dict(self) -> dict[str, int]:
        """Return the counters."""
        return {name: count for name, count in vars(self).items() if name != "limit"}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore the counters; the limit is not part of them."""
        vars(self).update({name: int(state[name]) for name in self.state_dict()})


def labels_in(array: np.ndarray) -> frozenset[int]:
    """Return the values in a label map `(slices, height, width)`, which is read slice by slice to save memory."""
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
    """Warns once for each case without any label, and once for each label without any case, in truth or prediction."""

    def __init__(self, id2label: Mapping[int, str]) -> None:
        self.id2label = dict(id2label)
        self._reported: set[object] = set()

    def training(self, cases: Iterable[tuple[str, np.ndarray]]) -> None:
        """Check names and label maps, `(slices, height, width)`, of all training cases before the training."""
        found = {name: labels_in(label) & self.id2label.keys() for name, label in cases}  # without those to ignore
        empty = self._new([name for name, labels in found.items() if not labels - {0}])
        if empty:
            logger.warning(f"the labels of {_list_cases(empty)} are background alone: check that this is intended")
        present = {0}.union(*found.values())
        for _, label in self._new([("trained", label) for label in self.id2label if label not in present]):
            logger.warning(
                f"no training case holds {self.id2label[label]} (label {label}): it can't be learned; "
                "check the label's number"
            )

    def predictions(self, step: int, cases: Sequence[CaseLabels]) -> None:
        """Check the predictions of a validation after `step` optimizer steps: the cases of all processes."""
        empty = [case.name for case in cases if case.present - {0} and not case.predicted - {0}]
        if empty and len(empty) == sum(bool(case.present - {0}) for case in cases):
            if self._new(["everything"]):
                logger.warning(
                    f"after step {step} the model predicts background alone in every validation case "
                    f"({_list_cases(empty)}): usual at first; if it lasts, try another --learning_rate"
                )
            return
        new = self._new([("predicted", name) for name in empty])
        if new:
            logger.warning(f"after step {step} {_list_cases(name for _, name in new)} is predicted as background alone")
        present = frozenset().union(*(case.present for case in cases))
        predicted = {0}.union(*(case.predicted for case in cases))
        never = self._new([("never", label) for label in self.id2label if label in present - predicted])
        if never:
            names = ", ".join(self.id2label[label] for _, label in never)
            logger.warning(f"after step {step} predicted in no validation case: {names}")

    def _new(self, keys: Sequence[Any]) -> list[Any]:
        """Return the keys that have not been reported yet."""
        new = [key for key in keys if key not in self._reported]
        self._reported.update(new)
        return new
