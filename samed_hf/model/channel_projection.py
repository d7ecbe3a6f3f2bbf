"""A trained 1×1 convolution from the channels of a scan to the three that SAM's encoder takes."""

from __future__ import annotations

import torch
from torch import nn
from transformers import initialization as init

__all__ = ["CHANNEL_PROJECTION", "ChannelProjection"]

CHANNEL_PROJECTION = "channel_projection"
"""Name of the module in the model and in an adapter's `modules_to_save`."""


class ChannelProjection(nn.Conv2d):
    """Maps `(batch_size, num_channels, height, width)` to three channels, each at first the mean of a third of them.

    The channels are divided in order into three groups whose sizes differ by one at most, the first ones larger; with
    fewer than three channels the mean of all fills the rest. The bias starts at 0.
    """

    _keep_in_fp32_modules_strict = (CHANNEL_PROJECTION,)  # transformers adds those of the children to the model's

    def __init__(self, num_channels: int) -> None:
        super().__init__(num_channels, 3, kernel_size=1)

    @torch.no_grad()
    def start_from_means(self) -> None:
        """Initialise the weights."""
        weight = torch.zeros(3, self.in_channels)
        for index, group in enumerate(torch.arange(self.in_channels).tensor_split(3)):
            weight[index, group if len(group) else slice(None)] = 1 / (len(group) or self.in_channels)
        init.copy_(self.weight, weight[:, :, None, None])
        if self.bias is not None:
            init.zeros_(self.bias)
