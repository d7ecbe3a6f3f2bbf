"""Starting weights from which a SAM without pretraining learns fast, because its attention is local from the start.

transformers' own leave a SAM of random weights on a plateau for thousands of steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import SamModel

__all__ = ["expect_unit_range", "look_at_prompts", "reset_layers", "spread_positions", "start_as_convolutions"]

# Displacements of the heads in tokens, as of the weights of a convolution with a 3 x 3 kernel.
_NEIGHBOURS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1), (-1, 1), (1, -1))


@torch.no_grad()
def reset_layers(model: SamModel) -> None:
    """Give all layers PyTorch's initialisation, instead of weights near zero, and position tables a normal one.

    The first and the last layers of the encoder, which all details pass, get an orthogonal one, so that they keep the
    pixels of a grey patch apart.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.reset_parameters()
    for name, parameter in model.vision_encoder.named_parameters():
        if "pos" in name.rpartition(".")[2]:
            nn.init.normal_(parameter, std=0.1)
    encoder: Any = model.vision_encoder
    patches = encoder.patch_embed.projection.weight
    grey = nn.init.orthogonal_(torch.empty(patches.shape[0], patches[0, 0].numel()))
    patches.copy_(grey.reshape(patches.shape[0], 1, *patches.shape[2:]).expand_as(patches) / patches.shape[1])
    nn.init.orthogonal_(encoder.neck.conv1.weight)
    last = encoder.neck.conv2.weight
    middle = nn.init.orthogonal_(torch.empty(last.shape[:2]))
    last.mul_(0.3)[:, :, 1, 1] += middle


@torch.no_grad()
def expect_unit_range(model: SamModel) -> None:
    """Let the patch embedding normalise images in [0, 1], which SAMed does not, by a mean of 0.45 and 0.25."""
    encoder: Any = model.vision_encoder
    embedding = encoder.patch_embed.projection
    embedding.weight.div_(0.25)
    embedding.bias.sub_(0.45 * embedding.weight.sum(dim=(1, 2, 3)))


@torch.no_grad()
def start_as_convolutions(model: SamModel) -> None:
    """Let each head of the encoder attend to one neighbour of the query, as ConViT's do (arXiv 2103.10697).

    SAM adds q · R(d) to the scores, R the table of the displacement d of the query from the key, for rows and for
    columns. With d² and d in two dimensions of R, and -a and 2ao in those of q's bias, the sum is -a (d - o)² and a
    constant: a bell around the displacement o of the head. It is one token in windows and two in global attention. The
    weights of q and k start small, so that the content adds to it later.
    """
    vision: Any = model.config.vision_config
    hidden_size, channels = vision.hidden_size, vision.hidden_size // vision.num_attention_heads
    if channels < 4:
        raise ValueError(f"num_attention_heads is {vision.num_attention_heads}: expected 4 channels or more per head.")
    encoder: Any = model.vision_encoder
    for index, layer in enumerate(encoder.layers):
        attention, step = layer.attn, 2 if index in vision.global_attn_indexes else 1
        weight, bias = attention.qkv.weight, attention.qkv.bias
        weight[: 2 * hidden_size].mul_(0.25)
        bias[: 2 * hidden_size].zero_()
        for table, first in ((attention.rel_pos_h, 0), (attention.rel_pos_w, 2)):
            displacements = torch.arange(len(table)) - (len(table) - 1) / 2
            table.mul_(0.1)[:, :4] = 0
            table[:, first], table[:, first + 1] = displacements**2 / 8, displacements / 2
        for head in range(vision.num_attention_heads):
            start = head * channels
            weight[start : start + 4] = 0
            for first, offset in zip((0, 2), _NEIGHBOURS[head % len(_NEIGHBOURS)], strict=True):
                bias[start + first], bias[start + first + 1] = -8 / step**2, -4 * offset / step


@torch.no_grad()
def spread_positions(model: SamModel) -> None:
    """Draw the matrix of positional frequencies at several scales, from 0.14 to 1.26.

    transformers draws it with a deviation of hidden_size / 2, where the sines of neighbouring positions are unrelated;
    Segment Anything with 1.
    """
    matrix: Any = model.shared_image_embedding.positional_embedding
    frequencies = torch.randn(matrix.shape) * torch.logspace(-0.85, 0.1, matrix.shape[1])
    for embedding in (model.shared_image_embedding, model.prompt_encoder.shared_embedding):
        embedding.positional_embedding.copy_(frequencies)


@torch.no_grad()
def look_at_prompts(model: SamModel) -> None:
    """Let the attention between tokens and image in the mask decoder begin at the places of the prompts.

    The weights of q and k select the sines and cosines of the same frequencies, whose product is a bell around the
    prompt. Smaller normalised features leave the positions in the majority.
    """
    config: Any = model.config.mask_decoder_config
    transformer: Any = model.mask_decoder.transformer
    attentions = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
        for norm in (layer.layer_norm1, layer.layer_norm2, layer.layer_norm3, layer.layer_norm4):
            norm.weight.mul_(0.4)
    inner, half = attentions[0].q_proj.out_features, config.hidden_size // 2
    pairs = inner // config.num_attention_heads // 2
    selection = torch.zeros(inner, config.hidden_size)
    for head in range(config.num_attention_heads):
        for pair in range(pairs):  # each head has frequencies of all scales
            row, frequency = 2 * pairs * head + pair, (head + config.num_attention_heads * pair) % half
            selection[row, frequency] = selection[row + pairs, half + frequency] = 1
    for attention in attentions:
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.mul_(0.3).add_(2 * selection)
            projection.bias.zero_()
    encoder: Any = model.vision_encoder
    encoder.neck.layer_norm2.weight.mul_(0.4)
