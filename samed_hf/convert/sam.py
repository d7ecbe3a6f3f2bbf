"""Segment Anything or MedSAM `.pth` → directory of a `SamModel`, whose config follows from the tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import SamConfig, SamModel

from ..utils.atomic import atomic_update
from .checkpoint import (
    check_output_dir,
    check_tensors,
    count_decoder,
    count_indexes,
    is_samed,
    most_common,
    read_checkpoint,
)
from .keys import POSITIONAL_MATRIX, sam_keys

__all__ = ["convert_sam"]

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


def convert_sam(
    checkpoint: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    decoder_heads: int = 8,
    global_attn_indexes: Sequence[int] | None = None,
) -> Path:
    """Convert a Segment Anything or MedSAM checkpoint to a directory for `SamModel.from_pretrained`, and return it.

    The sizes are read from the shapes of the tensors. A block of the image encoder has global attention if its relative
    position tables have the length of the whole grid of patches, otherwise window attention.

    Args:
        checkpoint: the `.pth` file.
        output_dir: directory for `config.json` and `model.safetensors`; created if missing.
        decoder_heads: heads of the mask decoder's attentions, which cannot be derived from the tensors.
        global_attn_indexes: blocks of the image encoder with global attention, from 0. Required only if the window is
            as large as the grid (224 pixels with windows of 14): all tables then have the same length.

    Raises:
        ValueError: the file is no checkpoint or holds pickled code; tensors are missing, unknown or of another shape
            (the message names each of them); or an option does not fit the tensors.
    """
    directory = check_output_dir(output_dir, conflicting="adapter_config.json")
    tensors = read_checkpoint(checkpoint)
    if not any(key.startswith("image_encoder.") for key in tensors):
        kind = "a SAMed checkpoint, use convert_samed" if is_samed(tensors) else "the checkpoint of another model"
        raise ValueError(f"checkpoint {str(checkpoint)!r} holds no image_encoder tensor: it seems to be {kind}.")
    names, config = _read_config(checkpoint, tensors, decoder_heads, global_attn_indexes)
    with torch.device("meta"):
        model = SamModel(config)
    check_tensors(checkpoint, tensors, {key: tuple(model.get_parameter(name).shape) for key, name in names.items()})
    # safetensors refuses views, so each tensor gets its own memory.
    state = {name: tensors.pop(key).float().clone(memory_format=torch.contiguous_format) for key, name in names.items()}
    state["prompt_encoder.shared_embedding.positional_embedding"] = state[names[POSITIONAL_MATRIX]]
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    with atomic_update(directory) as temporary:
        model.save_pretrained(temporary)
    return Path(output_dir)


def _read_config(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    decoder_heads: int,
    global_attn_indexes: Sequence[int] | None,
) -> tuple[dict[str, str], SamConfig]:
    """Original name → name in `SamModel` of every tensor, and the config; checks the shapes that it reads."""
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
    """The blocks with global attention; `windows` are each block's window height and width in patches."""
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
