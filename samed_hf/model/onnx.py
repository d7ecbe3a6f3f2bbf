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
from .attention import graph_for_runtimes
from .image_processing_samed import SamedImageProcessor
from .modeling_samed import SamedForSemanticSegmentation

__all__ = ["OPSET", "PRECISIONS", "export_onnx"]

PRECISIONS = ("float32", "float16", "int8")
OPSET = 20
_LARGEST = 2**31 - 2**24  # bytes of weights in one file: protobuf's limit is 2 GiB
# Operations whose weights float16 halves.
_HALVED = ("Add", "Conv", "ConvTranspose", "Gather", "Gemm", "MatMul", "Transpose")


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
        precision: "float32"; "float16" for the stored weights, computed in float32; "int8" for the encoder's
            products, with weights of 7 bits for each channel and static ranges, and other weights in float16.
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
            _halve(exact)
        _finish(exact, file, metadata)


def _write_graph(model: SamedForSemanticSegmentation, processor: SamedImageProcessor, file: Path, opset: int) -> None:
    size = model.config.image_size
    example = torch.rand(2, model.config.channel_projection or 3, size, size)
    shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=1024)}}
    with _quiet(), torch.no_grad(), graph_for_runtimes():
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
    if (written := program.model.opset_imports[""]) != opset:
        raise ValueError(f"opset is {opset}, which torch.onnx can't write (it wrote {written}); {OPSET} is usual.")
    size = sum(weight.nbytes for weight in model.parameters())
    program.save(file, external_data=size > _LARGEST)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's progress and what it says about torchvision and versions of operators."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _halve(file: Path) -> None:
    """Store weights in float16; they are converted to float32 once, when the model is loaded.

    Float16 operations would round too much, and processors compute most of them no faster. The arguments of the
    positions' sine stay in float32.
    """
    import onnx

    model, casts = onnx.load(file), []
    halved = {name for node in model.graph.node if node.op_type in _HALVED for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name not in halved or tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < 1024:
            continue
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        if np.isfinite(half).all():
            casts.append(onnx.helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=tensor.data_type))
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{tensor.name}.half"))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, file)


def _quantize(file: Path, calibration: Iterable[np.ndarray]) -> None:
    """Quantize the image encoder's products with weights; those within the attention and the decoder stay."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    prepared, large = file.with_name("prepared.onnx"), _weights_beside(file).exists()
    with _quiet():
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True, save_as_external_data=large)
        graph = onnx.load(prepared, load_external_data=False).graph
        constants = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
        end = max(index for index, node in enumerate(graph.node) if node.op_type == "Conv")  # of the encoder's neck
        products = [
            node.name
            for node in graph.node[:end]
            if node.op_type in ("MatMul", "Gemm") and constants & {*node.input[1:2]}
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
            use_external_data_format=large,
            reduce_range=True,  # processors with AVX2 but without VNNI add two products in 16 bits, which 8 bits exceed
            # Products stay in float32 before their bias: more accurate, and fewer conversions.
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )


def _finish(source: Path, file: Path, metadata: Mapping[str, str]) -> None:
    """Write the metadata into the graph, check it and move it, with its weights, to `file`."""
    import onnx

    weights, graph = _weights_beside(file), onnx.load(source)
    onnx.helper.set_model_props(graph, dict(metadata))
    content = graph.graph
    used = {node.domain for node in content.node}
    for entry in [entry for entry in graph.opset_import if entry.domain not in used]:
        graph.opset_import.remove(entry)  # ONNX Runtime's tools declare all that it knows; others may know fewer
    # torch.onnx records where in its source each node comes from, with paths of this machine.
    for part in (content, *content.node, *content.input, *content.output, *content.value_info, *content.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    large = sum(len(tensor.raw_data) for tensor in content.initializer) > _LARGEST
    final = source.with_name("final.onnx")
    onnx.save(graph, final, save_as_external_data=large, location=weights.name)
    onnx.checker.check_model(str(final))
    if large:
        (final.parent / weights.name).replace(weights)
    final.replace(file)


def _weights_beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.data")
