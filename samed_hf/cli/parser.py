"""The parser of `samed-hf`, made from those of its commands; one-line errors and exit statuses."""

from __future__ import annotations

import argparse
import errno
import logging
import sys
import traceback
from collections.abc import Callable, Sequence

from .. import __version__
from ..utils.console import console_logging
from . import (
    compare,
    convert,
    cross_validate,
    doctor,
    evaluate,
    export,
    merge_predictions,
    predict,
    prepare,
    pretrain,
    push,
    serve,
    train,
    validate,
    watch_dicomweb,
)

__all__ = ["main", "make_parser", "run_command"]

_COMMANDS = (
    prepare,
    validate,
    pretrain,
    train,
    cross_validate,
    evaluate,
    predict,
    merge_predictions,
    convert,
    export,
    compare,
    push,
    serve,
    watch_dicomweb,
    doctor,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with its arguments in `argv`, by default those of the process.

    Returns:
        The exit status: 0, 1 where some cases failed, or 2 for bad input. argparse itself exits on unknown arguments.
    """
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    args.rest = rest
    if rest and not args.accepts_rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.argv = list(sys.argv[1:] if argv is None else argv)
    with console_logging(args.log_level):
        return run_command(lambda: args.run(args))


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; its result has `run`, the command's function, and `log_level`."""
    parser = argparse.ArgumentParser(prog="samed-hf", description="SAMed: Segment Anything for medical images.")
    parser.add_argument("--version", action="version", version=f"samed-hf {__version__}")
    parser.set_defaults(accepts_rest=False)
    _add_verbosity(parser, default=logging.INFO)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    for subparser in _leaves(parser):
        # SUPPRESS keeps a value that is given before the command.
        _add_verbosity(subparser, default=argparse.SUPPRESS)
    return parser


def _leaves(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parsers of the commands, and of their kinds where they have some."""
    groups = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    children = [child for group in groups for child in group.values()]
    return [leaf for child in children for leaf in _leaves(child) or [child]]


def _add_verbosity(parser: argparse.ArgumentParser, default: int | str) -> None:
    group = parser.add_mutually_exclusive_group()
    for flag, level, text in (
        ("--verbose", logging.DEBUG, "print details too"),
        ("--quiet", logging.WARNING, "print results, warnings and errors only"),
    ):
        group.add_argument(flag, action="store_const", const=level, dest="log_level", default=default, help=text)


def run_command(command: Callable[[], int | None]) -> int:
    """Run `command` and print its errors in one line on standard error.

    Returns:
        The exit status: that of `command`, where `None` is 0; 2 after an error, or 130 after Ctrl-C.
    """
    try:
        return command() or 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        package = _broken_package(error)
        if package is None and not isinstance(error, ValueError | OSError | ImportError | MemoryError):
            from ..inference.batching import is_out_of_memory

            if not is_out_of_memory(error):
                raise
        message = " ".join(str(error).split()) or type(error).__name__
        if package is not None:
            message = f"{package} can't be imported ({message}). samed-hf doctor lists what is missing or broken."
        if getattr(error, "errno", None) == errno.ENOSPC:
            message += ": free space on the disk and run the command again."
        print(f"error: {message}", file=sys.stderr, flush=True)
        return 2


def _broken_package(error: BaseException | None) -> str | None:
    """The other package whose import raised the error; `None` for an error of any other kind."""
    package = None
    while error is not None:
        if isinstance(error, ImportError) and error.name:
            package = error.name.partition(".")[0]
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        modules = [frame.f_globals.get("__name__") for frame in frames if frame.f_code.co_name == "<module>"]
        # The innermost package whose module was being run.
        imported = str(modules[-1]).partition(".")[0] if modules else "__main__"
        if imported not in ("samed_hf", "__main__"):
            package = imported
        error = error.__cause__
    return None if package == "samed_hf" else package
