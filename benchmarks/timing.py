"""Timing of alternatives in turn, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["time_in_turn"]


def time_in_turn(
    alternatives: Mapping[str, Callable[[], Any]], *, rounds: int = 7, warm_up: int = 1
) -> dict[str, float]:
    """Median seconds of each function, called one after the other in every round.

    Args:
        alternatives: the functions by name.
        rounds: how often each is timed.
        warm_up: how often each is called before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for turn in range(-warm_up, rounds):
        for name, function in alternatives.items():
            _wait()
            started = time.perf_counter()
            function()
            _wait()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _wait() -> None:
    """Until an accelerator has done what it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
