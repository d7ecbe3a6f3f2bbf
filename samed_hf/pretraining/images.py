"""Synthetic images with prompts and targets, as a data set whose items depend on seed and index alone."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from .prompts import choose_masks, draw_box, draw_point
from .synthesis import draw_image

__all__ = ["SyntheticImages"]


class SyntheticImages(Dataset):
    """Images for pretraining, drawn on the fly.

    Args:
        length: number of images.
        image_size: side of an image in pixels.
        mask_size: side of the decoder's masks, a divisor of `image_size`.
        num_prompts: masks to ask for in each image.
        seed: of the images; equal seeds and indices give equal items.
        exact_boxes: boxes of the masks themselves, instead of ones whose sides moved at random.
    """

    def __init__(
        self, length: int, image_size: int, mask_size: int, num_prompts: int, seed: int, *, exact_boxes: bool = False
    ) -> None:
        self.length, self.image_size, self.mask_size = length, image_size, mask_size
        self.num_prompts, self.seed, self.exact_boxes = num_prompts, seed, exact_boxes

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """The item `index`, where S is the image's side, M the masks' and P the number of prompts.

        - `pixel_values` (3, S, S): the image in [0, 1], as SAMed sees it.
        - `masks` (P, M, M): the share of each pixel that belongs to the mask, in [0, 1].
        - `points` (P, 2), `boxes` (P, 4): a point in each mask and its box, x before y, in pixels.
        - `clean` (3, M, M), `edges` (1, M, M): the image without degradation, and 1 at the borders of regions.
        - `regions` (M, M): int64, the region of each pixel.
        - `index` (): int64.

        All others are float32.
        """
        attempt, masks = 0, None
        while masks is None:  # an image can be one region
            generator = np.random.default_rng((self.seed, index, attempt))
            image, clean, regions = draw_image(self.image_size, generator)
            masks = choose_masks(regions, self.num_prompts, generator)
            attempt += 1
        boxes = [draw_box(mask, None if self.exact_boxes else generator) for mask in masks]
        half = self.image_size // self.mask_size // 2
        item = {
            "pixel_values": np.array(image),
            "masks": self._cells(masks).mean(axis=(2, 4), dtype=np.float32),
            "points": np.stack([draw_point(mask, generator) for mask in masks]),
            "boxes": np.stack(boxes),
            "clean": self._cells(clean).mean(axis=(2, 4)),
            "edges": self._cells(_edges(regions)[None]).max(axis=(2, 4)).astype(np.float32),
            "regions": np.ascontiguousarray(regions[half :: 2 * half, half :: 2 * half]),
            "index": np.array(index),
        }
        return {key: torch.from_numpy(value) for key, value in item.items()}

    def _cells(self, planes: np.ndarray) -> np.ndarray:
        """`(N, S, S)` as `(N, M, S / M, M, S / M)`."""
        factor = self.image_size // self.mask_size
        return planes.reshape(len(planes), self.mask_size, factor, self.mask_size, factor)


def _edges(regions: np.ndarray) -> np.ndarray:
    """Pixels of another region than the one above or to the left."""
    edges = np.zeros(regions.shape, bool)
    edges[1:] = regions[1:] != regions[:-1]
    edges[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    return edges
