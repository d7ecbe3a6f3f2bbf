"""What several commands share: arguments and their types, and the start of processes."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

__all__ = [
    "COLUMNS",
    "add_columns",
    "add_computing",
    "given_columns",
    "hide_loading_bars",
    "start_processes",
]

logger = logging.getLogger(__name__)

COLUMNS = ("image_column", "label_column", "split_column", "case_column")
"""Arguments of `read_data` that name columns of a listing or a Hugging Face data set."""


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add `--image_column`, `--label_column`, `--split_column` and `--case_column`."""
    whats = ("images; or which of several images, e.g. T1w", "label maps; or which of several", "splits", "cases")
    for name, what in zip(COLUMNS, whats, strict=True):
        parser.add_argument(f"--{name}", metavar="NAME", help=f"column of the {what} [by the usual names]")


def given_columns(args: argparse.Namespace) -> dict[str, Any]:
    """Return the columns as arguments of [`read_data`]."""
    return {name: getattr(args, name) for name in COLUMNS}


def add_computing(parser: argparse.ArgumentParser) -> None:
    """Add `--batch_size`, `--dtype`, `--backend` and `--base_model_name_or_path`."""
    add, text = parser.add_argument, "slices that go through the model at once [auto: by the free memory]"
    add("--batch_size", type=_batch_size, metavar="N|auto", help=text)
    text = "data type of the model; auto is bfloat16 where the device computes it natively [float32]"
    add("--dtype", choices=("float32", "bfloat16", "auto"), default="float32", help=text)
    text = "what computes; onnxruntime, openvino: a float32 graph, written once for each adapter [torch]"
    add("--backend", choices=("torch", "onnxruntime", "openvino"), default="torch", help=text)
    text = "directory or Hub id of the adapter's base model [the one that the adapter names]"
    add("--base_model_name_or_path", metavar="BASE", help=text)


def _batch_size(text: str) -> int | None:
    try:
        return None if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of slices, or auto") from None


def hide_loading_bars() -> None:
    """Hide transformers' progress bars of the loading of weights."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def start_processes(argv: Sequence[str]) -> None:
    """Start the CPU processes that `accelerate launch` is configured for but does not start."""
    from ..training.distributed.launching import processes_not_started, restart_in_processes

    missing = processes_not_started()
    if missing:
        restart_in_processes("samed_hf.cli", argv, missing)
    if missing is not None:
        logger.warning("accelerate launch started one process; torchrun --nproc_per_node=N starts N on a CPU")
