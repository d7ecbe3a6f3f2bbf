"""The best validation score, and early stopping."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Tracks the best score and its step, and stops after `patience` evaluations in a row without a better one.

    A score is better only if it is higher; NaN never is. Without a patience it never stops.
    """

    def __init__(self, patience: int | None = None) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"patience is {patience}: expected a number of evaluations of at least 1, or None.")
        self.patience = patience
        self.step: int | None = None
        self.score: float | None = None
        self._without = 0

    def add(self, step: int, score: float) -> bool:
        """Add the score of an evaluation at a step, and return whether it is the best so far."""
        if math.isnan(score) or (self.score is not None and score <= self.score):
            self._without += 1
            return False
        self.step, self.score, self._without = step, float(score), 0
        return True

    @property
    def stops(self) -> bool:
        """Whether the last `patience` evaluations were not better."""
        return self.patience is not None and self._without >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, its step and the number of evaluations since."""
        return {"step": self.step, "score": self.score, "without": self._without}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore [`state_dict`]; the patience is not part of it."""
        step, score = state["step"], state["score"]
        self.step, self.score = (None, None) if step is None else (int(step), float(score))
        self._without = int(state["without"])
