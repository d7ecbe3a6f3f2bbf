"""From logits to a segmentation at the image's own size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["image_scores", "resize_logits", "upsample_logits"]


def upsample_logits(logits: torch.Tensor, image_size: int) -> torch.Tensor:
    """Interpolate logits `(batch_size, num_labels, S / 4, S / 4)` to the input's size S, bilinear, in float32."""
    return F.interpolate(logits.float(), size=(image_size, image_size), mode="bilinear", align_corners=False)


def resize_logits(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Interpolate logits `(batch_size, num_labels, S, S)` to `(batch_size, num_labels, *size)`, bilinear.

    Corner pixels are mapped to corner pixels, as in the zoom of the image.
    """
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


def image_scores(logits: torch.Tensor, image_size: int, target_sizes: Any = None) -> list[torch.Tensor]:
    """Logits at each image's own size: `(num_labels, height, width)` float32; see [`SamedImageProcessor`].

    Raises:
        ValueError: `target_sizes` isn't one height and width for each image.
    """
    masks = upsample_logits(logits, image_size)
    if target_sizes is None:
        return list(masks)
    if isinstance(target_sizes, torch.Tensor):
        target_sizes = target_sizes.tolist()
    if len(target_sizes) != len(masks):
        raise ValueError(
            f"target_sizes has {len(target_sizes)} entries for {len(masks)} images: expected one for each image."
        )
    sizes = [tuple(int(side) for side in np.ravel(size)) for size in target_sizes]
    if any(len(size) != 2 or min(size) < 1 for size in sizes):
        raise ValueError(f"target_sizes is {target_sizes}: expected a height and a width for each image, in pixels.")
    return [resize_logits(mask[None], (size[0], size[1]))[0] for mask, size in zip(masks, sizes, strict=True)]
