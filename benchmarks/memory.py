"""Peak memory of a training step, each variant in a separate process."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from samed_hf import SamedConfig, SamedForSemanticSegmentation, samed_lora_config
from samed_hf.diagnostics.memory import MODELS, base_config
from samed_hf.model.lora import cast_frozen

from .model import training_step
from .plain import IMAGE_SIZE, NUM_LABELS, RANK, make_plain

__all__ = ["make_adapted", "measure_memory"]

KINDS = ("plain", "ours", "ours, checkpointed", "mixed", "mixed, checkpointed")


def measure_memory(
    kinds: tuple[str, ...] = KINDS, *, base: str = "ViT-B", image_size: int = IMAGE_SIZE
) -> dict[str, Any]:
    """Measure the peak resident memory of a process that runs two training steps, and the share that the steps add.

    `base` and `image_size` are of this package's model; the plain one is a ViT-B of 512 pixels.

    Returns:
        `{kind: {"peak": bytes, "step": bytes}}`. Linux only: no other system resets the peak of a running process.
    """
    return {kind: _in_own_process(kind, base, image_size) for kind in kinds}


def make_adapted(base: str, image_size: int) -> SamedForSemanticSegmentation:
    """Build one of the published geometries with random weights and an adapter."""
    config = SamedConfig.from_dict(base_config(base), image_size=image_size, num_labels=NUM_LABELS)
    model = SamedForSemanticSegmentation(config)
    model.add_adapter(samed_lora_config(rank=RANK))
    return model


def _in_own_process(kind: str, base: str, image_size: int) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.memory", "--kind", kind, "--threads", str(torch.get_num_threads())]
    command += ["--base", base, "--image_size", str(image_size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return json.loads(done.stdout.splitlines()[-1])


def _measure(kind: str, base: str, image_size: int) -> dict[str, int]:
    mixed = kind.startswith("mixed")
    if kind == "plain":
        model = make_plain()
    else:
        model = make_adapted(base, image_size)
        if mixed:
            cast_frozen(model, torch.bfloat16)
        if kind.endswith("checkpointed"):
            model.activation_checkpointing_enable()
    pixels = torch.rand(1, 3, image_size, image_size)
    labels = torch.randint(0, NUM_LABELS, (1, image_size // 4, image_size // 4))
    step = training_step(model.train(), pixels, labels, mixed=mixed, fused=kind != "plain" or None)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    before = _resident("VmRSS")
    step()
    step()
    return {"peak": _resident("VmHWM"), "step": _resident("VmHWM") - before}


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--base", choices=MODELS, default="ViT-B")
    parser.add_argument("--image_size", type=int, default=IMAGE_SIZE)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    where = {"base": arguments.base, "image_size": arguments.image_size}
    print(json.dumps(_measure(arguments.kind, **where) if arguments.kind else measure_memory(**where)))
