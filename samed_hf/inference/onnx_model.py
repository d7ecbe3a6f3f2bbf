"""An exported ONNX model in the place of a PyTorch model."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from huggingface_hub.constants import HF_HOME

from ..hub.onnx_file import FILE, RUNTIMES, open_onnx
from ..model.configuration_samed import SamedConfig
from ..model.fingerprint import model_fingerprint
from ..model.image_processing_samed import SamedImageProcessor
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..model.onnx import export_onnx
from ..utils.atomic import atomic_directory

__all__ = ["BACKENDS", "OnnxModel", "as_onnx"]

BACKENDS = ("torch", *RUNTIMES)
_EXACT = 1e-5  # of the logits' range


class OnnxModel:
    """A model written by `samed-hf export` with what prediction uses of a PyTorch model.

    Args:
        file: `model.onnx`, or the directory that holds it.
        runtime, providers: see [`OnnxSegmenter`], and what it raises.
    """

    def __init__(self, file: str | Path, *, runtime: str = "onnxruntime", providers: list[str] | None = None) -> None:
        self.file, self.about, self._compute = open_onnx(file, runtime, providers)
        self.config = SamedConfig.from_dict(self.about["config"])
        self.image_processor = SamedImageProcessor.from_dict(self.about["preprocessor"])
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def __call__(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        """Compute `logits` for `pixel_values` as [`SamedForSemanticSegmentation.forward`] does."""
        values = np.ascontiguousarray(pixel_values.numpy(), dtype=np.float32)
        return SimpleNamespace(logits=torch.from_numpy(self._compute(values)))

    def fingerprint(self) -> str:
        """Hash the file; its metadata hold labels and image processor."""
        digest = hashlib.sha256()
        for path in (self.file, self.file.with_name(f"{self.file.name}.data")):
            if path.is_file():
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
        return f"sha256:{digest.hexdigest()}"


def as_onnx(
    model: SamedForSemanticSegmentation, processor: SamedImageProcessor, runtime: str = "onnxruntime"
) -> OnnxModel:
    """The model in float32 run by a runtime of ONNX.

    The graph is written once, below `HF_HOME`, and each runtime's logits are compared with PyTorch's once. An adapter
    may be merged into the model, in place.

    Raises:
        ValueError: the logits differ from PyTorch's by more than 1e-5 of their range.
    """
    about = {"id2label": model.config.id2label, "processor": processor.to_dict()}
    name = model_fingerprint(model, about).removeprefix("sha256:")[:32]
    directory = Path(HF_HOME) / "samed_hf" / "onnx" / name
    if not (directory / FILE).is_file():
        with atomic_directory(directory) as temporary:
            export_onnx(model.cpu(), temporary / FILE, processor)
    exported, compared = OnnxModel(directory, runtime=runtime), directory / f"{runtime}.compared"
    if not compared.is_file():
        generator, size = torch.Generator().manual_seed(0), model.config.image_size
        pixels = torch.rand(1, model.config.channel_projection or 3, size, size, generator=generator)
        with torch.inference_mode():
            expected = model.cpu()(pixels).logits
        difference = float((exported(pixels).logits - expected).abs().max())
        if not difference <= _EXACT * float(expected.max() - expected.min()):
            raise ValueError(f"backend is {runtime}, whose logits differ by {difference:.1e}: use torch.")
        with contextlib.suppress(OSError):  # a cache that others share
            compared.touch()
    return exported
