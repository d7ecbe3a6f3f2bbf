"""Arguments that several commands take, and the types of arguments."""

from __future__ import annotations

import argparse

__all__ = ["add_computing", "hide_loading_bars", "names", "numbers"]


def add_computing(parser: argparse.ArgumentParser) -> None:
    """Add `--batch_size` and `--dtype`."""
    parser.add_argument(
        "--batch_size",
        type=_batch_size,
        metavar="N|auto",
        help="slices that go through the model at once [auto: by the free memory]",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "auto"),
        default="float32",
        help="data type of the model; auto is bfloat16 where the device computes it natively [float32]",
    )


def _batch_size(text: str) -> int | None:
    try:
        return None if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of slices, or auto") from None


def names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",")]


def numbers(text: str) -> list[int]:
    """Whole numbers separated by commas."""
    return [int(number) for number in text.split(",")]


def hide_loading_bars() -> None:
    """Hide transformers' progress bars of the loading of weights."""
    from transformers.utils import logging

    logging.disable_progress_bar()
