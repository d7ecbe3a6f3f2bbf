"""`samed-hf train`: train an adapter, or print with `--dry_run` what a run would do."""

from __future__ import annotations

from collections.abc import Sequence

from ..training.dry_run import log_plan
from ..training.pipeline import run_training
from ..training.settings_file import parse_command
from ..utils.logging import configure_logging

__all__ = ["train_command"]

_DESCRIPTION = "Train an adapter, score it on cases it was not trained on, and write its card and report."


def train_command(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run `samed-hf train` with the flags `argv`."""
    args, dry_run = parse_command(argv, prog, _DESCRIPTION)
    configure_logging()
    if dry_run:
        log_plan(args)
    else:
        run_training(args)
