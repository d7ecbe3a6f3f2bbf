"""The file that `samed-hf export` writes, opened by a runtime; nothing here imports PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["FILE", "INPUT", "METADATA", "OUTPUT", "RUNTIMES", "OnnxFile", "is_onnx", "open_onnx"]

FILE = "model.onnx"
INPUT, OUTPUT, METADATA = "pixel_values", "logits", "samed_hf"
"""Names of the graph's input and output, and of the metadata's entry."""
RUNTIMES = ("onnxruntime", "openvino")
# Settings without which another window or orientation would be guessed; those that are `None` are not in the file.
_SETTINGS = ("image_size", "intensity_window", "percentiles", "axis_order", "context_slices")


class OnnxFile(NamedTuple):
    """An exported model, ready to compute."""

    path: Path
    about: dict[str, Any]  # its metadata: "config", "preprocessor", "precision" and facts on the adapter
    compute: Callable[[np.ndarray], np.ndarray]  # from `pixel_values` to `logits`, both float32


def is_onnx(adapter: str | Path) -> bool:
    """Whether the name of an adapter is that of an exported file or its directory."""
    path, others = Path(adapter), ("adapter_config.json", "model.safetensors")
    return path.suffix == ".onnx" or ((path / FILE).is_file() and not any((path / one).exists() for one in others))


def open_onnx(file: str | Path, runtime: str = "onnxruntime", providers: list[str] | None = None) -> OnnxFile:
    """Open a file of `samed-hf export`, or the directory that holds it; `providers` are ONNX Runtime's.

    Raises:
        ImportError: the runtime isn't installed.
        FileNotFoundError: there is no such file.
        ValueError: an unknown runtime; or the file is damaged, or not of `samed-hf export`, or lacks settings.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"backend is {runtime!r}: expected one of {', '.join(RUNTIMES)}.")
    path = Path(file) / FILE if Path(file).is_dir() else Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist: expected what samed-hf export wrote.")
    if find_spec(runtime) is None:
        extra = "onnx" if runtime == "onnxruntime" else runtime
        raise ImportError(f"{runtime} isn't installed: pip install 'samed_hf[{extra}]'.", name=runtime)
    advice = "give what samed-hf export wrote, or export the adapter again"
    try:
        opened = _in_onnxruntime(path, providers) if runtime == "onnxruntime" else _in_openvino(path)
    except Exception as error:  # the runtimes' errors have no common class
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} can't be read by {runtime} ({reason}): {advice}.") from error
    properties, compute = opened
    if METADATA not in properties:
        raise ValueError(f"{path} is an ONNX model without the metadata {METADATA!r}: {advice}.")
    return OnnxFile(path, _checked(properties[METADATA], f"The metadata {METADATA!r} of {path}", advice), compute)


def _checked(text: str, what: str, advice: str) -> dict[str, Any]:
    """The metadata, if they have all that a prediction needs."""
    try:
        about = json.loads(text)
        missing = [f"preprocessor.{name}" for name in _SETTINGS if name not in about["preprocessor"]]
        missing += [] if about["config"]["id2label"] else ["config.id2label"]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{what} can't be read ({error}): {advice}.") from error
    except KeyError as error:
        missing = [str(error.args[0])]
    if missing:
        raise ValueError(f"{what} lacks {', '.join(missing)}, as of another version of samed_hf: {advice}.")
    return dict(about)


def _in_onnxruntime(path: Path, providers: list[str] | None) -> tuple[Mapping[str, str], Any]:
    import onnxruntime

    known = onnxruntime.get_available_providers()
    chosen = providers or [one for one in ("CUDAExecutionProvider", "CPUExecutionProvider") if one in known]
    session = onnxruntime.InferenceSession(path, providers=chosen)
    return session.get_modelmeta().custom_metadata_map, lambda values: session.run([OUTPUT], {INPUT: values})[0]


def _in_openvino(path: Path) -> tuple[Mapping[str, str], Any]:
    import openvino

    model = openvino.Core().read_model(path)
    key = ["framework", METADATA]
    properties = {METADATA: model.get_rt_info(key).astype(str)} if model.has_rt_info(key) else {}
    # Without the hint, bfloat16 where the processor has it.
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return properties, lambda values: compiled({INPUT: values})[OUTPUT]
