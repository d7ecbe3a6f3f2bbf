"""A small SAM of random weights, for demonstrations and tests where no pretrained one can be had."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn
from transformers import SamConfig, SamModel

__all__ = ["make_random_sam"]


def make_random_sam(
    output: str | os.PathLike,
    *,
    image_size: int = 256,
    hidden_size: int = 192,
    num_layers: int = 4,
    num_heads: int = 6,
    embedding_size: int = 64,
    seed: int = 0,
) -> Path:
    """Write a SAM with random weights as a transformers checkpoint. It has learnt nothing.

    The linear and convolutional layers have PyTorch's default initialisation, the position tables a normal one:
    transformers would leave the encoder's near zero, and a frozen encoder of zeros sees nothing.

    Args:
        output: folder of the checkpoint.
        image_size: input size in pixels, a multiple of 16.
        hidden_size: width of the encoder, a multiple of `num_heads`.
        num_layers: blocks of the encoder; the middle one and the last attend globally.
        num_heads: heads of the encoder's attention.
        embedding_size: width of the image embedding and of the decoder, a multiple of 8.
        seed: of the weights; torch's global random state isn't touched.

    Returns:
        The folder.
    """
    config = SamConfig(
        vision_config={
            "hidden_size": hidden_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": num_heads,
            "window_size": 7,
            "global_attn_indexes": sorted({max(0, num_layers // 2 - 1), num_layers - 1}),
            "image_size": image_size,
            "output_channels": embedding_size,
            "num_pos_feats": embedding_size // 2,
        },
        prompt_encoder_config={"hidden_size": embedding_size, "image_size": image_size},
        mask_decoder_config={
            "hidden_size": embedding_size,
            "mlp_dim": 4 * embedding_size,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": embedding_size,
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SamModel(config)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                    module.reset_parameters()
            for name, parameter in model.vision_encoder.named_parameters():
                if "pos" in name.rpartition(".")[2]:
                    nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(output)
    return Path(output)
