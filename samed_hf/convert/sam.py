"""Segment Anything or MedSAM `.pth` → directory of a `SamModel`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import SamModel

from ..utils.atomic import atomic_update
from .checkpoint import check_output_dir, check_tensors, is_samed, read_checkpoint
from .keys import POSITIONAL_MATRIX
from .sam_config import read_sam_config

__all__ = ["convert_sam"]


def convert_sam(
    checkpoint: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    decoder_heads: int = 8,
    global_attn_indexes: Sequence[int] | None = None,
) -> Path:
    """Convert an original Segment Anything or MedSAM checkpoint to a directory for `SamModel.from_pretrained`.

    The sizes are read from the shapes of the tensors. A block of the image encoder has global attention if its relative
    position tables have the length of the whole grid of patches, otherwise window attention.

    Args:
        checkpoint: the `.pth` file.
        output_dir: directory for `config.json` and `model.safetensors`; created if missing.
        decoder_heads: number of heads of the mask decoder's attentions. It cannot be derived from the tensors.
        global_attn_indexes: blocks of the image encoder with global attention, from 0. Required only if the window is
            as large as the grid (224 pixels with windows of 14): all tables then have the same length.

    Returns:
        `output_dir`.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        ValueError: the file is not a checkpoint or holds pickled code; tensors are missing, unknown or of another shape
            (the message names each of them); or an option does not fit the tensors.
    """
    directory = check_output_dir(output_dir, conflicting="adapter_config.json")
    tensors = read_checkpoint(checkpoint)
    if not any(key.startswith("image_encoder.") for key in tensors):
        kind = "a SAMed checkpoint, use convert_samed" if is_samed(tensors) else "the checkpoint of another model"
        raise ValueError(f"checkpoint {str(checkpoint)!r} holds no image_encoder tensor: it seems to be {kind}.")
    names, config = read_sam_config(checkpoint, tensors, decoder_heads, global_attn_indexes)
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
