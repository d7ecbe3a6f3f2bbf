"""Log messages and progress on the console, and silence of C libraries."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["ProgressBar", "ProgressCallback", "c_stderr_silenced", "configure_logging", "console_logging"]

ProgressCallback = Callable[[int, int], None]  # called with how many of how many items are done
_PACKAGE = __name__.partition(".")[0]
_LINES, _SECONDS = 10, 2.0
_lock = threading.Lock()

logger = logging.getLogger(__name__)


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


class ProgressBar:
    """A context manager whose instance is a [`ProgressCallback`].

    In a terminal, or with `bar`, it is a bar on standard error. Elsewhere at most ten lines are logged, and none within
    two seconds of the one before. `unit` is that of the items, in the singular.
    """

    def __init__(self, description: str, unit: str, *, bar: bool | None = None) -> None:
        from tqdm import tqdm

        self.description, self.unit = description, unit
        disable = not (sys.stderr.isatty() if bar is None else bar)
        self.bar = tqdm(None, description, 0, file=sys.stderr, ncols=100, leave=False, disable=disable, unit=unit)
        self._tenth, self._last = 0, time.monotonic()

    def __enter__(self) -> ProgressBar:
        """Start."""
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` items are done."""
        if not self.bar.disable:
            self.bar.total, self.bar.n = total, done
            self.bar.refresh()
            return
        tenth, now = done * _LINES // max(total, 1), time.monotonic()
        if tenth > self._tenth and now - self._last >= _SECONDS:
            self._tenth, self._last = tenth, now
            logger.info("%s: %s %d of %d", self.description, self.unit, done, total)

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        self.bar.close()


@contextmanager
def c_stderr_silenced() -> Iterator[None]:
    """Redirect file descriptor 2 to the null device for a block; other threads' messages are lost meanwhile.

    MetaIO and libtiff have no switch for their messages: they describe damaged headers with `std::cerr` and `fprintf`,
    next to the error that they raise.
    """
    with _lock, open(os.devnull, "wb") as null:
        try:
            saved = os.dup(2)
        except OSError:  # the process has no standard error
            yield
            return
        try:
            os.dup2(null.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
