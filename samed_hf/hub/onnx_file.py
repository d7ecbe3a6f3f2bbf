"""The file that `samed-hf export` writes, opened by a runtime; nothing here imports PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FILE", "INPUT", "METADATA", "OUTPUT", "RUNTIMES", "is_onnx", "open_onnx"]

FILE = "model.onnx"
INPUT, OUTPUT, METADATA = "pixel_values", "logits", "samed_hf"
"""Names of the graph's input and output, and of the metadata's entry."""
RUNTIMES = {"onnxruntime": "onnx", "openvino": "openvino"}  # with the extras that install them
# Without these, another window or orientation would be guessed; settings that are `None` are not in the file.
_SETTINGS = ("image_size", "intensity_window", "percentiles", "axis_order", "context_slices")


def is_onnx(adapter: str | Path) -> bool:
    """Whether the name of an adapter is that of an exported file or its directory."""
    path, others = Path(adapter), ("adapter_config.json", "model.safetensors")
    return path.suffix == ".onnx" or ((path / FILE).is_file() and not any((path / one).exists() for one in others))


def open_onnx(
    file: str | Path, runtime: str = "onnxruntime", providers: list[str] | None = None
) -> tuple[Path, dict[str, Any], Callable[[np.ndarray], np.ndarray]]:
    """The path of an exported model, its metadata, and what computes `logits` from `pixel_values`, both float32.

    It raises what [`OnnxSegmenter`] does.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime is {runtime!r}: expected one of {', '.join(RUNTIMES)}.")
    path = Path(file) / FILE if Path(file).is_dir() else Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist: expected what samed-hf export wrote.")
    if find_spec(runtime) is None:
        raise ImportError(f"{runtime} isn't installed: pip install 'samed_hf[{RUNTIMES[runtime]}]'.", name=runtime)
    try:
        properties, compute = _in_onnxruntime(path, providers) if runtime == "onnxruntime" else _in_openvino(path)
        about = json.loads(properties[METADATA])
        itemgetter(*_SETTINGS)(about["preprocessor"])
        about["config"]["id2label"].items()
    except Exception as error:  # the runtimes' errors have no common class
        reason = f"the metadata lack {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is damaged, or no model that this version's samed-hf export wrote ({reason}): export the adapter "
            "again."
        ) from error
    return path, about, compute


def _in_onnxruntime(path: Path, providers: list[str] | None) -> tuple[Mapping[str, str], Any]:
    import onnxruntime

    known = onnxruntime.get_available_providers()
    chosen = providers or [one for one in ("CUDAExecutionProvider", "CPUExecutionProvider") if one in known]
    session = onnxruntime.InferenceSession(path, providers=chosen)
    return session.get_modelmeta().custom_metadata_map, lambda values: session.run([OUTPUT], {INPUT: values})[0]


def _in_openvino(path: Path) -> tuple[Mapping[str, str], Any]:
    import openvino

    model, key = openvino.Core().read_model(path), ["framework", METADATA]
    properties = {METADATA: model.get_rt_info(key).astype(str)} if model.has_rt_info(key) else {}
    # Without the hint, bfloat16 where the processor has it.
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return properties, lambda values: compiled({INPUT: values})[OUTPUT]
