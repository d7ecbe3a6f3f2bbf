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
    hidden_size: int = 256,
    num_layers: int = 2,
    num_heads: int = 4,
    embedding_size: int = 128,
    seed: int = 0,
) -> Path:
    """Write a SAM with random weights as a transformers checkpoint. It has learnt nothing.

    A frozen encoder passes on only what its random weights let through. transformers would leave them near zero; here
    they have PyTorch's default initialisation, position tables a normal one, and the layers that every detail of a
    patch has to pass, at the encoder's start and end, an orthogonal one.

    Args:
        output: folder of the checkpoint.
        image_size: input size in pixels, a multiple of 16.
        hidden_size: width of the encoder, a multiple of `num_heads`.
        num_layers: blocks of the encoder; every second one and the last attend globally, the others in windows.
        num_heads: heads of the encoder's attention.
        embedding_size: width of the image embedding and of the decoder, a multiple of 8.
        seed: of the weights; torch's global random state isn't touched.

    Returns:
        The folder.

    Raises:
        ValueError: sizes that don't fit together; every bad one is named.
    """
    problems = {
        f"image_size is {image_size}, expected a positive multiple of 16": image_size <= 0 or image_size % 16,
        f"num_layers is {num_layers}, expected at least 1": num_layers < 1,
        f"hidden_size is {hidden_size}, expected a multiple of num_heads {num_heads}": hidden_size % num_heads,
        f"embedding_size is {embedding_size}, expected a positive multiple of 8": embedding_size < 8
        or embedding_size % 8,
    }
    if any(problems.values()):
        raise ValueError("; ".join(text for text, applies in problems.items() if applies) + ".")
    config = SamConfig(
        vision_config={
            "hidden_size": hidden_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": num_heads,
            "window_size": 7,
            "mlp_dim": 2 * hidden_size,
            "global_attn_indexes": sorted({*range(1, num_layers, 2), num_layers - 1}),
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
            _keep_detail(model.vision_encoder)
    model.save_pretrained(output)
    return Path(output)


def _keep_detail(encoder: nn.Module) -> None:
    """Make the layers around the encoder's blocks, whose input is grey, keep a patch's pixels apart and in place."""
    patches = encoder.patch_embed.projection.weight
    grey = nn.init.orthogonal_(torch.empty(patches.shape[0], patches[0, 0].numel()))
    patches.copy_(grey.reshape(patches.shape[0], 1, *patches.shape[2:]).expand_as(patches) / patches.shape[1])
    nn.init.orthogonal_(encoder.neck.conv1.weight)
    last = encoder.neck.conv2.weight
    middle = nn.init.orthogonal_(torch.empty(last.shape[:2]))
    last.mul_(0.3)[:, :, 1, 1] += middle
