"""`samed-hf doctor`: what this machine has, also where packages are missing or broken."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import warnings

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("doctor", help="what this machine has, what is missing, which models fit")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis, and return 1 where a required package is missing or broken, or else 0."""
    from ..diagnostics.doctor import diagnose, format_diagnosis

    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diagnosis = diagnose()
    print(json.dumps(diagnosis, indent=2) if args.json else format_diagnosis(diagnosis), flush=True)
    return 1 if diagnosis["missing"] else 0
