"""Seconds to prepare a training sample on one thread, compared with scipy.

    python -m benchmarks.samples

A sample is a slice of 224×224 pixels and its labels, augmented at random and zoomed to the model's input: 512 pixels,
labels 128. Both alternatives read the slice from the same decoded case and make the same random draws.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from samed_hf import SamedImageProcessor
from samed_hf.data.cache import CaseStore
from samed_hf.data.dataset import CaseDataset, RawCase
from samed_hf.data.phantom import phantom_patient
from samed_hf.data.sampling import SliceDataset
from samed_hf.transforms.augmentation import (
    SAMED_AUGMENTATION,
    Augmentation,
    default_augmentation,
    window_intensity,
)

__all__ = ["measure"]

_SIDE, _IMAGE_SIZE, _SLICES, _SEED = 224, 512, 16, 0
_AUGMENTATIONS = {"samed": SAMED_AUGMENTATION, "default": default_augmentation(["spleen", "liver"])}


def measure(quick: bool = False) -> dict[str, dict[str, Any]]:
    """Prepare the same 64 samples (quick: 16) both ways, three times each, and keep the best time of each sample.

    Returns:
        For the augmentations "samed", the paper's, and "default": `ours_s` and `scipy_s`, the mean seconds of a sample,
        their `ratio`, the `max_difference` of the images and whether all `labels_equal`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a data worker has one
    try:
        with tempfile.TemporaryDirectory() as folder:
            store = CaseStore(_data_set(), SamedImageProcessor(_IMAGE_SIZE), Path(folder))
            store.prepare(["patient"])
            return {name: _compare(store, how, 1 if quick else 4) for name, how in _AUGMENTATIONS.items()}
    finally:
        torch.set_num_threads(threads)


def _compare(store: CaseStore, augmentation: Augmentation, epochs: int) -> dict[str, Any]:
    dataset = SliceDataset(store, ["patient"], augmentation, _SEED)
    ours, scipys, difference, equal = [], [], 0.0, True
    for key in [(epoch, index) for epoch in range(epochs) for index in range(_SLICES)]:
        seconds, sample = _best_time(lambda key=key: dataset[key])
        ours.append(seconds)
        seconds, expected = _best_time(lambda key=key: _scipy_sample(store, augmentation, key))
        scipys.append(seconds)
        difference = max(difference, float((sample["pixel_values"] - expected["pixel_values"]).abs().max()))
        equal = equal and torch.equal(sample["labels"], expected["labels"])
    ours_s, scipy_s = float(np.mean(ours)), float(np.mean(scipys))
    ratio = scipy_s / ours_s
    return {
        "ours_s": ours_s,
        "scipy_s": scipy_s,
        "ratio": ratio,
        "max_difference": difference,
        "labels_equal": bool(equal),
    }


def _best_time(make: Callable[[], dict[str, torch.Tensor]]) -> tuple[float, dict[str, torch.Tensor]]:
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        sample = make()
        best = min(best, time.perf_counter() - started)
    return best, sample


def _scipy_sample(store: CaseStore, how: Augmentation, key: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Make the sample with scipy: each step transforms image and labels."""
    image = store.slices("patient").read([key[1]])[0, 0]
    label = np.asarray(store.label("patient")[key[1]])
    generator = np.random.default_rng((_SEED, *key))
    if how.mirror and generator.random() < how.mirror:
        image, label = image[:, ::-1], label[:, ::-1]
    if generator.random() < how.flip_rot90:
        turns, axis = int(generator.integers(0, 4)), int(generator.integers(0, 2))
        image, label = (np.flip(np.rot90(array, turns), axis) for array in (image, label))
    elif generator.random() < how.rotation:
        angle = generator.uniform(-how.degrees, how.degrees)
        angle = float(np.floor(angle)) if how.whole_degrees else angle
        image = ndimage.rotate(image, angle, order=how.order, reshape=False)
        label = ndimage.rotate(label, angle, order=0, reshape=False)
    if how.scaling and generator.random() < how.scaling:
        factor = generator.uniform(1 - how.scale, 1 + how.scale)
        centre = (np.array(image.shape) - 1) / 2
        matrix, offset = [1 / factor] * 2, centre - centre / factor
        image = ndimage.affine_transform(image, matrix, offset, order=how.order)
        label = ndimage.affine_transform(label, matrix, offset, order=0)
    if how.gamma and generator.random() < how.gamma:
        image = np.clip(image, 0, 1) ** image.dtype.type(1.5 ** generator.uniform(-1, 1))
    image = ndimage.zoom(image, _IMAGE_SIZE / _SIDE, order=3)
    label = ndimage.zoom(ndimage.zoom(label, _IMAGE_SIZE / _SIDE, order=0), 1 / 4, order=0)
    pixels = torch.from_numpy(image).expand(3, -1, -1).contiguous()
    return {"pixel_values": pixels, "labels": torch.from_numpy(label.astype(np.int64))}


@dataclass(frozen=True)
class _Patient:
    """A synthetic patient in the form of the Synapse layout: intensities in [0, 1], 224×224 pixels."""

    def read(self, processor: SamedImageProcessor) -> RawCase:
        """See [`samed_hf.data.dataset.CaseSource`]."""
        scan, label, spacing = phantom_patient(_SEED, (_SLICES, _SIDE, _SIDE))
        return RawCase(window_intensity(scan, (-125, 275)), label.astype(np.uint8), spacing, rescaled=True)

    def cache_key(self) -> list[Any]:
        """See [`samed_hf.data.dataset.CaseSource`]."""
        return []


def _data_set() -> CaseDataset:
    id2label = {index: f"label {index}" for index in range(9)}
    return CaseDataset("benchmark", "", id2label, {"patient": _Patient()}, ["patient"])


if __name__ == "__main__":
    for name, result in measure().items():
        print(
            f"{name:8} {result['ours_s'] * 1e3:6.2f} ms, scipy {result['scipy_s'] * 1e3:6.2f} ms: "
            f"{result['ratio']:.1f} times; difference at most {result['max_difference']:.1e}, labels "
            f"{'equal' if result['labels_equal'] else 'DIFFER'}"
        )
