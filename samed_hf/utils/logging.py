"""What the command line prints of the package's log messages; modules use `logging.getLogger(__name__)`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["configure_logging", "console_logging"]

_PACKAGE = __name__.partition(".")[0]


class _Handler(logging.Handler):
    """Prints messages up to INFO to standard output, and warnings and errors to standard error with their level."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            text, stream = self.format(record), sys.stdout
            if record.levelno >= logging.WARNING:
                text, stream = f"{record.levelname.lower():<12}{text}", sys.stderr
            with tqdm.external_write_mode():  # above a progress bar
                print(text, file=stream, flush=True)
        except Exception:
            self.handleError(record)


def configure_logging(level: int = logging.INFO) -> None:
    """Print the package's messages of at least `level`; for programs, as a library leaves this to its user."""
    logger = logging.getLogger(_PACKAGE)
    logger.setLevel(level)
    logger.propagate = False
    logger.handlers[:] = [handler for handler in logger.handlers if not isinstance(handler, _Handler)]
    logger.addHandler(_Handler())


@contextmanager
def console_logging(level: int = logging.INFO) -> Iterator[None]:
    """[`configure_logging`] for the duration of a block; at its end the earlier configuration is restored."""
    logger = logging.getLogger(_PACKAGE)
    earlier, propagate, handlers = logger.level, logger.propagate, list(logger.handlers)
    configure_logging(level)
    try:
        yield
    finally:
        logger.setLevel(earlier)
        logger.propagate, logger.handlers[:] = propagate, handlers
