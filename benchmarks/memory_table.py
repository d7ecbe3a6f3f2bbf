"""The table of docs/memory.md. `python -m benchmarks.memory_table docs/memory.md` updates it in a few minutes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from samed_hf.diagnostics.memory import StepSettings, base_config, estimate_training
from samed_hf.utils.atomic import write_text

_MODELS, _BATCH_SIZES = ("ViT-B", "ViT-L", "ViT-H"), (1, 12)
_FLOAT32 = StepSettings()
_BF16 = replace(_FLOAT32, mixed_precision=True)
_FROZEN = replace(_BF16, frozen_bfloat16=True)
_SLIM = replace(_FROZEN, gradient_checkpointing=True)
_ROWS = {
    "float32": _FLOAT32,
    "`--gradient_checkpointing`": replace(_FLOAT32, gradient_checkpointing=True),
    "`--mixed_precision bf16`": _BF16,
    "… `--gradient_checkpointing`": replace(_BF16, gradient_checkpointing=True),
    "… `--frozen_dtype bfloat16`": _FROZEN,
    "… `--frozen_dtype bfloat16 --gradient_checkpointing`": _SLIM,
    "… and `--optimizer adamw_8bit`": replace(_SLIM, optimizer="adamw_8bit"),
}


def table() -> Iterator[str]:
    """Yield the lines of the Markdown table: memory in GB of ViT-B, L and H for batches of 1 and 12 slices."""
    columns = [(model, size) for model in _MODELS for size in _BATCH_SIZES]
    yield f"| settings | {' | '.join(f'{model}, {size}' for model, size in columns)} |"
    yield f"|---|{'---:|' * len(columns)}"
    for name, settings in _ROWS.items():
        totals = [
            estimate_training(base_config(model), replace(settings, batch_size=size)).total for model, size in columns
        ]
        yield f"| {name} | {' | '.join(f'{total / 1e9:.2f}' for total in totals)} |"


def main(path: Path) -> None:
    """Replace the first table of the page at `path`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|"))
    end = next((index for index in range(start, len(lines)) if not lines[index].startswith("|")), len(lines))
    write_text(path, "\n".join([*lines[:start], *table(), *lines[end:]]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
