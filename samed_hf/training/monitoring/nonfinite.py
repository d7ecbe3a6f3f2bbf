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
    """Keeps steps without finite loss and gradient away from the weights, and stops a run that has no others.

    The limit is on skipped steps in a row: one bad image costs a step of every epoch, which no limit on their total
    over a long run should punish, while a run that is lost skips every step from then on.

    Args:
        limit: skipped steps in a row that are borne; 0 stops at the first one.

    Attributes:
        skipped: steps skipped in all.

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
        logger.warning(
            f"step {step} skipped: the loss is {loss:g}, the gradient's norm {norm:g}, in slices of "
            f"{list_cases(cases)} (skipped in all: {self.skipped})"
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
            f"{list_cases(cases)}; {steps} had to be skipped, max_skipped_steps is {self.limit}. {_ADVICE}"
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
