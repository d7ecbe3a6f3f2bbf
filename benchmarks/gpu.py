"""Benchmarks on a GPU: larger batches, bfloat16, a compiled encoder."""

from __future__ import annotations

from typing import Any

import torch

from .machine import describe, matrix_rate
from .model import measure_training
from .plain import IMAGE_SIZE, make_pair
from .timing import time_in_turn

__all__ = ["measure_gpu"]

_BATCHES = (1, 12, 24)


def measure_gpu() -> dict[str, Any]:
    """Measure slices per second and training steps at batch sizes 1, 12 and 24, of the plain model and this package's.

    Returns:
        `inference`: slices per second of each alternative by batch size; `training`: as on a CPU; `rate`: FLOP/s of the
        matrix product alone; `peak_memory`: bytes of a training step, by batch size.
    """
    training = []
    peaks = {}
    for size in _BATCHES:
        torch.cuda.reset_peak_memory_stats()
        training.append(measure_training(batch_size=size, rounds=10, device="cuda"))
        peaks[size] = torch.cuda.max_memory_allocated()
    return {
        "machine": describe("cuda"),
        "rate": {str(dtype): matrix_rate(dtype, "cuda") for dtype in (torch.float32, torch.bfloat16)},
        "inference": {size: _slices_per_second(size) for size in _BATCHES},
        "training": training,
        "peak_memory": peaks,
    }


@torch.inference_mode()
def _slices_per_second(batch_size: int) -> dict[str, float]:
    plain, ours = (model.eval().to("cuda") for model in make_pair())
    merged = ours.merge_and_unload()
    pixels = torch.rand(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE, device="cuda")
    ways = {"plain": lambda: plain(pixels), "ours": lambda: merged(pixels)}
    seconds = time_in_turn(ways, rounds=10)
    merged.sam.vision_encoder.to(torch.bfloat16)
    plain.to(torch.bfloat16)
    half = pixels.to(torch.bfloat16)
    ways = {"plain, bfloat16": lambda: plain(half), "bfloat16": lambda: merged(pixels)}
    seconds |= time_in_turn(ways, rounds=10)
    compiled = torch.compile(merged.sam.vision_encoder, fullgraph=True, dynamic=False)
    ways = {"bfloat16, compiled encoder": lambda: merged(image_embeddings=compiled(half).last_hidden_state)}
    seconds |= time_in_turn(ways, rounds=10, warm_up=3)
    return {name: batch_size / value for name, value in seconds.items()}
