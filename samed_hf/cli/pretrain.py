"""`samed-hf pretrain`: a small SAM from synthetic images."""

from __future__ import annotations

import argparse
from dataclasses import fields

from .common import hide_loading_bars, start_processes

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command, with a flag for each field of its settings."""
    from ..pretraining.arguments import PretrainingArguments

    parser = commands.add_parser("pretrain", help="pretrain a small SAM on synthetic images")
    for item in fields(PretrainingArguments):
        kind, text = type(item.default), item.metadata["help"]
        if kind is bool:
            parser.add_argument(f"--{item.name}", action="store_true", help=text)
            continue
        text = text if item.default is None else f"{text.removesuffix('.')} [{item.default}]."
        options = {"type": str if item.default is None else kind, "choices": item.metadata["choices"]}
        parser.add_argument(f"--{item.name}", default=item.default, help=text, **options)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Pretrain and save the model."""
    start_processes(args.argv)
    hide_loading_bars()
    from ..pretraining import PretrainingArguments, pretrain

    pretrain(PretrainingArguments(**{item.name: getattr(args, item.name) for item in fields(PretrainingArguments)}))
