"""Conversion of a plain SAM's weights to those of a SAMed model, done by transformers while it loads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, ConversionOps, WeightConverter

from .mask_decoder import LABEL_HEADS

__all__ = ["PLAIN_SAM_HEADS", "PLAIN_SAM_PREFIX", "interpolate_positions", "register_sam_conversion"]

# Prefix under which the label-dependent parts of a plain SAM's decoder match no parameter of the model: they start
# fresh in SAMed even if their shapes match. Those of a SAMed model have the prefix "sam.".
PLAIN_SAM_PREFIX = "plain_sam."
# As `key_mapping` of `from_pretrained`: nothing corresponds to it in a saved model.
PLAIN_SAM_HEADS = {rf"^mask_decoder\.({'|'.join(LABEL_HEADS)})\.": rf"{PLAIN_SAM_PREFIX}\1."}


class InterpolatePositions(ConversionOps):
    """Interpolates a table of positions to the model's image size, bilinearly as SAMed does.

    It is the absolute embedding `(1, height, width, channels)` or a relative one `(2 · size - 1, head_dim)`. With equal
    sizes, as on saving, nothing changes.
    """

    def convert(  # type: ignore[override]  # tensors instead of lists, as transformers' own operations return them
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Interpolate the one tensor of `input_dict` to the shape of the parameter `full_layer_name` of `model`."""
        value = next(iter(input_dict.values()))
        table: torch.Tensor = value[0] if isinstance(value, list) else value
        shape = kwargs["model"].get_parameter(kwargs["full_layer_name"]).shape
        return {target_patterns[0]: interpolate_positions(table, shape)}

    @property
    def reverse_op(self) -> ConversionOps:
        """Itself: a saved table keeps the model's size."""
        return self


def interpolate_positions(table: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A table of positions, absolute or relative, at another size, bilinearly; one of that shape is unchanged."""
    if tuple(table.shape) == tuple(shape):
        return table
    if table.ndim != len(shape) or table.shape[-1] != shape[-1]:
        raise ValueError(f"A table of positions of shape {tuple(table.shape)} can't become one of {tuple(shape)}.")
    absolute = table.ndim == 4
    planes = table.float().permute(0, 3, 1, 2) if absolute else table.float()[None, None]
    planes = F.interpolate(planes, size=tuple(shape[1:3] if absolute else shape), mode="bilinear", align_corners=False)
    resized = planes.permute(0, 2, 3, 1) if absolute else planes[0, 0]
    return resized.to(table.dtype).contiguous()


def register_sam_conversion(class_name: str) -> None:
    """Register with transformers how the model class `class_name` loads a plain SAM, and saves in SAM's layout.

    The fused qkv is split in three, and positions are interpolated.
    """
    positions = ("pos_embed", "rel_pos_h", "rel_pos_w")
    register_checkpoint_conversion_mapping(
        class_name,
        [
            # The escaped dots matter on saving: "self_attn.q_proj" of the decoder must not match.
            WeightConverter(r"\.attn\.qkv", [rf"\.attn\.{name}_proj" for name in "qkv"], operations=[Chunk(dim=0)]),
            *(WeightConverter(rf"\.{name}", rf"\.{name}", operations=[InterpolatePositions()]) for name in positions),
        ],
        overwrite=True,
    )
