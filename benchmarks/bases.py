"""The published base models: parameters, the adapter's file, memory of a training, seconds for a slice."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from samed_hf.diagnostics.memory import MODELS, StepSettings, base_config, estimate_training
from samed_hf.hub import lay_out_repository
from samed_hf.model.precision import computes_bfloat16

from .memory import make_adapted, measure_memory
from .plain import IMAGE_SIZE
from .timing import time_in_turn

__all__ = ["measure_bases", "render_bases"]

_MEDSAM = 1024  # pixels
_BASES = {f"{name}, {IMAGE_SIZE} pixels": (name, IMAGE_SIZE) for name in MODELS} | {
    f"ViT-B (MedSAM), {_MEDSAM} pixels": ("ViT-B", _MEDSAM)
}


def measure_bases(*, rounds: int = 3) -> dict[str, dict[str, Any]]:
    """Measure every base, with random weights, on the processor.

    Returns:
        By name: "parameters" of the base; "adapter", the bytes of `adapter_model.safetensors` by data type; "estimate"
        and "least", the estimated bytes of a float32 training step of one slice as on an accelerator, plain and with
        the flags that save most; "measured", as by [`measure_memory`]; "seconds" for a slice by data type, merged.
    """
    return {title: _measure(name, size, rounds) for title, (name, size) in _BASES.items()}


def _measure(name: str, image_size: int, rounds: int) -> dict[str, Any]:
    print(f"  {name}, {image_size} pixels ...", flush=True)
    measured = measure_memory(("ours",), base=name, image_size=image_size)["ours"]
    plain = StepSettings(image_size=image_size)
    slim = StepSettings(image_size=image_size, mixed_precision=True, frozen_bfloat16=True, gradient_checkpointing=True)
    estimates = [estimate_training(base_config(name), settings) for settings in (plain, slim)]
    model = make_adapted(name, image_size).eval()
    sizes = _adapter_bytes(model)
    merged = model.merge_and_unload()
    parameters = sum(weight.numel() for weight in merged.parameters())
    pixels = torch.rand(1, 3, image_size, image_size)
    with torch.inference_mode():
        seconds = {"float32": time_in_turn({"": lambda: merged(pixels)}, rounds=rounds)[""]}
        if computes_bfloat16("cpu"):
            merged.sam.vision_encoder.to(torch.bfloat16)
            seconds["bfloat16"] = time_in_turn({"": lambda: merged(pixels)}, rounds=rounds)[""]
    return {
        "parameters": parameters,
        "adapter": sizes,
        "estimate": estimates[0].total,
        "least": estimates[1].total,
        "measured": measured,
        "seconds": seconds,
    }


def _adapter_bytes(model: Any) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        return {
            dtype: (
                lay_out_repository(
                    Path(directory), Path(directory, dtype), repo_id="a/b", dtype=dtype, base=("lab/sam", None)
                )
                / "adapter_model.safetensors"
            )
            .stat()
            .st_size
            for dtype in ("float32", "float16")
        }


def render_bases(results: Mapping[str, Any]) -> str:
    """Render the results as Markdown: the machine, then one row a base."""
    machine = results["machine"]
    lines = [
        f"{machine['device']}, {machine['threads']} threads, torch {machine['versions']['torch']}.",
        "",
        "| base, input | parameters | adapter, float32 / float16 | training, estimate / with flags | peak of a process "
        "| a slice, float32 / bfloat16 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in results["bases"].items():
        adapter = " / ".join(f"{row['adapter'][dtype] / 1e6:.1f}" for dtype in ("float32", "float16"))
        seconds = " / ".join(f"{value:.2f}" for value in row["seconds"].values())
        lines.append(
            f"| {name} | {row['parameters'] / 1e6:.1f} M | {adapter} MB "
            f"| {row['estimate'] / 1e9:.2f} / {row['least'] / 1e9:.2f} GB | {row['measured']['peak'] / 1e9:.2f} GB "
            f"| {seconds} s |"
        )
    return "\n".join(lines) + "\n"
