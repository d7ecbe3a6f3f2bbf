"""SAM's mask decoder with one mask for every label."""

from __future__ import annotations

import copy
from typing import Any

import torch
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder

from .configuration_samed import SamedConfig

__all__ = ["LABEL_HEADS", "SamedMaskDecoder", "replace_label_heads"]

# The mask decoder's parts whose shapes depend on the number of labels.
LABEL_HEADS = ("mask_tokens", "output_hypernetworks_mlps", "iou_prediction_head")


class SamedHypernetworks(nn.Module):
    """SAM's small networks that turn the token of each label into the weights of its mask.

    Parameter names are those of SAM's list of networks; PEFT can save a module whole, but not a list.
    """

    def __init__(self, networks: nn.ModuleList) -> None:
        super().__init__()
        for index, network in enumerate(networks):
            self.add_module(str(index), network)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens `(batch_size, num_labels, channels)` to weights `(batch_size, num_labels, channels / 8)`."""
        return torch.stack([network(tokens[:, index]) for index, network in enumerate(self.children())], dim=1)


class SamedMaskDecoder(SamMaskDecoder):
    """SAM's mask decoder, returning the masks of all mask tokens, one for each label."""

    def __init__(self, config: SamMaskDecoderConfig) -> None:
        super().__init__(config)
        self.output_hypernetworks_mlps: Any = SamedHypernetworks(self.output_hypernetworks_mlps)
        # Heads that depend on the labels start with PyTorch's initialisation instead of SAM's. The leaves are marked:
        # transformers skips modules without parameters of their own.
        for head in LABEL_HEADS:
            for leaf in getattr(self, head).modules():
                leaf.uses_pytorch_init = True

    def forward(  # type: ignore[override]  # SAM's takes prompts
        self,
        image_embeddings: torch.Tensor,
        image_positional_embeddings: torch.Tensor,
        dense_prompt_embeddings: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict the masks without a prompt, from embeddings `(batch_size or 1, channels, height, width)`.

        Returns logits of shape `(batch_size, num_labels, 4 · height, 4 · width)` and the IoU head's output of shape
        `(batch_size, num_labels)`.
        """
        batch_size, channels, height, width = image_embeddings.shape
        # Called, as their weights are on no device yet if they are offloaded.
        indices = torch.arange(len(self.mask_tokens.weight), device=image_embeddings.device)
        tokens = torch.cat([self.iou_token(indices[:1]), self.mask_tokens(indices)])
        tokens = tokens.to(image_embeddings.dtype).expand(batch_size, 1, -1, -1)
        queries, keys = self.transformer(
            point_embeddings=tokens,
            image_embeddings=image_embeddings + dense_prompt_embeddings,
            image_positional_embeddings=image_positional_embeddings.expand(batch_size, -1, -1, -1),
            attention_similarity=None,
        )
        image = keys.transpose(2, 3).reshape(batch_size, channels, height, width)
        image = self.activation(self.upscale_layer_norm(self.upscale_conv1(image)))
        image = self.activation(self.upscale_conv2(image)).flatten(2)
        logits = self.output_hypernetworks_mlps(queries[:, 0, 1:]) @ image
        iou_scores = self.iou_prediction_head(queries[:, 0, 0])
        return logits.reshape(batch_size, -1, 4 * height, 4 * width), iou_scores


def replace_label_heads(decoder: nn.Module, config: SamedConfig, num_labels: int, adapter_name: str) -> None:
    """Replace an adapter's copies of the label-dependent heads by fresh ones for another number of labels.

    `decoder` is the mask decoder, or PEFT's wrapper around it, of a model with this config.
    """
    decoder_config = copy.deepcopy(config.mask_decoder_config)
    decoder_config.num_multimask_outputs = num_labels - 1
    fresh = SamedMaskDecoder(decoder_config)
    owner = decoder.modules_to_save[adapter_name] if isinstance(decoder, ModulesToSaveWrapper) else decoder
    for name in LABEL_HEADS:
        present = getattr(owner, name)
        head = getattr(fresh, name).to(next(present.parameters()))
        if isinstance(present, ModulesToSaveWrapper):
            present.modules_to_save[adapter_name] = head
        elif owner is not decoder:  # the base model's own heads stay
            setattr(owner, name, head)
