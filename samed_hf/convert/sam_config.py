"""The `SamConfig` of an original Segment Anything checkpoint, derived from the names and shapes of its tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import SamConfig

from .checkpoint import check_tensors, count_decoder, count_indexes, most_common
from .keys import sam_keys

__all__ = ["read_sam_config"]

# The tensors from which sizes are read, and their numbers of dimensions.
_PATCHES = "image_encoder.patch_embed.proj.weight"
_POSITIONS = "image_encoder.pos_embed"
_MLP = "image_encoder.blocks.0.mlp.lin1.weight"
_NECK = "image_encoder.neck.0.weight"
_MASK = "prompt_encoder.mask_downscaling.3.weight"
_DECODER_MLP = "mask_decoder.transformer.layers.0.mlp.lin1.weight"
_ATTENTION = "mask_decoder.transformer.final_attn_token_to_image.q_proj.weight"
_IOU = "mask_decoder.iou_prediction_head.layers.0.weight"
_DIMENSIONS = {_PATCHES: 4, _POSITIONS: 4, _MLP: 2, _NECK: 4, _MASK: 4, _DECODER_MLP: 2, _ATTENTION: 2, _IOU: 2}


def read_sam_config(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    decoder_heads: int,
    global_attn_indexes: Sequence[int] | None,
) -> tuple[dict[str, str], SamConfig]:
    """Derive the names and the config of a `SamModel` from a checkpoint.

    Args:
        path: the checkpoint, for messages.
        tensors: its tensors by name.
        decoder_heads: number of heads of the mask decoder's attentions.
        global_attn_indexes: blocks with global attention; `None` derives them from the relative position tables.

    Returns:
        Original name → name in `SamModel` of every tensor, and the config.

    Raises:
        ValueError: a tensor from which a size is read is missing or has another number of dimensions (the message then
            names all missing and unknown tensors), or an option does not fit. Other shapes are not checked.
    """
    counts = {"depth": count_indexes(tensors, "image_encoder.blocks.")} | count_decoder(tensors)
    names = sam_keys(**counts)
    tables = [f"image_encoder.blocks.{index}.attn.rel_pos_{axis}" for index in range(counts["depth"]) for axis in "hw"]
    unreadable = {
        key: f"{dims} dimensions"
        for key, dims in (_DIMENSIONS | dict.fromkeys(tables, 2)).items()
        if key not in tensors or tensors[key].ndim != dims or not tensors[key].numel()
    }
    if unreadable:
        check_tensors(path, tensors, dict.fromkeys(names) | unreadable)
    vision = _vision_config(tensors, counts["depth"], [tensors[table].shape for table in tables], global_attn_indexes)
    prompt_encoder = {
        "hidden_size": vision["output_channels"],
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "mask_input_channels": tensors[_MASK].shape[0],
    }
    decoder = _decoder_config(tensors, counts, vision["output_channels"], decoder_heads)
    return names, SamConfig(vision_config=vision, prompt_encoder_config=prompt_encoder, mask_decoder_config=decoder)


def _vision_config(
    tensors: Mapping[str, torch.Tensor], depth: int, tables: Sequence[torch.Size], indexes: Sequence[int] | None
) -> dict[str, Any]:
    hidden_size, num_channels, patch_size, _ = tensors[_PATCHES].shape
    grid = tensors[_POSITIONS].shape[1]
    lengths = [(table[0] + 1) // 2 for table in tables]
    windows = [lengths[2 * index : 2 * index + 2] for index in range(depth)]
    blocks = _global_blocks(windows, grid, indexes)
    local = [length for index, pair in enumerate(windows) if index not in blocks for length in pair]
    return {
        "hidden_size": hidden_size,
        "output_channels": tensors[_NECK].shape[0],
        "num_hidden_layers": depth,
        "num_attention_heads": max(1, hidden_size // most_common([table[1] for table in tables])),
        "num_channels": num_channels,
        "image_size": grid * patch_size,
        "patch_size": patch_size,
        "window_size": most_common(local, default=grid),
        "global_attn_indexes": blocks,
        "num_pos_feats": tensors[_NECK].shape[0] // 2,
        "mlp_ratio": tensors[_MLP].shape[0] / hidden_size,
        "mlp_dim": tensors[_MLP].shape[0],
    }


def _global_blocks(windows: Sequence[Sequence[int]], grid: int, requested: Sequence[int] | None) -> list[int]:
    """Return the blocks with global attention; `windows` holds each block's window height and width in patches."""
    if requested is not None:
        if not set(requested) <= set(range(len(windows))):
            raise ValueError(
                f"global_attn_indexes is {list(requested)}, expected indexes of blocks, 0 to {len(windows) - 1}."
            )
        return sorted(set(requested))
    if all(set(pair) == {grid} for pair in windows):
        raise ValueError(
            f"All relative position tables have the length {2 * grid - 1} of the whole grid, so blocks with global "
            "attention cannot be distinguished from blocks with windows: list them in global_attn_indexes "
            "(Segment Anything's ViT-B: 2, 5, 8, 11; ViT-L: 5, 11, 17, 23; ViT-H: 7, 15, 23, 31)."
        )
    return [index for index, pair in enumerate(windows) if grid in pair]


def _decoder_config(
    tensors: Mapping[str, torch.Tensor], counts: Mapping[str, int], width: int, heads: int
) -> dict[str, Any]:
    downsample_rate = max(1, width // tensors[_ATTENTION].shape[0])
    if heads < 1 or (width // downsample_rate) % heads:
        raise ValueError(
            f"decoder_heads is {heads}, expected a divisor of {width // downsample_rate}, the width of the mask "
            "decoder's cross-attentions; Segment Anything has 8 heads."
        )
    return {
        "hidden_size": width,
        "mlp_dim": tensors[_DECODER_MLP].shape[0],
        "num_hidden_layers": counts["decoder_layers"],
        "num_attention_heads": heads,
        "attention_downsample_rate": downsample_rate,
        "num_multimask_outputs": counts["num_masks"] - 1,
        "iou_head_depth": counts["iou_depth"],
        "iou_head_hidden_dim": tensors[_IOU].shape[0],
        "layer_norm_eps": 1e-5,  # as in Segment Anything; transformers' default is 1e-6
    }
