"""`samed-hf compare`: compare the scores of runs with each other, or of one with the paper's."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..utils.text import comma_separated, printable

__all__ = ["add_parser", "run"]

_OF_RUNS = ("output", "names", "reference", "metrics", "allow")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("compare", help="compare scored runs case by case, or one with the paper's scores")
    add, presets = parser.add_argument, ("samed", "samed_s", "samed_h")
    text = "metrics.json of evaluate, train or cross-validate, or its directory; one is compared with the paper's"
    add("runs", nargs="+", metavar="METRICS.json", help=text)
    add("--output", metavar="DIR", help="directory for the page and the tables; needed for several runs")
    add("--names", type=comma_separated, metavar="A,B,…", help="names of the runs [their directories']")
    add("--reference", metavar="NAME", help="run that the others are compared with [the first]")
    add(
        "--metrics", type=comma_separated, metavar="A,B,…", help="metrics or scores to compare [all that every run has]"
    )
    text = "what may differ: cases compares those that all runs have, split the cases of other splits"
    add("--allow", type=comma_separated, metavar="cases,split", help=text)
    add("--preset", choices=presets, help="which of the paper's runs, for one METRICS.json [samed]")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the comparison, and write that of several runs."""
    from ..scoring.published import compare_with_published, read_metrics

    unsuited = [*(["preset"] if len(args.runs) > 1 else _OF_RUNS)]
    if given := [f"--{name}" for name in unsuited if getattr(args, name) is not None]:
        raise ValueError(
            f"{', '.join(given)} with {len(args.runs)} METRICS.json: --preset is for one, which is compared with the "
            "paper's scores, and the other flags are for two or more."
        )
    if len(args.runs) == 1:
        print(compare_with_published(read_metrics(args.runs[0]), args.preset or "samed"))
        return
    if args.output is None or Path(args.output).is_file():
        found = "missing" if args.output is None else f"{args.output}, a file"
        raise ValueError(f"--output is {found}: expected a directory for the page and the tables.")
    from ..studies.comparison import compare_runs
    from ..studies.comparison_files import all_notes, conclusions, tables, write_comparison

    options = {name: getattr(args, name) for name in ("names", "reference", "metrics")}
    compared = compare_runs(args.runs, allow=args.allow or (), **options)
    written = write_comparison(args.output, compared)
    for rows in tables(compared).values():
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print()
    print("\n".join([*conclusions(compared), *(f"note: {note}" for note in all_notes(compared))]))
    print(f"\nwrote {', '.join(written)} into {printable(args.output)}")
