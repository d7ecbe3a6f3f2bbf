"""Optimizer steps whose loss or gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..distributed.logging import get_logger
from .label_checks import list_cases

__all__ = ["NonFiniteGuard"]

logger = get_logger(__name__)

_HALVINGS = 40  # from the loss scaler's first scale, 2^16, to float16's smallest number, 2^-24


class NonFiniteGuard:
    """Skips optimizer steps without finite loss and gradient, and stops a run with too many of them in a row.

    The limit is on steps in a row: one bad image costs one step in every epoch, while a run that has diverged skips
    all further steps.

    Args:
        limit: largest number of skipped steps in a row; 0 stops at the first one.

    Attributes:
        skipped: total number of skipped steps.

    Raises:
        ValueError: a limit below 0.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"limit is {limit}: expected a number of skipped steps of at least 0.")
        self.limit = limit
        self.skipped = 0
        self._in_a_row = 0
        self._scaled_down = 0
        self._done = 0

    def accepts(self, step: int, loss: float, norm: float, cases: Sequence[str], *, scaled: bool = False) -> bool:
        """Return whether the optimizer may do this step; the arguments must be the same on all processes.

        Args:
            step: its number, from 1.
            loss: mean over the batches of all processes.
            norm: norm of the gradient before clipping.
            cases: cases in the step's batches, for messages.
            scaled: whether there is a loss scaler (fp16). It skips steps whose gradient overflows at a finite loss by
                itself and reduces the scale. After a rejected step call its `update()`.

        Raises:
            ValueError: more steps in a row than the limit were skipped.
        """
        overflow = not math.isfinite(norm)
        if math.isfinite(loss) and not (overflow and not scaled):
            self._in_a_row = 0
            self._scaled_down = self._scaled_down + 1 if overflow else 0
            self._done += not overflow
            if self._scaled_down > _HALVINGS + self.limit:
                raise ValueError(self._describe_stop(step, loss, norm, cases, self._scaled_down))
            return True
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row > self.limit:
            raise ValueError(self._describe_stop(step, loss, norm, cases, self._in_a_row))
        logger.warning(
            f"step {step} skipped: the loss is {loss:g}, the gradient's norm {norm:g}, in slices of "
            f"{list_cases(cases)} (skipped in all: {self.skipped})"
        )
        return False

    def check_end(self) -> None:
        """Check at the end of the training that at least one step was done.

        Raises:
            ValueError: every step was skipped.
        """
        if not self._done and (self.skipped or self._scaled_down):
            raise ValueError(
                f"The training ended without one finite step, {self.skipped + self._scaled_down} were skipped: there "
                f"is no adapter to save. {_ADVICE}"
            )

    def _describe_stop(self, step: int, loss: float, norm: float, cases: Sequence[str], in_a_row: int) -> str:
        steps = "1 step" if in_a_row == 1 else f"{in_a_row} steps in a row"
        return (
            f"The training stopped at step {step}: the loss is {loss:g}, the gradient's norm {norm:g}, in slices of "
            f"{list_cases(cases)}; {steps} skipped, max_skipped_steps is {self.limit}. {_ADVICE}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the counters."""
        return {
            "skipped": self.skipped,
            "in_a_row": self._in_a_row,
            "scaled_down": self._scaled_down,
            "done": self._done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the counters; the limit is not part of them."""
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]
        self._scaled_down, self._done = state["scaled_down"], state["done"]


_ADVICE = (
    "Check these cases (samed-hf validate), or try a lower --learning_rate, --max_grad_norm 1, or --mixed_precision no."
)
