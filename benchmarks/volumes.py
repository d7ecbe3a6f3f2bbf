"""Slices through the evaluation routine, which zooms inputs and labels as the reference implementation does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from samed_hf import SamedImageProcessor
from samed_hf.inference.slices import predict_slices
from samed_hf.model.precision import computes_bfloat16

from .plain import IMAGE_SIZE, make_pair
from .timing import time_in_turn

__all__ = ["measure_volumes"]

_INPUT_SIZE = 224  # pixels of SAMed's training slices


def measure_volumes(*, slices: int = 4, rounds: int = 3, device: str = "cpu") -> dict[str, Any]:
    """Measure slices of 512×512 pixels per second: the plain model with scipy's zooms, and this package's routine."""
    plain, ours = (model.eval().to(device) for model in make_pair())
    processor = SamedImageProcessor(IMAGE_SIZE, input_size=_INPUT_SIZE)
    generator = np.random.default_rng(0)
    coarse = generator.random((slices, 64, 64), dtype=np.float32)
    stack = np.clip(ndimage.zoom(coarse, (1, 8, 8), order=1), 0, 1)
    predictions: dict[str, np.ndarray] = {}

    def run(name: str, model: torch.nn.Module) -> None:
        if name == "plain":
            predictions[name] = np.stack([_predict_plainly(model, image, device) for image in stack])
        else:
            predictions[name] = predict_slices(model, stack, processor, reference_zoom=True)

    alternatives = {"plain": lambda: run("plain", plain), "ours": lambda: run("ours", ours)}
    if computes_bfloat16(device):
        half = make_pair()[1].eval().merge_and_unload().to(device)
        half.sam.vision_encoder.to(torch.bfloat16)
        alternatives["bfloat16"] = lambda: run("bfloat16", half)
    seconds = time_in_turn(alternatives, rounds=rounds)
    return {
        "slices_per_second": {name: slices / value for name, value in seconds.items()},
        "speed_up": {name: seconds["plain"] / value for name, value in seconds.items()},
        "same_label": {name: float((labels == predictions["plain"]).mean()) for name, labels in predictions.items()},
    }


@torch.inference_mode()
def _predict_plainly(model: torch.nn.Module, image: np.ndarray, device: str) -> np.ndarray:
    small = ndimage.zoom(image, _INPUT_SIZE / image.shape[0], order=3)
    pixels = torch.from_numpy(ndimage.zoom(small, IMAGE_SIZE / _INPUT_SIZE, order=3).astype(np.float32))
    logits = model(pixels.expand(1, 3, -1, -1).to(device))
    logits = F.interpolate(logits, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)
    labels = logits.softmax(dim=1).argmax(dim=1)[0].cpu().numpy()
    return ndimage.zoom(labels, image.shape[0] / IMAGE_SIZE, order=0)
