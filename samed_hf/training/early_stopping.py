"""The best validation score of a run, and the patience with scores that aren't better."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Remembers the best score and when it came; a run without better ones can be stopped.

    Only a higher score is better: of equal ones the first stays, and NaN never is.

    Args:
        patience: how many evaluations in a row without a better score stop the run, at least 1; `None` never stops it.

    Attributes:
        step: of the best score; `None` before the first one.
        score: the best score so far; `None` before the first one.

    Raises:
        ValueError: a patience below 1.
    """

    def __init__(self, patience: int | None = None) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"patience is {patience}: expected a number of evaluations of at least 1, or None.")
        self.patience = patience
        self.step: int | None = None
        self.score: float | None = None
        self._without = 0

    def add(self, step: int, score: float) -> bool:
        """Note the score of an evaluation after so many optimizer steps; says whether it is the best so far."""
        if math.isnan(score) or (self.score is not None and score <= self.score):
            self._without += 1
            return False
        self.step, self.score, self._without = step, float(score), 0
        return True

    @property
    def stops(self) -> bool:
        """Whether the patience is at its end."""
        return self.patience is not None and self._without >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What a continued run has to know; plain numbers."""
        return {"step": self.step, "score": self.score, "without": self._without}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from [`state_dict`]; the patience stays that of this run, which may be another one."""
        self.step, self.score, self._without = state["step"], state["score"], state["without"]
