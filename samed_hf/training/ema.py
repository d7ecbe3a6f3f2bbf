"""The exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .distributed.fsdp import shard_like

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage:
    """Float32 averages of weights.

    The n-th update is `average = d · average + (1 - d) · weight` with `d = min(decay, (1 + n) / (10 + n))`, so that the
    initial weights have little influence even on a short run.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay is {decay}: expected a share in [0, 1), e.g. 0.999.")
        self.parameters, self.decay, self.updates = list(parameters), decay, 0
        # A copy even where the weights are float32 already.
        self._averages = [parameter.detach().to(torch.float32, copy=True) for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages; call it after every optimizer step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        weights = [parameter.detach().float() for parameter in self.parameters]
        get_ema_multi_avg_fn(decay)(self._averages, weights, self.updates)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the weights by the averages for the duration of a block, and restore them bit for bit."""
        kept = [parameter.detach().clone() for parameter in self.parameters]
        self.apply()
        try:
            yield
        finally:
            self.apply(kept)

    @torch.no_grad()
    def apply(self, values: Sequence[torch.Tensor] | None = None) -> None:
        """Replace the weights by the averages, or by `values`."""
        for parameter, value in zip(self.parameters, self._averages if values is None else values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages by the weights' numbers, and the number of updates; sharded ones stay sharded."""
        return {"updates": self.updates, "averages": {str(n): average for n, average in enumerate(self._averages)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore [`state_dict`] with whole tensors, whose shapes must be those of the weights."""
        averages = state["averages"]
        found = {number: tuple(each.shape) for number, each in averages.items()}
        if found != {str(number): tuple(each.shape) for number, each in enumerate(self._averages)}:
            raise ValueError(
                f"The averages are of {len(found)} weights of other shapes than the {len(self._averages)} trained "
                "here: resume a run with its own settings."
            )
        self.updates = int(state["updates"])
        for number, average in enumerate(self._averages):
            average.copy_(shard_like(average, averages[str(number)]))
