"""`samed-hf train`."""

from __future__ import annotations

import argparse

from .processes import start_processes

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command, whose arguments are the fields of its settings and parsed by `run`."""
    parser = commands.add_parser("train", help="train an adapter", add_help=False, allow_abbrev=False)
    parser.set_defaults(run=run, accepts_rest=True)


def run(args: argparse.Namespace) -> None:
    """Train, score and describe an adapter."""
    start_processes(args.argv)
    from .train import train_command

    train_command(args.rest, prog="samed-hf train")
