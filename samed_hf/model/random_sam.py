"""A small SAM of random weights, for demonstrations and tests without a pretrained one."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import SamConfig, SamModel

from .initialisation import reset_layers

__all__ = ["make_random_sam"]


def make_random_sam(
    output: str | os.PathLike[str],
    *,
    image_size: int = 256,
    hidden_size: int = 256,
    num_layers: int = 2,
    num_heads: int = 4,
    embedding_size: int = 128,
    seed: int = 0,
) -> Path:
    """Write an untrained SAM as a transformers checkpoint and return its directory.

    A frozen random encoder passes on only part of the image. transformers' initialisation would leave its weights near
    zero; here they have PyTorch's default initialisation, position tables a normal one, and the first and last layers
    of the encoder, which all details pass, an orthogonal one.

    Args:
        output: the directory.
        image_size: input size in pixels, a multiple of 16.
        hidden_size: width of the encoder, a multiple of `num_heads`.
        num_layers: blocks of the encoder; every second one and the last have global attention, the others windows.
        num_heads: heads of the encoder's attention.
        embedding_size: width of the image embedding and of the decoder, a multiple of 8.
        seed: of the weights; torch's global random state stays as it is.
    """
    _check_sizes(image_size, hidden_size, num_layers, num_heads, embedding_size)
    vision = {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "window_size": 7,
        "mlp_dim": 2 * hidden_size,
        "global_attn_indexes": sorted({*range(1, num_layers, 2), num_layers - 1}),
        "image_size": image_size,
        "output_channels": embedding_size,
        "num_pos_feats": embedding_size // 2,
    }
    decoder = {"hidden_size": embedding_size, "mlp_dim": 4 * embedding_size, "num_attention_heads": 4}
    decoder["iou_head_hidden_dim"] = embedding_size
    prompts = {"hidden_size": embedding_size, "image_size": image_size}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
        reset_layers(model)
    model.save_pretrained(output)
    return Path(output)


def _check_sizes(image_size: int, hidden_size: int, num_layers: int, num_heads: int, embedding_size: int) -> None:
    problems = {
        f"image_size is {image_size}, expected a positive multiple of 16": image_size <= 0 or image_size % 16,
        f"num_layers is {num_layers}, expected at least 1": num_layers < 1,
        f"hidden_size is {hidden_size}, expected a multiple of num_heads {num_heads}": hidden_size % num_heads,
        f"embedding_size is {embedding_size}, expected a positive multiple of 8": embedding_size < 8
        or embedding_size % 8,
    }
    if any(problems.values()):
        raise ValueError("; ".join(text for text, applies in problems.items() if applies) + ".")
