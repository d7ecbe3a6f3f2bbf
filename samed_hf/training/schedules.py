"""The learning rate of SAMed: linear warmup, then polynomial decay (SAMed, section 3.4)."""

from __future__ import annotations

__all__ = ["warmup_polynomial"]


def warmup_polynomial(step: int, *, warmup_steps: int, horizon: int, power: float = 0.9) -> float:
    """Return the factor in [0, 1] on the base learning rate after `step` optimizer steps.

    The reference sets the rate after each optimizer step, so the first two steps share the rate `1 / warmup_steps`, and
    every later one has that of the step before: `step / warmup_steps` during the warmup, then
    `(1 - (step - 1 - warmup_steps) / horizon) ** power`. SAMed warms up for 250 steps; its horizon is 200 epochs,
    although it stops after 160, and its power 0.9, 7 in SAMed_h.
    """
    done = max(0, step - 1)
    if done < warmup_steps:
        return (done + 1) / warmup_steps
    return max(0.0, 1.0 - (done - warmup_steps) / horizon) ** power
