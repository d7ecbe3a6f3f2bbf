"""Description of the machine and its rate of matrix multiplication."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from samed_hf.model.precision import computes_bfloat16

from .timing import time_in_turn

__all__ = ["describe", "matrix_rate"]

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "scipy", "medpy")


def describe(device: str = "cpu") -> dict[str, Any]:
    """Return the processor or GPU, the number of threads, bfloat16 support and the versions of the main packages."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "bfloat16": computes_bfloat16(device),
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in _PACKAGES},
    }


def _processor() -> str:
    """Return the processor's name, its relevant instruction sets and its number of cores."""
    try:
        content = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    model = re.search(r"^model name\s*:\s*(.+)$", content, re.M)
    flags = re.search(r"^flags\s*:\s*(.+)$", content, re.M)
    known = set(flags[1].split()) if flags else set()
    useful = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in known]
    return f"{model[1] if model else platform.machine()} ({', '.join(useful)}), {os.cpu_count()} cores"


def matrix_rate(dtype: torch.dtype, device: str = "cpu", *, rounds: int = 15) -> float:
    """Measure the FLOP/s of the model's largest matrix product alone: 1024 tokens, 768 to 3072 channels."""
    tokens, weight = (
        torch.rand(1024, 768, dtype=dtype, device=device),
        torch.rand(3072, 768, dtype=dtype, device=device),
    )
    bias = torch.rand(3072, dtype=dtype, device=device)
    repeats = 10
    seconds = time_in_turn({"product": lambda: [F.linear(tokens, weight, bias) for _ in range(repeats)]}, rounds=rounds)
    return repeats * 2 * 1024 * 768 * 3072 / seconds["product"]
