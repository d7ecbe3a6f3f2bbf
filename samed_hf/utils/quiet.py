"""Silence C and C++ libraries that write to the standard error of the process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["c_stderr_silenced"]

_lock = threading.Lock()


@contextmanager
def c_stderr_silenced() -> Iterator[None]:
    """Redirect file descriptor 2 to the null device, and restore it at the end.

    Only for short calls of libraries that have no switch for their messages: ITK's MetaIO, NrrdIO and libtiff describe
    damaged headers with `fprintf` and `std::cerr`, next to the error that they raise. Python's `sys.stderr` has no
    influence on these. What other threads write to standard error in the meantime is lost.
    """
    with _lock:
        try:
            saved = os.dup(2)
        except OSError:  # the process has no standard error
            yield
            return
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(null)
