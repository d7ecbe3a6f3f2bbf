"""What goes wrong in a training without an error: steps that aren't finite, labels and predictions that say nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["CaseLabels", "LabelChecks", "NonFiniteGuard", "labels_in"]

_NAMED = 12  # cases in one line
_HALVINGS = 40  # from the loss scaler's first scale, 2^16, to float16's smallest number, 2^-24


class NonFiniteGuard:
    """Keeps steps without finite loss and gradient away from the weights, and stops a run that has no others.

    The limit is on skipped steps in a row: one bad image costs a step of every epoch, which no limit on their total
    over a long run should punish, while a run that is lost skips every step from then on.

    Args:
        limit: skipped steps in a row that are borne; 0 stops at the first one.
        say: told of every skipped step.

    Attributes:
        skipped: steps skipped in all.

    Raises:
        ValueError: a limit below 0.
    """

    def __init__(self, limit: int, say: Callable[[str], None]) -> None:
        if limit < 0:
            raise ValueError(f"limit is {limit}: expected a number of skipped steps of at least 0.")
        self.limit, self.say = limit, say
        self.skipped = 0
        self._in_a_row = 0
        self._scaled_down = 0
        self._done = 0

    def accepts(self, step: int, loss: float, norm: float, cases: Sequence[str], *, scaled: bool = False) -> bool:
        """Whether the optimizer may do this step; every process has to come to the same answer.

        Args:
            step: its number, from 1.
            loss: the mean over the batches of all processes.
            norm: of the gradient, before it is clipped, the same on all processes.
            cases: whose slices the step's batches hold, on any process; looked at only where the step isn't finite.
            scaled: there is a loss scaler (fp16). Gradients that overflow are its business as long as the loss is
                finite: it skips the step by itself and scales less. Where this returns False its `update()` must be
                called, which `optimizer.step()` would have done.

        Raises:
            ValueError: more steps in a row than the limit had to be skipped.
        """
        overflow = not math.isfinite(norm)
        if math.isfinite(loss) and not (overflow and not scaled):
            self._in_a_row = 0
            self._scaled_down = self._scaled_down + 1 if overflow else 0
            self._done += not overflow
            if self._scaled_down > _HALVINGS + self.limit:
                raise ValueError(self._why(step, loss, norm, cases, self._scaled_down))
            return True
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row > self.limit:
            raise ValueError(self._why(step, loss, norm, cases, self._in_a_row))
        self.say(
            f"warning     step {step} skipped: the loss is {loss:g}, the gradient's norm {norm:g}, in slices of "
            f"{_listed(cases)} (skipped in all: {self.skipped})"
        )
        return False

    def check_end(self) -> None:
        """Refuse a training that has ended, shorter than the limit maybe, without a single step done.

        Raises:
            ValueError: every step was skipped.
        """
        if not self._done and (self.skipped or self._scaled_down):
            raise ValueError(
                f"The training ended without one finite step, {self.skipped + self._scaled_down} were skipped: there "
                f"is no adapter to save. {_ADVICE}"
            )

    def _why(self, step: int, loss: float, norm: float, cases: Sequence[str], in_a_row: int) -> str:
        steps = "1 step" if in_a_row == 1 else f"{in_a_row} steps in a row"
        return (
            f"The training stopped at step {step}: the loss is {loss:g}, the gradient's norm {norm:g}, in slices of "
            f"{_listed(cases)}; {steps} had to be skipped, max_skipped_steps is {self.limit}. {_ADVICE}"
        )

    def state_dict(self) -> dict[str, Any]:
        """What a continued run has to know; plain numbers."""
        return {
            "skipped": self.skipped,
            "in_a_row": self._in_a_row,
            "scaled_down": self._scaled_down,
            "done": self._done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from [`state_dict`]; the limit stays that of this run."""
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]
        self._scaled_down, self._done = state["scaled_down"], state["done"]


_ADVICE = "Look at these cases (samed-hf validate), or try a lower --learning_rate, --max_grad_norm 1, or "
_ADVICE += "--mixed_precision no."


def _listed(names: Iterable[str]) -> str:
    names = sorted(set(names))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more if names else "unknown cases"


def labels_in(array: np.ndarray) -> frozenset[int]:
    """The values in a map of labels, slice by slice, so that a large one isn't copied.

    Args:
        array: of shape `(slices, height, width)`, integers of at least 0.
    """
    found: set[int] = set()
    for part in array:
        found.update(np.flatnonzero(np.bincount(np.asarray(part).ravel())).tolist())
    return frozenset(found)


class CaseLabels(NamedTuple):
    """Which labels a case's truth holds and which its prediction."""

    name: str
    present: frozenset[int]
    predicted: frozenset[int]


class LabelChecks:
    """Tells, once for each case and label, where truth or prediction is background alone or a label never appears.

    Args:
        id2label: name of each label; 0 is the background.
        say: told of it.
    """

    def __init__(self, id2label: Mapping[int, str], say: Callable[[str], None]) -> None:
        self.id2label, self.say = dict(id2label), say
        self._told: set[object] = set()

    def training(self, cases: Iterable[tuple[str, np.ndarray]]) -> None:
        """Look through the labels that are trained on, before the training.

        Args:
            cases: name and label map, `(slices, height, width)`, of every training case.
        """
        found = {name: labels_in(label) for name, label in cases}
        empty = self._new([name for name, labels in found.items() if not labels - {0}])
        if empty:
            self.say(f"warning     the labels of {_listed(empty)} are background alone: check that it is meant so")
        present = frozenset().union(*found.values())
        for _, label in self._new([("trained", label) for label in self._organs() if label not in present]):
            self.say(
                f"warning     no training case holds {self.id2label[label]} (label {label}): it can't be learned; "
                "check the label's number"
            )

    def predictions(self, step: int, cases: Sequence[CaseLabels]) -> None:
        """Look at an evaluation.

        Args:
            step: optimizer steps done.
            cases: the validation cases of all processes.
        """
        empty = [case.name for case in cases if case.present - {0} and not case.predicted - {0}]
        if empty and len(empty) == sum(bool(case.present - {0}) for case in cases):
            if self._new(["everything"]):
                self.say(
                    f"warning     after step {step} the model predicts background alone in every validation case "
                    f"({_listed(empty)}): usual at first; if it lasts, try another --learning_rate"
                )
            return
        new = self._new([("predicted", name) for name in empty])
        if new:
            self.say(
                f"warning     after step {step} {_listed(name for _, name in new)} is predicted as background alone"
            )
        present = frozenset().union(*(case.present for case in cases))
        predicted = frozenset().union(*(case.predicted for case in cases))
        never = self._new([("never", label) for label in self._organs() if label in present - predicted])
        if never:
            names = ", ".join(self.id2label[label] for _, label in never)
            self.say(f"warning     after step {step} predicted in no validation case: {names}")

    def _organs(self) -> list[int]:
        return [label for label in self.id2label if label != 0]

    def _new(self, things: Sequence[Any]) -> list[Any]:
        """Those not told yet."""
        new = [thing for thing in things if thing not in self._told]
        self._told.update(new)
        return new
