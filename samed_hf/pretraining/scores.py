"""IoU of a SAM's masks for points, boxes and corrections."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from transformers import SamModel

from .objective import PromptedSam, mask_iou

__all__ = ["measure_iou"]

_CORRECTIONS = 3


@torch.no_grad()
def measure_iou(sam: SamModel, batches: Iterable[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Mean IoU over all masks at the decoder's resolution.

    Args:
        sam: the model; it is left in its mode of training or evaluation.
        batches: of [`SyntheticImages`], or dictionaries with its `pixel_values`, `masks`, `points` and `boxes`.

    Returns:
        - "point": the one of three masks for one point whose IoU is predicted to be highest, as SAM's users take it.
        - "box": the mask for a box.
        - "corrections": the mask for a box and three points, each in the middle of the largest error before it.
    """
    prompted, training = PromptedSam(sam), sam.training
    sam.eval()
    results: dict[str, list[np.ndarray]] = {"point": [], "box": [], "corrections": []}
    for batch in batches:
        embeddings = sam.vision_encoder(batch["pixel_values"]).last_hidden_state
        masks, points, boxes = (batch[name].flatten(0, 1) for name in ("masks", "points", "boxes"))
        embeddings = embeddings.repeat_interleave(len(masks) // len(embeddings), dim=0)
        inside = torch.ones_like(points[:, :1], dtype=torch.long)
        logits, scores = prompted.decode(embeddings, prompted.embed_points(points[:, None], inside), several=True)
        best = scores.argmax(dim=1, keepdim=True)
        results["point"].append(mask_iou(logits, masks[:, None]).gather(1, best).cpu().numpy())
        corners = prompted.embed_box(boxes)
        logits, _ = prompted.decode(embeddings, corners)
        results["box"].append(mask_iou(logits, masks[:, None]).cpu().numpy())
        added, kinds = points[:, None][:, :0], inside[:, :0]
        for _ in range(_CORRECTIONS):
            point, kind = prompted.correct(logits[:, 0], masks)
            added, kinds = torch.cat([added, point[:, None]], 1), torch.cat([kinds, kind[:, None]], 1)
            prompts = torch.cat([prompted.embed_points(added, kinds, padded=False), corners], dim=1)
            logits, _ = prompted.decode(embeddings, prompts, logits)
        results["corrections"].append(mask_iou(logits, masks[:, None]).cpu().numpy())
    sam.train(training)
    return {name: float(np.concatenate(values).mean()) for name, values in results.items()}
