"""The memory of training SAM's three sizes: `python -m samed_hf.diagnostics.memory_table docs/memory.md`."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..utils.atomic import write_text
from .memory import StepSettings, TrainingMemory, estimate_training

__all__ = ["SLIM", "base_config", "fitting_batches", "format_table"]

SLIM = "--mixed_precision bf16 --frozen_dtype bfloat16 --gradient_checkpointing"
"""The flags that save most."""
_AGAIN_FLAG = "--gradient_checkpointing"
_HALF = f"--mixed_precision fp16 {_AGAIN_FLAG}"

_VISION: dict[str, dict[str, Any]] = {
    "ViT-B": {},  # transformers' default
    "ViT-L": {"hidden_size": 1024, "num_hidden_layers": 24, "global_attn_indexes": [5, 11, 17, 23]},
    "ViT-H": {"hidden_size": 1280, "num_hidden_layers": 32, "global_attn_indexes": [7, 15, 23, 31]},
}
_BATCHES = (12, 4, 1)
_BF16, _FROZEN = {"mixed_precision": True}, {"mixed_precision": True, "frozen_bfloat16": True}
_AGAIN = {"gradient_checkpointing": True}
_ROWS: dict[str, dict[str, Any]] = {
    "float32": {},
    "`--gradient_checkpointing`": _AGAIN,
    "`--mixed_precision bf16`": _BF16,
    "… `--gradient_checkpointing`": _BF16 | _AGAIN,
    "… `--frozen_dtype bfloat16`": _FROZEN,
    "… `--frozen_dtype bfloat16 --gradient_checkpointing`": _FROZEN | _AGAIN,
    "… and `--optimizer adamw_8bit`": _FROZEN | _AGAIN | {"optimizer": "adamw_8bit"},
}

_WAYS = {
    "": StepSettings(),
    SLIM: StepSettings(**_FROZEN, **_AGAIN),
    _AGAIN_FLAG: StepSettings(**_AGAIN),
    _HALF: StepSettings(**_BF16, **_AGAIN),
}


def base_config(model: str) -> dict[str, Any]:
    """The config.json of a published SAM, "ViT-B", "ViT-L" or "ViT-H", so far as it isn't the default."""
    vision = dict(_VISION[model])
    if vision:
        vision |= {"num_attention_heads": 16, "mlp_dim": 4 * vision["hidden_size"]}
    return {"model_type": "sam", "vision_config": vision}


def fitting_batches(free: Mapping[str, float], bfloat16: Collection[str]) -> dict[str, dict[str, Any]]:
    """For each device and model the largest usual batch that fits, with the fewest flags.

    Attention is counted as accelerators compute it, and each slice as much as a batch of one: both err upwards on a
    processor.

    Args:
        free: bytes that tensors may take, by the device's name.
        bfloat16: the devices that compute it natively.

    Returns:
        "batch_size", "flags" and "bytes" by device and model; `None` where not one slice fits.
    """

    def need(model: str, flags: str) -> TrainingMemory:
        if (model, flags) not in known:
            known[model, flags] = estimate_training(base_config(model), _WAYS[flags])
        return known[model, flags]

    known: dict[tuple[str, str], TrainingMemory] = {}
    found: dict[str, dict[str, Any]] = {}
    for device, count in free.items():
        slim = SLIM if device in bfloat16 else _AGAIN_FLAG if device == "cpu" else _HALF
        found[device] = {
            model: _largest({flags: need(model, flags) for flags in ("", slim)}, count) for model in _VISION
        }
    return found


def _largest(needs: dict[str, TrainingMemory], free: float) -> dict[str, Any] | None:
    for batch_size in _BATCHES:
        for flags, memory in needs.items():
            total = memory.weights + memory.optimizer + batch_size * memory.step
            if total <= free:
                return {"batch_size": batch_size, "flags": flags, "bytes": total}
    return None


def format_table(batches: tuple[int, ...] = (1, 12)) -> str:
    """The table in Markdown, gigabytes of ViT-B, L and H for batches of these sizes; takes minutes."""
    return "\n".join(_lines(batches)) + "\n"


def _lines(batches: tuple[int, ...]) -> Iterator[str]:
    heads = [f"{model}, {size}" for model in _VISION for size in batches]
    yield f"| settings | {' | '.join(heads)} |"
    yield f"|---|{'---:|' * len(heads)}"
    for name, changes in _ROWS.items():
        settings = replace(StepSettings(), **changes)
        cells = [
            f"{estimate_training(base_config(model), replace(settings, batch_size=size)).total / 1e9:.2f}"
            for model in _VISION
            for size in batches
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def main(path: Path) -> None:
    """Put the table in the place of the one that the page has."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [index for index, line in enumerate(lines) if line.startswith("|")]
    # The first table of the page; another one may stand below.
    end = next((index for index in range(rows[0], len(lines)) if not lines[index].startswith("|")), len(lines))
    write_text(path, "\n".join([*lines[: rows[0]], *_lines((1, 12)), *lines[end:]]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
