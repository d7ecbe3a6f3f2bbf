"""The objective of the pretraining: masks for prompts, as Segment Anything's, and a dense description of the image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import SamModel

from .prompts import worst_point

__all__ = ["PromptedSam", "contrast_loss", "mask_iou", "mask_loss"]

_TEMPERATURE = 0.1
_EDGE_WEIGHT = 3.0  # edges are rare


class PromptedSam(nn.Module):
    """A [`~transformers.SamModel`] with the objective of its pretraining.

    Prompts alone leave a random encoder on a plateau. The dense part does not: the features that the decoder upscales
    distinguish the regions of an image by contrast, and a linear layer reconstructs the clean image and the borders of
    its regions from the image embedding. The layer is no part of the SAM and is thrown away.

    Args:
        sam: the model, trained in place.
        contrast_weight, image_weight: weights of the dense part; the masks' losses have the weight 1.
    """

    def __init__(self, sam: SamModel, contrast_weight: float = 0.5, image_weight: float = 0.1) -> None:
        super().__init__()
        self.sam = sam
        config: Any = sam.config
        self.scale = config.vision_config.patch_size / 4  # pixels in one of a mask
        self.image_head = nn.Conv2d(config.vision_config.output_channels, 4 * 16, 1)
        self.weights = {"prompts": 1.0, "contrast": contrast_weight, "image": image_weight}

    def forward(
        self, pixel_values: torch.Tensor, index: torch.Tensor, with_prompts: bool = True, **targets: torch.Tensor
    ) -> dict[str, Any]:
        """Loss and its parts for a batch of [`SyntheticImages`]; the parts are floats."""
        embeddings = self.sam.vision_encoder(pixel_values).last_hidden_state
        losses = {
            "contrast": contrast_loss(self.upscale(embeddings), targets["regions"]),
            "image": self._image_loss(embeddings, targets["clean"], targets["edges"]),
        }
        if with_prompts:
            # The three masks for ambiguous prompts and the one for clear ones are trained in turn.
            several = bool((index[0] // len(index)) % 2)
            losses["prompts"] = self._prompt_loss(embeddings, targets, several)
        parts = {name: value.item() for name, value in losses.items()}
        return {"loss": sum(self.weights[name] * value for name, value in losses.items()), "parts": parts}

    def upscale(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Image embeddings `(B, C, h, w)` by the decoder's upscaling, to `(B, C / 8, 4h, 4w)`."""
        decoder: Any = self.sam.mask_decoder
        features = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(embeddings)))
        return decoder.upscale_conv2(features)

    def decode(
        self, embeddings: torch.Tensor, prompts: torch.Tensor, masks: torch.Tensor | None = None, several: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks of one prompt for each embedding.

        Args:
            embeddings: of shape `(N, C, h, w)`.
            prompts: embedded by `embed_points` or `embed_box`, of shape `(N, T, C)`.
            masks: logits of an earlier answer, of shape `(N, 1, 4h, 4w)`.
            several: return the three masks for ambiguous prompts.

        Returns:
            Logits of shape `(N, 1 or 3, 4h, 4w)` and predicted IoU of shape `(N, 1 or 3)`.
        """
        sam: Any = self.sam
        if masks is None:
            dense = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand_as(embeddings)
        else:
            dense = sam.prompt_encoder.mask_embed(masks)
        positions = sam.get_image_wide_positional_embeddings().expand(len(embeddings), -1, -1, -1)
        logits, scores = sam.mask_decoder(embeddings, positions, prompts[:, None], dense, several)
        return logits[:, 0], scores[:, 0]

    def embed_points(self, points: torch.Tensor, labels: torch.Tensor, *, padded: bool = True) -> torch.Tensor:
        """Embed points `(N, K, 2)` in pixels with labels `(N, K)`, 1 inside and 0 outside the mask, as `(N, T, C)`.

        `padded` adds the embedding of "no box", as SAM does where there is none.
        """
        encoder: Any = self.sam.prompt_encoder
        return encoder._embed_points(points[:, None], labels[:, None], pad=padded)[:, 0]

    def embed_box(self, boxes: torch.Tensor) -> torch.Tensor:
        """Embed boxes `(N, 4)` in pixels as `(N, 2, C)`."""
        encoder: Any = self.sam.prompt_encoder
        return encoder._embed_boxes(boxes[:, None])[:, 0]

    def _image_loss(self, embeddings: torch.Tensor, clean: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        predicted = F.pixel_shuffle(self.image_head(embeddings), 4)
        weight = torch.tensor(_EDGE_WEIGHT, device=edges.device)
        borders = F.binary_cross_entropy_with_logits(predicted[:, 3:], edges, pos_weight=weight)
        return 3 * F.l1_loss(predicted[:, :3], clean) + borders

    def _prompt_loss(self, embeddings: torch.Tensor, targets: dict[str, torch.Tensor], several: bool) -> torch.Tensor:
        """Loss of the first masks, and of those after one correction."""
        masks, points, boxes = (targets[name].flatten(0, 1) for name in ("masks", "points", "boxes"))
        count = len(masks) // len(embeddings)
        embeddings = embeddings.repeat_interleave(count, dim=0)
        inside = torch.ones_like(points[:, :1], dtype=torch.long)
        boxed = (torch.arange(len(masks), device=masks.device) % 2 == 0)[:, None, None]  # half of the prompts
        prompts = torch.where(boxed, self.embed_box(boxes), self.embed_points(points[:, None], inside))
        logits, scores = self.decode(embeddings, prompts, several=several)
        losses = _mask_and_score_loss(logits, scores, masks)
        best = losses.argmin(dim=1, keepdim=True)
        first = logits.gather(1, best[..., None, None].expand(-1, -1, *masks.shape[1:])).detach()
        corrections, kinds = self.correct(first[:, 0], masks)
        of_box = torch.cat(
            [self.embed_points(corrections[:, None], kinds[:, None], padded=False), self.embed_box(boxes)], 1
        )
        of_points = self.embed_points(torch.stack([points, corrections], 1), torch.cat([inside, kinds[:, None]], 1))
        second = self.decode(embeddings, torch.where(boxed, of_box, of_points), first)
        return losses.gather(1, best).mean() + _mask_and_score_loss(*second, masks).mean()

    def correct(self, logits: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The next point of a user: points `(N, 2)` in pixels and labels `(N,)` for logits and masks `(N, M, M)`."""
        predicted, true = (logits > 0).cpu().numpy(), (masks > 0.5).cpu().numpy()
        worst = [worst_point(*pair) for pair in zip(predicted, true, strict=True)]
        points = torch.from_numpy(np.stack([point for point, _ in worst])) * self.scale
        return points.to(masks.device), torch.tensor([label for _, label in worst], device=masks.device)


def mask_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, with equal shares of the mask and of its outside, plus Dice loss.

    Args:
        logits: of shape `(…, height, width)`.
        masks: shares of the pixels in [0, 1], of the same shape or one that broadcasts to it.

    Returns:
        Of the shape without height and width.
    """
    masks = masks.expand_as(logits)
    share = masks.mean(dim=(-2, -1), keepdim=True)
    weights = masks / share.clamp(min=1e-3) + (1 - masks) / (1 - share).clamp(min=1e-3)
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    predicted = logits.sigmoid()
    overlap, total = (one.sum(dim=(-2, -1)) for one in (predicted * masks, predicted + masks))
    return (weights * entropy).mean(dim=(-2, -1)) / 2 + 1 - (2 * overlap + 1) / (total + 1)


def mask_iou(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Intersection over union of the pixels with positive logits and those of which the mask has more than half.

    Shapes as in [`mask_loss`].
    """
    predicted, masks = logits > 0, (masks > 0.5).expand_as(logits)
    return (predicted & masks).sum(dim=(-2, -1)) / (predicted | masks).sum(dim=(-2, -1)).clamp(min=1)


def contrast_loss(features: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each pixel's region, by the cosine of its feature and the regions' means, at temperature 0.1.

    Regions count equally, whatever their size. The loss of an image is divided by the logarithm of its number of
    regions: 1 is chance.

    Args:
        features: of shape `(batch_size, channels, height, width)`.
        regions: integers from 0 of shape `(batch_size, height, width)`.
    """
    losses = []
    for image, labels in zip(features, regions.flatten(1), strict=True):
        present, labels = labels.unique(return_inverse=True)
        if len(present) < 2:
            continue
        pixels = F.normalize(image.flatten(1), dim=0)
        members = F.one_hot(labels, len(present)).to(pixels.dtype)
        sizes = members.sum(dim=0)
        means = F.normalize(pixels @ members / sizes, dim=0)
        entropy = F.cross_entropy(pixels.T @ means / _TEMPERATURE, labels, reduction="none")
        losses.append((entropy @ members / sizes).mean() / math.log(len(present)))
    return torch.stack(losses).sum() / len(features) if losses else features.sum() * 0


def _mask_and_score_loss(logits: torch.Tensor, scores: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Loss of each mask and of its predicted IoU, `(N, 1 or 3)`."""
    truth = mask_iou(logits.detach(), masks[:, None]).to(scores.dtype)
    return mask_loss(logits, masks[:, None]) + (scores - truth) ** 2
