"""Test-time augmentation and ensembles: the softmax averaged over views of the slices and over models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..model.modeling_samed import SamedForSemanticSegmentation
from ..model.post_processing import resize_logits
from ..transforms.augmentation import default_augmentation
from ..transforms.slicing import SliceStack
from .slices import predict_logits

__all__ = ["mean_softmax", "rotate_images"]

TTA_DEGREES = (0.0, 8.0, -8.0)  # rotations of test-time augmentation, well inside the ±20° of training


def mean_softmax(
    models: Sequence[SamedForSemanticSegmentation],
    stacks: Sequence[SliceStack],
    raw: Sequence[torch.Tensor],
    *,
    tta: bool,
) -> torch.Tensor:
    """The softmax averaged over models on one device and views, `(batch_size, num_labels, height, width)` float32.

    `stacks` and `raw` are the scan's slices as each model's processor scales them, and some of them unscaled. `tta`
    adds rotated views, and mirrored ones if no label has a side.
    """
    total: torch.Tensor | float = 0.0
    weight: torch.Tensor | float = 0.0
    for model, stack, own in zip(models, stacks, raw, strict=True):
        slices = stack.scale(own)
        left_right = stack.processor.axis_order[2] == 0
        mirrors = tta and default_augmentation(model.config.id2label.values(), left_right=left_right).mirror > 0
        views = itertools.product((False, True) if mirrors else (False,), TTA_DEGREES if tta else (0.0,))
        for mirror, degrees in views:
            view = rotate_images(slices.flip(-1) if mirror else slices, degrees)
            pixels = stack.processor.resize_slices(view)
            logits = predict_logits(model, pixels, stack.processor.image_size)
            softmax = resize_logits(logits, stack.size).softmax(dim=1)
            known: torch.Tensor | float = 1.0
            if degrees:
                # A rotated slice lacks corners of the original one: there this view has no weight.
                known = rotate_images(torch.ones_like(softmax[:, :1]), -degrees)
                known = known.flip(-1) if mirror else known
                softmax = rotate_images(softmax, -degrees)
            total = total + (softmax.flip(-1) if mirror else softmax)
            weight = weight + known
    return torch.as_tensor(total / weight)


def rotate_images(images: torch.Tensor, degrees: float) -> torch.Tensor:
    """Rotate `(batch_size, channels, height, width)` counter-clockwise about the centre, linearly; zeros enter."""
    if not degrees:
        return images
    height, width = images.shape[-2:]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # affine_grid counts each side from -1 to 1, so a side's length enters where the axes mix.
    matrix = torch.tensor([[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]])
    grid = F.affine_grid(matrix.to(images)[None].expand(len(images), -1, -1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
