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

from ..model.configuration_samed import SamedConfig
from ..model.image_processing_samed import SamedImageProcessor

__all__ = ["INPUT", "METADATA", "OUTPUT", "OnnxModel"]

INPUT, OUTPUT, METADATA = "pixel_values", "logits", "samed_hf"


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
