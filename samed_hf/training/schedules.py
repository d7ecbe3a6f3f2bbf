"""The learning rate of SAMed: linear warmup, then polynomial decay (SAMed, section 3.4)."""

from __future__ import annotations

__all__ = ["warmup_polynomial"]


def warmup_polynomial(step: int, *, warmup_steps: int, horizon: int, power: float = 0.9) -> float:
    """Return the factor on the base learning rate at an optimizer step.

    The reference sets the rate after each optimizer step, so the first two steps share the rate `1 / warmup_steps`, and
    every later one has that of the step before: `step / warmup_steps` during the warmup, then
    `(1 - (step - 1 - warmup_steps) / horizon) ** power`.

    Args:
        step: steps done before this one, from 0.
        warmup_steps: steps of the warmup; 0 for none (250 in SAMed).
        horizon: steps over which the rate falls to zero, counted from the end of the warmup; SAMed's is 200 epochs,
            although it stops after 160.
        power: exponent of the decay; 0.9 in SAMed, 7 in SAMed_h.

    Returns:
        A factor in [0, 1].
    """
    done = max(0, step - 1)
    if done < warmup_steps:
        return (done + 1) / warmup_steps
    return max(0.0, 1.0 - (done - warmup_steps) / horizon) ** power
