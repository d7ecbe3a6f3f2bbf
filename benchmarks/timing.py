"""Interleaved timing of alternatives, so that other load on the machine affects all of them equally."""

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
    """Return the median seconds of each function; every round calls all functions in turn.

    Args:
        alternatives: the functions by name.
        rounds: number of timed calls of each function.
        warm_up: number of calls of each function before timing starts.
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
    """Wait until the accelerator, if there is one, has finished its work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
