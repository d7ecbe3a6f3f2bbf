"""A model as an ONNX file: the graph by `torch.onnx`, smaller weights by ONNX Runtime's tools."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..hub.onnx_file import INPUT, METADATA, OUTPUT
from ..utils.atomic import temporary_directory
from .image_processing_samed import SamedImageProcessor
from .modeling_samed import SamedForSemanticSegmentation

__all__ = ["OPSET", "PRECISIONS", "export_onnx"]

PRECISIONS = ("float32", "float16", "int8")
OPSET = 20
_LARGEST = 2**31 - 2**24  # bytes of weights in one file: protobuf's limit is 2 GiB


class _Logits(nn.Module):
    def __init__(self, model: SamedForSemanticSegmentation) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values).logits
        return logits


def export_onnx(
    model: SamedForSemanticSegmentation,
    file: Path,
    processor: SamedImageProcessor,
    *,
    precision: str = "float32",
    opset: int = OPSET,
    calibration: Iterable[np.ndarray] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a model in evaluation mode as ONNX; an adapter is merged into it, in place.

    The graph has the input "pixel_values", float32 `(batch, channels, image_size, image_size)` with any batch size, and
    the output "logits", float32 `(batch, num_labels, image_size / 4, image_size / 4)`. The file's metadata hold config,
    image processor and `about` as JSON under "samed_hf".

    Args:
        model: on the CPU, in float32.
        file: path of the file; its directory exists. Weights beyond 2 GB go to a second file beside it.
        processor: the model's image processor.
        precision: "float32"; "float16" for weights and most operations; "int8" for the matrix products of the image
            encoder, quantized statically for each channel.
        opset: version of ONNX's operators, at least 18.
        calibration: arrays `pixel_values` from which int8 measures the ranges of the activations.
        about: facts to record, as JSON.

    Raises:
        ImportError: onnxruntime or onnxscript is missing.
        ValueError: an unknown precision or opset, or int8 without calibration.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: expected one of {', '.join(PRECISIONS)}.")
    if opset < 18:
        raise ValueError(f"opset is {opset}: expected at least 18, the first that torch.onnx writes; {OPSET} is usual.")
    if precision == "int8" and calibration is None:
        raise ValueError("precision is 'int8' without calibration: give slices whose activations are measured.")
    for package in ("onnxruntime", "onnxscript"):
        if find_spec(package) is None:
            raise ImportError(f"{package} isn't installed: pip install 'samed_hf[onnx]'.", name=package)
    if model._hf_peft_config_loaded:
        model.merge_and_unload()
    own = {"config": model.config.to_dict(), "preprocessor": processor.to_dict(), "precision": precision}
    metadata = {METADATA: json.dumps(own | dict(about or {}))}
    with temporary_directory(file.parent, ".onnx") as directory:
        exact = directory / "exact.onnx"
        _write_graph(model, processor, exact, opset)
        if precision == "float16":
            _halve(exact)
        elif precision == "int8":
            _quantize(exact, calibration or ())
        _finish(exact, file, metadata)


def _write_graph(model: SamedForSemanticSegmentation, processor: SamedImageProcessor, file: Path, opset: int) -> None:
    size = model.config.image_size
    example = torch.rand(2, model.config.channel_projection or 3, size, size)
    shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=1024)}}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Logits(model).eval(),
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    size = sum(weight.nbytes for weight in model.parameters())
    program.save(file, external_data=size > _LARGEST)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's progress and what it says about torchvision, which nothing here needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _halve(file: Path) -> None:
    """Convert to float16, but for input, output and operations whose range is too large for it."""
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.load(file)
    # Sums of squares over channels exceed float16's range in SAM's encoder.
    blocked = [*DEFAULT_OP_BLOCK_LIST, "LayerNormalization", "ReduceMean"]
    half = OnnxModel(convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked))
    half.topological_sort()  # the conversion appends its casts
    onnx.save(half.model, file)


def _quantize(file: Path, calibration: Iterable[np.ndarray]) -> None:
    """Quantize the products of the image encoder with their weights; those of the attention and the decoder stay."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    prepared = file.with_name("prepared.onnx")
    with _quiet():
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(prepared, load_external_data=False).graph
        constants = {tensor.name for tensor in graph.initializer}
        products = [
            node.name for node in graph.node if node.op_type in ("MatMul", "Gemm") and constants & {*node.input[1:2]}
        ]
        quantize_static(
            str(prepared),
            str(file),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=products,
            # Products stay in float32 before their bias: more accurate, and fewer conversions.
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )


def _finish(source: Path, file: Path, metadata: Mapping[str, str]) -> None:
    """Write the metadata into the graph, check it and move it, with its weights, to `file`."""
    import onnx

    weights = file.with_name(f"{file.name}.data")
    graph = onnx.load(source)
    onnx.helper.set_model_props(graph, dict(metadata))
    large = graph.ByteSize() > _LARGEST if not (source.parent / f"{source.name}.data").exists() else True
    final = source.with_name("final.onnx")
    onnx.save(graph, final, save_as_external_data=large, location=weights.name)
    onnx.checker.check_model(str(final))
    if large:
        (final.parent / weights.name).replace(weights)
    final.replace(file)
