"""`samed-hf cross-validate`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .processes import run_in_processes

if TYPE_CHECKING:
    from ..training import SamedTrainingArguments

__all__ = ["add_parser", "parse", "run"]

_DESCRIPTION = (
    "Train an adapter for each fold of the data, and score each case by the one that was not trained on it. All flags "
    "are those of samed-hf train, which each fold runs, and:"
)
_OWN = (
    "--num_parallel_folds N: folds trained at a time, each in a process with a GPU of its own, or a share of the CPU "
    "cores [1]. "
    "--num_train_cases A,B,…: a learning curve: all folds for each number of training cases. "
    "--num_folds N: folds that are made [the data set's own, or 5]. "
    "--fold K: only this one; the run that finds all complete collects the scores."
)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command, whose arguments are parsed by `run`."""
    text = "train and score an adapter for each fold"
    parser = commands.add_parser("cross-validate", help=text, add_help=False, allow_abbrev=False)
    parser.set_defaults(run=run, accepts_rest=True)


def run(args: argparse.Namespace) -> int:
    """Train the folds and collect their scores; with `--dry_run`, print the plan.

    Returns:
        0, or 1 where some folds failed, 2 where all did.
    """
    settings, dry_run, own = parse(args.rest)

    def work(_: object) -> int:
        from ..studies.cross_validation import cross_validate, log_cross_validation

        if dry_run:
            log_cross_validation(settings, **own)
            return 0
        return cross_validate(settings, **own)

    return run_in_processes(args, work)


def parse(argv: Sequence[str]) -> tuple[SamedTrainingArguments, bool, dict[str, Any]]:
    """Parse the flags: the settings of the trainings, whether `--dry_run` is given, and the command's own."""
    from ..training.settings_file import parse_command

    own = argparse.ArgumentParser("samed-hf cross-validate", add_help=False, allow_abbrev=False)
    own.add_argument("--num_parallel_folds", "--num-parallel-folds", type=int, default=1)
    own.add_argument("--num_train_cases", "--num-train-cases", type=_sizes, default=())
    mine, rest = own.parse_known_args(argv)
    text = f"{_DESCRIPTION} {_OWN}"
    return *parse_command(rest, prog="samed-hf cross-validate", description=text), vars(mine)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        sizes = (0,)
    if sizes[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers of cases such as 5,10,20")
    return sizes
