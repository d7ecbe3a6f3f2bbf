"""The image encoder's block with separate projections of q, k and v, so that LoRA can adapt two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.sam.configuration_sam import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionLayer

from .attention import (
    Windows,
    attend,
    attend_at_border,
    cut_windows,
    exporting,
    join_windows,
    relative_terms,
    runs_in_tiles,
    window_groups,
)

__all__ = ["SamedVisionAttention", "SamedVisionLayer", "fuse_projections", "is_fused"]

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_ALIGNMENT = 8  # channels of a head


class SamedVisionAttention(SamVisionAttention):
    """The encoder's attention with three projections, so that LoRA can adapt q and v alone.

    Windows are cut after projecting: a padded token is zero, so its q, k and v equal the biases and are not computed,
    and every projection receives one batch entry for each image. With `attn_implementation="sdpa"`, the default, a CPU
    computes it in tiles ([`samed_hf.model.attention`]), an accelerator with PyTorch's fused kernels.
    """

    def __init__(self, config: SamVisionConfig, window_size: int) -> None:
        super().__init__(config, window_size)
        del self.qkv
        self.config = config
        self.window_size = window_size
        for name in _PROJECTIONS:
            setattr(self, name, nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias))

    def fuse_projections(self) -> None:
        """Fuse the three projections to `qkv`, as in a plain SAM; none of them may be adapted."""
        if hasattr(self, "qkv"):
            return
        parts = [getattr(self, name) for name in _PROJECTIONS]
        bias = torch.cat([part.bias for part in parts]) if self.config.qkv_bias else None
        self.qkv = _linear(torch.cat([part.weight for part in parts]), bias, parts[0].weight.requires_grad)
        for name in _PROJECTIONS:
            delattr(self, name)

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any) -> None:
        """Load from `qkv` too, as which a whole model is saved; transformers' Trainer loads its files unconverted."""
        for kind in ("weight", "bias"):
            if not hasattr(self, "qkv") and (fused := state_dict.pop(f"{prefix}qkv.{kind}", None)) is not None:
                parts = zip(_PROJECTIONS, fused.chunk(3), strict=True)
                state_dict |= {f"{prefix}{name}.{kind}": part for name, part in parts}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def split_projections(self) -> None:
        """The inverse of [`fuse_projections`]."""
        if not hasattr(self, "qkv"):
            return
        biases = self.qkv.bias.chunk(3) if self.config.qkv_bias else (None,) * 3
        for name, weight, bias in zip(_PROJECTIONS, self.qkv.weight.chunk(3), biases, strict=True):
            setattr(self, name, _linear(weight, bias, self.qkv.weight.requires_grad))
        del self.qkv

    def forward(  # type: ignore[override]  # whether weights are returned depends on the attention alone
        self, hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attention among the tokens of each window, or of the whole image if `window_size` is 0.

        `(batch_size, height, width, hidden_size)` to the same shape, and the attention weights (`None` with SDPA).
        """
        projected = self._project(hidden_states)
        padding = None
        if self.window_size and any(side % self.window_size for side in hidden_states.shape[1:3]):
            # Not the biases alone: adapters may change them (IA3, `lora_bias`), and offloaded weights are on no device
            # until their module is called.
            count = 1 if exporting() else hidden_states.shape[0]
            padding = self._project(hidden_states.new_zeros(count, 1, 1, hidden_states.shape[-1]))[1:]
        terms = None
        if self.use_rel_pos:
            terms = relative_terms(projected[0], self.rel_pos_h, self.rel_pos_w, self.num_attention_heads)
        dropout = self.dropout if self.training else 0.0
        eager = self.config._attn_implementation == "eager"
        if terms is not None and not (eager or dropout) and runs_in_tiles(hidden_states):
            return self.proj(self._in_tiles([*projected, *terms], padding)), None
        context, weights = self._in_one_product(projected, padding, terms, dropout, eager)
        return self.proj(context), weights

    def _project(self, hidden_states: torch.Tensor) -> Sequence[torch.Tensor]:
        """Query, key and value of tokens of any shape `(…, hidden_size)`."""
        if hasattr(self, "qkv"):
            return self.qkv(hidden_states).chunk(3, dim=-1)
        return [getattr(self, name)(hidden_states) for name in _PROJECTIONS]

    def _in_tiles(self, tokens: Sequence[torch.Tensor], padding: Sequence[torch.Tensor] | None) -> torch.Tensor:
        """Attend image by image, or in groups of windows of one size."""
        batch_size, height, width, _ = tokens[0].shape
        if self.window_size:
            if exporting():  # all are cut at once, for a smaller graph
                tokens = [one.unflatten(3, (self.num_attention_heads, -1)) for one in tokens]
                tokens = [torch.cat(tokens, dim=-1).flatten(3)]
            groups = window_groups(height, width, self.window_size)
            rows = [torch.cat([self._in_group(tokens, padding, group) for group in row], dim=2) for row in groups]
            return torch.cat(rows, dim=1)
        tokens = [one.unflatten(3, (self.num_attention_heads, -1)).flatten(1, 2).transpose(1, 2) for one in tokens]
        if exporting():  # the batch size isn't known
            context = attend(*tokens).transpose(1, 2)
        else:
            images = [attend(*(one[index] for one in tokens)).transpose(0, 1) for index in range(batch_size)]
            context = images[0][None] if batch_size == 1 else torch.stack(images)
        return context.reshape(batch_size, height, width, -1)

    def _in_group(
        self, tokens: Sequence[torch.Tensor], padding: Sequence[torch.Tensor] | None, windows: Windows
    ) -> torch.Tensor:
        batch_size, grid, heads = tokens[0].shape[0], (windows.height, windows.width), self.num_attention_heads
        cut = [cut_windows(one, windows, heads) for one in tokens]
        size, channels = self.window_size, self.config.hidden_size // heads
        tokens = cut if len(cut) > 1 else cut[0].split([channels, channels, channels, size, size], dim=-1)
        if padding is None or grid == (self.window_size, self.window_size):
            context = attend(*(one.flatten(0, 1) for one in tokens)).unflatten(0, tokens[0].shape[:2])
        else:
            one = Windows((0, 1), (0, 1), 1, 1)
            cut = [cut_windows(token, one, heads) for token in padding]
            if exporting():  # one token for all batch entries
                cut = [token.expand(tokens[0].shape[0], -1, -1, -1) for token in cut]
            else:
                cut = [token.repeat_interleave(len(tokens[0]) // batch_size, 0) for token in cut]
            context = attend_at_border(tokens, grid, cut)
        return join_windows(context, windows, batch_size)

    def _in_one_product(
        self,
        projected: Sequence[torch.Tensor],
        padding: Sequence[torch.Tensor] | None,
        terms: Sequence[torch.Tensor] | None,
        dropout: float,
        eager: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend in all windows of the image at once, with padding, which is faster on accelerators."""
        batch_size, height, width, _ = projected[0].shape
        size = self.window_size
        rows, columns = (math.ceil(length / size) * size if size else length for length in (height, width))
        windows = Windows((0, rows), (0, columns), size or rows, size or columns)

        def cut(tokens: torch.Tensor, token: torch.Tensor | None = None) -> torch.Tensor:
            if padding is not None:
                missing = (0, 0, 0, columns - width, 0, rows - height)
                padded = F.pad(tokens, missing)
                if token is not None:
                    padded = padded + F.pad(torch.zeros_like(tokens[..., :1]), missing, value=1.0) * token
                tokens = padded
            return cut_windows(tokens, windows, self.num_attention_heads)

        query = cut(projected[0])
        key, value = (cut(*pair) for pair in zip(projected[1:], padding or (None, None), strict=True))
        bias = weights = None
        if terms is not None:  # those of padded queries don't matter
            of_rows, of_columns = (cut(term) for term in terms)
            bias = (of_rows.unsqueeze(-1) + of_columns.unsqueeze(-2)).flatten(-2)
        if eager:
            scores = (query * self.scale) @ key.transpose(-2, -1)
            scores = scores if bias is None else scores + bias
            weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
            context = F.dropout(weights, p=dropout) @ value
        else:
            # Fused kernels need whole multiples of channels in a head: SlimSAM-77 has 14.
            if missing := -query.shape[-1] % _ALIGNMENT:
                query, key, value = (F.pad(one, (0, missing)) for one in (query, key, value))
            scale = self.scale if missing else None
            context = F.scaled_dot_product_attention(query, key, value, bias, dropout_p=dropout, scale=scale)
            context = context[..., : context.shape[-1] - missing]
            if torch.compiler.is_exporting():  # the kernels that an export chooses between differ in strides
                context = context.clone(memory_format=torch.contiguous_format)
        context = join_windows(context, windows, batch_size)[:, :height, :width]
        return context.reshape(batch_size, height, width, -1), weights


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, requires_grad: bool) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad)
    return linear


class SamedVisionLayer(SamVisionLayer):
    """SAM's encoder block around [`SamedVisionAttention`]."""

    def __init__(self, config: SamVisionConfig, window_size: int) -> None:
        super().__init__(config, window_size)
        self.attn = SamedVisionAttention(config, window_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # a tensor, as SAM's does
        """`(batch_size, height, width, hidden_size)` to the same shape."""
        # The patch embedding's output has its channels first in memory: every normalisation would copy it.
        hidden_states = hidden_states.contiguous()
        attended, _ = self.attn(self.layer_norm1(hidden_states))
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


def fuse_projections(encoder: nn.Module, fused: bool) -> None:
    """Fuse q, k and v in every block of an encoder, or split them: adapters adapt q and v alone."""
    for module in encoder.modules():
        if isinstance(module, SamedVisionAttention):
            module.fuse_projections() if fused else module.split_projections()


def is_fused(encoder: nn.Module) -> bool:
    """Whether the blocks of an encoder have one projection for q, k and v."""
    return any(isinstance(module, SamedVisionAttention) and hasattr(module, "qkv") for module in encoder.modules())
