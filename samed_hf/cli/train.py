"""`samed-hf train`."""

from __future__ import annotations

import argparse

from .common import start_processes
from .processes import run_in_processes

__all__ = ["add_parser", "run"]

_DESCRIPTION = (
    "Train an adapter, score it and write its card. --verbose prints details too; --quiet prints results, warnings and "
    "errors only."
)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command, whose arguments are the fields of its settings and parsed by `run`."""
    parser = commands.add_parser("train", help="train an adapter", add_help=False, allow_abbrev=False)
    parser.set_defaults(run=run, accepts_rest=True)


def run(args: argparse.Namespace) -> int:
    """Train, score and describe an adapter, or one for each plane; with `--dry_run`, print what that would take."""
    from ..training.settings_file import parse_command

    settings, dry_run = parse_command(args.rest, prog="samed-hf train", description=_DESCRIPTION)
    if settings.plane == "all":
        from ..studies.planes import train_planes

        return run_in_processes(args, lambda _: train_planes(settings, dry_run=dry_run))
    start_processes(args.argv)
    from ..training.dry_run import log_plan
    from ..training.run import run_training

    (log_plan if dry_run else run_training)(settings)
    return 0
