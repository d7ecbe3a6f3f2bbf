"""`samed-hf merge-predictions`: one directory of the results of several shards or runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..utils.text import printable

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("merge-predictions", help="merge the results of shards or runs of predict")
    add = parser.add_argument
    text = "output directory of samed-hf predict, of one shard or of several, or of a whole run"
    add("directories", metavar="OUT_DIR", nargs="+", type=Path, help=text)
    text = "directory for the merged results, whose files are linked or copied [OUT_DIR, if it is one]"
    add("--output", type=Path, metavar="DIR", help=text)
    add("--no_report", action="store_true", help="write no report.html")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Merge the results."""
    from ..prediction.merging import merge_directories

    output = args.output or args.directories[0]
    if args.output is None and len(args.directories) > 1:
        raise ValueError(f"{len(args.directories)} directories are given: expected --output for their merged results.")
    path = merge_directories(args.directories, output, report=not args.no_report)
    print(f"wrote       {printable(path)}", flush=True)
