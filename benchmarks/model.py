"""Inference and training steps compared with the plain model, and the encoder's share of the matrix rate."""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor
from samed_hf.hub.onnx_file import INPUT
from samed_hf.model.attention import window_groups
from samed_hf.model.lora import cast_frozen
from samed_hf.model.losses import segmentation_loss
from samed_hf.model.onnx import export_onnx
from samed_hf.model.post_processing import upsample_logits
from samed_hf.model.precision import computes_bfloat16

from .machine import matrix_rate
from .plain import IMAGE_SIZE, NUM_LABELS, make_pair
from .timing import time_in_turn

__all__ = ["measure_inference", "measure_training", "training_step"]


# The bias of the keys shifts all scores of a query equally, so softmax ignores it: its gradient is rounding noise.
_WITHOUT_GRADIENT = "k_proj.bias"


def encoder_operations(config: Any) -> int:
    """Count the encoder's floating-point operations for one image, without padded tokens and softmax."""
    width, grid = config.hidden_size, config.image_size // config.patch_size
    tokens = grid * grid
    products = tokens * (4 * width * width + 2 * width * config.mlp_dim)
    multiplications = tokens * width * config.num_channels * config.patch_size**2
    multiplications += tokens * config.output_channels * (width + 9 * config.output_channels)
    for index in range(config.num_hidden_layers):
        side = grid if index in config.global_attn_indexes else config.window_size
        for windows in itertools.chain.from_iterable(window_groups(grid, grid, side)):
            queries = (windows.rows[1] - windows.rows[0]) * (windows.columns[1] - windows.columns[0])
            keys = windows.height * windows.width
            # q times k, the weights times v, and the relative positions of the rows and columns of keys.
            multiplications += queries * width * (2 * keys + 2 * side)
        multiplications += products
    return 2 * multiplications


def measure_inference(*, rounds: int = 7, device: str = "cpu") -> dict[str, Any]:
    """Measure seconds for one slice of 512×512 pixels: plain, and this package's in every form.

    These are with adapter, merged, merged in bfloat16, and by ONNX Runtime where it is installed.
    """
    plain, ours = (model.eval().to(device) for model in make_pair())
    merged = copy.deepcopy(ours).merge_and_unload()
    pixels = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE, device=device)
    alternatives: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain(pixels),
        "adapter": lambda: ours(pixels).logits,
        "merged": lambda: merged(pixels).logits,
        "encoder": lambda: merged.get_image_embeddings(pixels),
    }
    native = computes_bfloat16(device)
    if native:
        half = copy.deepcopy(merged)
        half.sam.vision_encoder.to(torch.bfloat16)
        alternatives["bfloat16"] = lambda: half(pixels).logits
        alternatives["encoder_bfloat16"] = lambda: half.get_image_embeddings(pixels)
    if device == "cpu" and find_spec("onnxruntime") and find_spec("onnxscript"):
        alternatives |= {f"onnx_{kind}": _exported(merged, pixels, kind) for kind in ("float32", "int8")}
    with torch.inference_mode():
        logits = {name: alternatives[name]() for name in alternatives if not name.startswith("encoder")}
        seconds = time_in_turn(alternatives, rounds=rounds)
        operations = encoder_operations(merged.config.vision_config)
        rate = matrix_rate(torch.float32, device)
        result = {
            "seconds": seconds,
            "speed_up": {name: seconds["plain"] / seconds[name] for name in logits},
            "difference": {name: _relative(logits[name], logits["plain"]) for name in logits if name != "plain"},
            "rate": {"float32": rate},
            "share": {"float32": operations / seconds["encoder"] / rate},
        }
        if native:
            result["same_class"] = {"bfloat16": _same_class(logits["bfloat16"], logits["plain"])}
            result["rate"]["bfloat16"] = rate = matrix_rate(torch.bfloat16, device)
            result["share"]["bfloat16"] = operations / seconds["encoder_bfloat16"] / rate
        if "onnx_int8" in logits:
            result.setdefault("same_class", {})["int8"] = _same_class(logits["onnx_int8"], logits["plain"])
    return result


def _exported(merged: SamedForSemanticSegmentation, pixels: torch.Tensor, kind: str) -> Callable[[], torch.Tensor]:
    """Export a model, with int8 calibrated on `pixels`; return a function that runs it on them."""
    import onnxruntime

    options, inputs = onnxruntime.SessionOptions(), pixels.numpy()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would slow down the next alternative
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "model.onnx"
        processor = SamedImageProcessor(image_size=IMAGE_SIZE)
        export_onnx(copy.deepcopy(merged), file, processor, precision=kind, calibration=[inputs])
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda: torch.from_numpy(session.run(None, {INPUT: inputs})[0])


def measure_training(*, batch_size: int = 1, rounds: int = 5, device: str = "cpu") -> dict[str, Any]:
    """Measure seconds of a training step (forward, backward, AdamW): plain, this package's, and in mixed precision.

    In mixed precision the frozen weights are kept in bfloat16, as `--frozen_dtype bfloat16` does.
    """
    plain, ours = (model.train().to(device) for model in make_pair())
    pixels = torch.rand(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE, device=device)
    labels = torch.randint(0, NUM_LABELS, (batch_size, IMAGE_SIZE // 4, IMAGE_SIZE // 4), device=device)
    theirs, own = (_gradients(model, pixels, labels) for model in (plain, ours))
    steps = {"plain": training_step(plain, pixels, labels), "ours": training_step(ours, pixels, labels, fused=True)}
    if computes_bfloat16(device):
        mixed = copy.deepcopy(ours)
        cast_frozen(mixed, torch.bfloat16)
        steps["plain, mixed"] = training_step(copy.deepcopy(plain), pixels, labels, mixed=True)
        steps["mixed"] = training_step(mixed, pixels, labels, fused=True, mixed=True)
    seconds = time_in_turn(steps, rounds=rounds)
    return {
        "batch_size": batch_size,
        "seconds": seconds,
        "speed_up": {name: seconds["plain"] / value for name, value in seconds.items()},
        "difference": max(
            _distance(own[name], gradient) for name, gradient in theirs.items() if not name.endswith(_WITHOUT_GRADIENT)
        ),
    }


def _loss(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor, mixed: bool = False) -> torch.Tensor:
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=mixed):
        output = model(pixels)
    return segmentation_loss(output if isinstance(output, torch.Tensor) else output.logits, labels).loss


def _gradients(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradient of every trained parameter, by its name in plain SAM with PEFT."""
    _loss(model, pixels, labels).backward()
    gradients = {
        name.removeprefix("sam.").replace(".modules_to_save.default", ""): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad()
    return gradients


def training_step(
    model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor, *, mixed: bool = False, fused: bool | None = None
) -> Callable[[], None]:
    """Return a function that runs one training step: forward, backward, AdamW."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, weight_decay=0.1, fused=fused)

    def step() -> None:
        _loss(model, pixels, labels, mixed).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _relative(logits: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest difference, relative to the range of `theirs`."""
    return float((logits - theirs).abs().max() / (theirs.max() - theirs.min()))


def _distance(gradient: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the norm of the difference, relative to the norm of `theirs`."""
    return float((gradient - theirs).norm() / theirs.norm())


def _same_class(logits: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the share of pixels with the same class, at the input's size."""
    labels = (upsample_logits(one, IMAGE_SIZE).argmax(dim=1) for one in (logits, theirs))
    first, second = labels
    return float((first == second).float().mean())
