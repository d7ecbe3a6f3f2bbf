"""Progress: a bar in a terminal, a few log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

__all__ = ["ProgressBar", "ProgressCallback"]

ProgressCallback = Callable[[int, int], None]
"""Called with how many of how many items are done."""

_LINES, _SECONDS = 10, 2.0

logger = logging.getLogger(__name__)


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
