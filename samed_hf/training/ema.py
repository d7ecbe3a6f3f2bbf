"""The exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .distributed.fsdp import full_tensor, shard_like

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage:
    """Averages of weights, kept in float32 beside them.

    After the n-th update `average = d · average + (1 - d) · weight` with `d = min(decay, (1 + n) / (10 + n))`: the
    average of a short run, or of the beginning of a long one, isn't held back by the weights it began with.

    Args:
        parameters: the trained weights; they are read at every update and never kept from changing.
        decay: share of the old average in the new one, in [0, 1).

    Attributes:
        updates: how many there were.

    Raises:
        ValueError: a decay outside of its range.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay is {decay}: expected a share in [0, 1), e.g. 0.999.")
        self.parameters, self.decay, self.updates = list(parameters), decay, 0
        # A copy even where the weights are float32 already.
        self._averages = [parameter.detach().to(torch.float32, copy=True) for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights in; after every optimizer step that was done."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        weights = [parameter.detach().float() for parameter in self.parameters]
        get_ema_multi_avg_fn(decay)(self._averages, weights, self.updates)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages in the weights' place; the weights come back bit for bit, whatever happens in between."""
        kept = [parameter.detach().clone() for parameter in self.parameters]
        self._write(self._averages)
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: Sequence[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """The averages, in the order of the weights, and how many updates they have seen; every process must call."""
        return {"updates": self.updates, "averages": [full_tensor(average).clone() for average in self._averages]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from [`state_dict`].

        Raises:
            ValueError: the averages of other weights.
        """
        found, expected = ([tuple(each.shape) for each in some] for some in (state["averages"], self._averages))
        if found != expected:
            raise ValueError(
                f"The averages are of {len(found)} weights of other shapes than the {len(expected)} trained here: "
                "continue a run with the settings it began with."
            )
        self.updates = int(state["updates"])
        for average, value in zip(self._averages, state["averages"], strict=True):
            average.copy_(shard_like(average, value))
