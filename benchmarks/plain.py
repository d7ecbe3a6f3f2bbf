"""The baseline: the same model built with transformers and PEFT alone.

It is transformers' `SamModel` with SDPA. q, k and v are three layers whose outputs are concatenated, so that LoRA can
adapt q and v. The decoder returns the masks of all mask tokens and takes no prompt.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file
from torch import nn
from transformers import SamConfig, SamModel
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamVisionSdpaAttention

from samed_hf import SamedConfig, SamedForSemanticSegmentation, samed_lora_config

__all__ = ["IMAGE_SIZE", "NUM_LABELS", "RANK", "load_plain", "make_ours", "make_pair", "make_plain"]

IMAGE_SIZE, NUM_LABELS, RANK = 512, 9, 4


class _SplitAttention(SamVisionSdpaAttention):
    def __init__(self, config, window_size: int) -> None:
        super().__init__(config, window_size)
        width = config.hidden_size
        del self.qkv
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))

    def qkv(self, hidden_states: torch.Tensor) -> torch.Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        return torch.cat([projection(hidden_states) for projection in projections], dim=-1)


class _AllMasks(SamMaskDecoder):
    """transformers' mask decoder, without the selection of masks at the end."""

    def forward(self, image_embeddings, positions, dense):
        batch_size, channels, height, width = image_embeddings.shape
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).repeat(batch_size, 1, 1, 1)
        queries, keys = self.transformer(
            point_embeddings=tokens,
            image_embeddings=image_embeddings + dense,
            image_positional_embeddings=positions,
            attention_similarity=None,
        )
        image = keys.transpose(2, 3).reshape(batch_size, channels, height, width)
        image = self.activation(self.upscale_layer_norm(self.upscale_conv1(image)))
        image = self.activation(self.upscale_conv2(image))
        networks = enumerate(self.output_hypernetworks_mlps, start=1)
        weights = torch.stack([network(queries[:, :, index]) for index, network in networks], dim=2)
        logits = weights @ image.flatten(2).unsqueeze(1)
        return logits.reshape(batch_size, -1, *image.shape[2:]), self.iou_prediction_head(queries[:, :, 0])


class _PlainSamed(SamModel):
    def __init__(self, config: SamConfig) -> None:
        super().__init__(config)
        vision = config.vision_config
        for index, layer in enumerate(self.vision_encoder.layers):
            layer.attn = _SplitAttention(vision, 0 if index in vision.global_attn_indexes else vision.window_size)
        self.mask_decoder = _AllMasks(config.mask_decoder_config)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        batch_size = len(pixel_values)
        positions = self.get_image_wide_positional_embeddings().repeat(batch_size, 1, 1, 1)
        embeddings = self.vision_encoder(pixel_values).last_hidden_state
        _, dense = self.prompt_encoder(None, None, None, None)
        return self.mask_decoder(embeddings, positions, dense.expand(batch_size, -1, -1, -1))[0]


def _config(**decoder: int) -> SamConfig:
    return SamConfig(
        vision_config={"image_size": IMAGE_SIZE},
        prompt_encoder_config={"image_size": IMAGE_SIZE, "image_embedding_size": IMAGE_SIZE // 16},
        mask_decoder_config=decoder,
        attn_implementation="sdpa",
    )


def make_plain(seed: int = 0) -> _PlainSamed:
    """Build a ViT-B with random weights and a nonzero adapter, ready to train."""
    torch.manual_seed(seed)
    model = _PlainSamed(_config(num_multimask_outputs=NUM_LABELS - 1))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                module.reset_parameters()
        for name, parameter in model.named_parameters():
            if "pos_embed" in name or "rel_pos" in name:
                parameter.normal_(std=0.02)
    _adapt(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return model


def _adapt(model: _PlainSamed) -> None:
    model.requires_grad_(False)
    lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=r".*vision_encoder\.layers\.\d+\.attn\.(q_proj|v_proj)")
    inject_adapter_in_model(lora, model)
    model.mask_decoder.requires_grad_(True)
    model.mask_decoder.iou_prediction_head.requires_grad_(False)
    model.prompt_encoder.no_mask_embed.requires_grad_(True)


def load_plain(base: Path, trained: Path) -> _PlainSamed:
    """Load the plain model from a SAM checkpoint of the same image size and a file of the trained tensors."""
    sam = SamModel.from_pretrained(base)
    model = _PlainSamed(_config(num_multimask_outputs=NUM_LABELS - 1))
    state = sam.state_dict()
    for name in [name for name in state if ".attn.qkv." in name]:
        for letter, part in zip("qkv", state.pop(name).chunk(3), strict=True):
            state[name.replace("qkv", f"{letter}_proj")] = part
    state = {name: tensor for name, tensor in state.items() if not name.startswith("mask_decoder.")}
    model.load_state_dict(state, strict=False)
    _adapt(model)
    model.load_state_dict(load_file(trained), strict=False)
    return model.eval()


def make_ours(plain: _PlainSamed) -> SamedForSemanticSegmentation:
    """Build this package's model with the weights and the adapter of `plain`."""
    config = SamedConfig(image_size=IMAGE_SIZE, num_labels=NUM_LABELS)
    config.mask_decoder_config.layer_norm_eps = plain.config.mask_decoder_config.layer_norm_eps
    model = SamedForSemanticSegmentation(config)
    theirs = {name.replace(".base_layer.", "."): tensor for name, tensor in plain.state_dict().items()}
    model.sam.load_state_dict({name: tensor for name, tensor in theirs.items() if "lora_" not in name})
    model.add_adapter(samed_lora_config(rank=RANK))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(plain.get_parameter(name.removeprefix("sam.")))
    return model


def make_pair(seed: int = 0) -> tuple[_PlainSamed, SamedForSemanticSegmentation]:
    """Build the plain model and this package's, with equal weights."""
    plain = make_plain(seed)
    return plain, make_ours(plain)
