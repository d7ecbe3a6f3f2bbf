"""The small base model: its geometry, its starting weights, and its input size."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import SamConfig, SamModel

from ..model.checkpoint_conversion import interpolate_positions
from ..model.initialisation import (
    expect_unit_range,
    look_at_prompts,
    reset_layers,
    spread_positions,
    start_as_convolutions,
)
from ..model.vision_encoder import SamedVisionLayer, fuse_projections

__all__ = ["make_small_sam", "resize_input", "use_tiled_attention"]

_WIDTH, _CHANNELS = 256, 96  # of the encoder, and of image embedding and decoder


def make_small_sam(image_size: int = 128, *, seed: int = 0) -> SamModel:
    """Make an untrained SAM of 3.8 million parameters whose adapters are smaller than a megabyte in float16.

    Its images are in [0, 1], without normalisation.

    Args:
        image_size: input size in pixels, a multiple of 16.
        seed: of the weights; torch's global random state stays as it is.
    """
    vision = {
        "hidden_size": _WIDTH,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "mlp_dim": 2 * _WIDTH,
        "window_size": 16,
        "global_attn_indexes": [2, 5],
        "image_size": image_size,
        "output_channels": _CHANNELS,
        "num_pos_feats": _CHANNELS // 2,
    }
    decoder = {"hidden_size": _CHANNELS, "mlp_dim": 2 * _CHANNELS, "num_attention_heads": 4}
    decoder["iou_head_hidden_dim"] = _CHANNELS
    prompts = {"hidden_size": _CHANNELS, "image_size": image_size}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
        reset_layers(model)
        expect_unit_range(model)
        spread_positions(model)
        start_as_convolutions(model)
        look_at_prompts(model)
    return model


def resize_input(model: SamModel, image_size: int) -> SamModel:
    """Return a copy of a SAM for another input size, whose tables of positions are interpolated as SAMed does."""
    config: Any = SamConfig.from_dict(model.config.to_dict())
    config.vision_config.image_size = config.prompt_encoder_config.image_size = image_size
    config.prompt_encoder_config.image_embedding_size = image_size // config.vision_config.patch_size
    resized = SamModel(config)
    shapes = {name: value.shape for name, value in resized.state_dict().items()}
    weights = model.state_dict()
    resized.load_state_dict({name: interpolate_positions(value, shapes[name]) for name, value in weights.items()})
    return resized


def use_tiled_attention(model: SamModel) -> None:
    """Replace the encoder's blocks by those of SAMed, which compute the same in less time and have the same weights."""
    vision: Any = model.config.vision_config
    weights = model.vision_encoder.layers.state_dict()
    layers = nn.ModuleList(
        SamedVisionLayer(vision, 0 if index in vision.global_attn_indexes else vision.window_size)
        for index in range(vision.num_hidden_layers)
    )
    for layer in layers:
        fuse_projections(layer, fused=True)
    layers.load_state_dict(weights)
    model.vision_encoder.layers = layers
