"""An exported ONNX model in the place of a PyTorch model."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from huggingface_hub.constants import HF_HOME

from ..model.configuration_samed import SamedConfig
from ..model.fingerprint import model_fingerprint
from ..model.image_processing_samed import SamedImageProcessor
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..model.onnx import INPUT, METADATA, OUTPUT, export_onnx
from ..utils.atomic import atomic_directory

__all__ = ["BACKENDS", "OnnxModel", "as_onnx"]

BACKENDS = ("torch", "onnxruntime")
_EXACT = 1e-5  # of the logits' range


class OnnxModel:
    """A model written by `samed-hf export`, run by ONNX Runtime, with what prediction uses of a PyTorch model.

    Args:
        file: `model.onnx`, or the directory that holds it.
        providers: ONNX Runtime's execution providers, in order of preference; by default CUDA where it is available,
            then the CPU.

    Raises:
        ImportError: onnxruntime isn't installed.
        FileNotFoundError: there is no such file.
        ValueError: it is no ONNX model that `samed-hf export` wrote.
    """

    def __init__(self, file: str | Path, *, providers: list[str] | None = None) -> None:
        if find_spec("onnxruntime") is None:
            raise ImportError("onnxruntime isn't installed: pip install 'samed_hf[onnx]'.", name="onnxruntime")
        import onnxruntime

        self.file = Path(file) / "model.onnx" if Path(file).is_dir() else Path(file)
        if not self.file.is_file():
            raise FileNotFoundError(f"{str(file)!r} holds no model.onnx: expected what samed-hf export wrote.")
        known = onnxruntime.get_available_providers()
        chosen = providers or [one for one in ("CUDAExecutionProvider", "CPUExecutionProvider") if one in known]
        try:
            self.session = onnxruntime.InferenceSession(self.file, providers=chosen)
            about = json.loads(self.session.get_modelmeta().custom_metadata_map[METADATA])
            self.config = SamedConfig.from_dict(about["config"])
            self.image_processor = SamedImageProcessor.from_dict(about["preprocessor"])
        except Exception as error:  # onnxruntime's errors have no common class
            raise ValueError(
                f"{self.file} is no ONNX model of samed-hf export ({' '.join(str(error).split())[:200]}): export the "
                "adapter again."
            ) from error
        self.about: dict[str, Any] = about
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def __call__(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        """Compute `logits` for `pixel_values` as [`SamedForSemanticSegmentation.forward`] does."""
        values = np.ascontiguousarray(pixel_values.numpy(), dtype=np.float32)
        (logits,) = self.session.run([OUTPUT], {INPUT: values})
        return SimpleNamespace(logits=torch.from_numpy(logits))

    def fingerprint(self) -> str:
        """Hash the file; its metadata hold labels and image processor."""
        digest = hashlib.sha256()
        for path in (self.file, self.file.with_name(f"{self.file.name}.data")):
            if path.is_file():
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
        return f"sha256:{digest.hexdigest()}"


def as_onnx(model: SamedForSemanticSegmentation, processor: SamedImageProcessor) -> OnnxModel:
    """The model in float32 run by ONNX Runtime; the graph is written once, below `HF_HOME`, and compared with PyTorch.

    An adapter is merged into the model, in place.

    Raises:
        ValueError: the logits differ from PyTorch's by more than 1e-5 of their range.
    """
    about = {"id2label": model.config.id2label, "processor": processor.to_dict()}
    name = model_fingerprint(model, about).removeprefix("sha256:")[:32]
    directory = Path(HF_HOME) / "samed_hf" / "onnx" / name
    if not (directory / "model.onnx").is_file():
        with atomic_directory(directory) as temporary:
            model = model.cpu()
            export_onnx(model, temporary / "model.onnx", processor)
            generator, size = torch.Generator().manual_seed(0), model.config.image_size
            pixels = torch.rand(1, model.config.channel_projection or 3, size, size, generator=generator)
            with torch.inference_mode():
                expected = model(pixels).logits
            difference = float((OnnxModel(temporary)(pixels).logits - expected).abs().max())
            if difference > _EXACT * float(expected.max() - expected.min()):
                raise ValueError(f"backend is onnxruntime, whose logits differ by {difference:.1e}: use torch.")
    return OnnxModel(directory)
