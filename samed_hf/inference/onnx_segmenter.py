"""An exported model without PyTorch: scans and images in, labels out, by numpy, scipy and a runtime of ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..hub.onnx_file import open_onnx
from ..transforms.settings import SliceSettings, to_numpy
from ..transforms.slicing import SliceStack, cut_scan, image_bounds, join_slices
from ..utils.console import ProgressCallback
from ..volumes.geometry import Volume
from ..volumes.limits import InputLimits

__all__ = ["OnnxSegmenter"]


class OnnxSegmenter:
    """A model written by `samed-hf export`, for programs without PyTorch, transformers and PEFT.

    Labels are those of [`predict_volume`] and [`predict_image`] with the same file, except where two logits are equal
    up to rounding.

    Args:
        file: `model.onnx`, or the directory that holds it.
        runtime: "onnxruntime", or "openvino" on the CPU.
        providers: of ONNX Runtime, in order of preference; by default CUDA where it is available, then the CPU.

    Attributes:
        id2label: name of each label; 0 is the background.
        about: the file's metadata: "config", "preprocessor", "precision" and facts on the adapter.

    Raises:
        ImportError: the runtime isn't installed.
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, no model of `samed-hf export`, or of a version with other settings.
    """

    def __init__(self, file: str | Path, *, runtime: str = "onnxruntime", providers: list[str] | None = None) -> None:
        self.file, self.about, self._compute = open_onnx(file, runtime, providers)
        self.id2label = {int(index): str(name) for index, name in self.about["config"]["id2label"].items()}
        self._settings = SliceSettings()
        vars(self._settings).update(self.about["preprocessor"])

    @property
    def num_channels(self) -> int:
        """The number of channels of a scan, which [`read_volume`] takes as `num_channels`."""
        return self._settings.num_channels

    def segment(
        self, scan: Volume | Any, *, progress: ProgressCallback | None = None, limits: InputLimits | None = None
    ) -> np.ndarray:
        """Segment a scan or an image on its own grid.

        Args:
            scan: what [`read_volume`] returns, in the unit of the intensity window (HU for CT); or a PIL image or an
                array `(height, width)` or with 3 channels, uint8 or in that unit.
            progress: called with the number of slices done and the number of all slices.
            limits: the most slices, and pixels of a slice; by default `InputLimits.local()`.

        Returns:
            Labels `scan.grid`, or `(height, width)`; uint8 (uint16 for more than 256 labels), keys of `id2label`.

        Raises:
            ValueError: another number of channels than the model's, NaN or infinity in the scan, or beyond the limits.
        """
        if not isinstance(scan, Volume):
            return self._segment(to_numpy(self._settings.image_slices(scan)), True, progress)[0]
        slices = cut_scan(scan, self._settings, limits)
        labels = self._segment(slices, scan.is_image, progress)
        return np.ascontiguousarray(join_slices(labels, scan, self._settings))

    def _segment(self, slices: np.ndarray, is_image: bool, progress: ProgressCallback | None) -> np.ndarray:
        settings = self._settings
        stack = SliceStack(slices, settings, bounds=image_bounds(slices, settings) if is_image else None)
        labels = np.empty((len(stack), *stack.size), np.min_scalar_type(len(self.id2label) - 1))
        rows, columns = (_interpolation(settings.image_size, side) for side in stack.size)
        for index in range(len(stack)):
            pixels = settings.resize_slices(stack.read([index]))
            pixels = np.repeat(pixels, 3, axis=1) if pixels.shape[1] == 1 else pixels
            (logits,) = self._compute(pixels)
            labels[index] = (rows @ logits @ columns.T).argmax(axis=0)
            if progress is not None:
                progress(index + 1, len(stack))
        return labels


def _interpolation(image_size: int, side: int) -> np.ndarray:
    """The matrix `(side, image_size / 4)`, float32, of the interpolations from logits to a side of the slice.

    They are those of `model.post_processing`: to the input's size by the centres of pixels, then corner to corner.
    """
    upsampled = (np.arange(image_size) + 0.5) / 4 - 0.5
    positions = np.arange(side) * ((image_size - 1) / max(1, side - 1))
    units = np.eye(image_size // 4)
    up = np.stack([np.interp(upsampled, np.arange(len(units)), unit) for unit in units])
    return np.stack([np.interp(positions, np.arange(image_size), one) for one in up], axis=1).astype(np.float32)
