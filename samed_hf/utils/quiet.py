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
