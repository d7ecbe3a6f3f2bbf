"""`samed-hf compare`: compare scores with the paper's."""

from __future__ import annotations

import argparse

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("compare", help="compare scores with the paper's, by organ")
    add, presets = parser.add_argument, ("samed", "samed_s", "samed_h")
    add("metrics", metavar="METRICS.json", help="file that samed-hf evaluate wrote, or its directory")
    add("--preset", choices=presets, default="samed", help="which of the paper's runs [samed]")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the comparison."""
    from ..scoring.published import compare_with_published, read_metrics

    print(compare_with_published(read_metrics(args.metrics), args.preset))
