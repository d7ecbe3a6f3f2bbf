"""How far a prediction run is: a bar in a terminal, a few lines in a file."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from ..utils.text import printable

__all__ = ["CaseProgress"]

_LINES, _SECONDS = 10, 2.0


class CaseProgress:
    """Shows how many slices of a case are done; a context manager.

    In a terminal it is a bar. Elsewhere lines are printed, at most ten, and none within two seconds of the one before.

    Args:
        name: Of the case.
        number: Of the case, from 1.
        count: Of the cases.
        bar: Whether to show a bar; by default where standard error is a terminal.
    """

    def __init__(self, name: str, number: int, count: int, *, bar: bool | None = None) -> None:
        self.what = f"case {number}/{count} {printable(name)}"
        self.bar = (
            tqdm(desc=self.what, total=0, unit="slice", ncols=100, leave=False, file=sys.stderr)
            if (sys.stderr.isatty() if bar is None else bar)
            else None
        )
        self.tenth, self.last = 0, time.monotonic()

    def __enter__(self) -> CaseProgress:
        """Start."""
        return self

    def show(self, done: int, total: int) -> None:
        """Note that `done` of `total` slices are done."""
        if self.bar is not None:
            self.bar.total, self.bar.n = total, done
            self.bar.refresh()
            return
        tenth, now = done * _LINES // total, time.monotonic()
        if tenth > self.tenth and now - self.last >= _SECONDS:
            self.tenth, self.last = tenth, now
            print(f"{self.what}: slice {done} of {total}", flush=True)

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
