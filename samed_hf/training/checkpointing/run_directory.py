"""The directory of a run: writable, and written to on all processes or on none."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError

from ...utils.text import one_line

__all__ = ["archive_directories", "check_writable", "on_all_ranks", "on_main_rank"]

_FULL_DISK = ("No space left", "file write failed", "unexpected pos", "requested and")


def on_all_ranks(accelerator: Accelerator, action: Callable[[], None]) -> None:
    """Call `action` on every process and raise an error of one as an `OSError` on all, so that none waits for another.

    The error has errno, message and file name, without torch's C++ stack frames.
    """
    problem, cause = None, None
    try:
        action()
    except (OSError, RuntimeError, SafetensorError) as error:  # the latter two are from torch and safetensors
        cause, text = error, one_line(error)
        if isinstance(error, OSError) and error.errno:
            file = error.filename and str(error.filename)
            problem = error.errno, error.strerror or os.strerror(error.errno), file
        elif any(words in text for words in _FULL_DISK):
            problem = errno.ENOSPC, os.strerror(errno.ENOSPC), None
        else:
            problem = errno.EIO, text[:200], None
    problems = [found for found in gather_object([problem]) if found]
    if problems:
        raise OSError(*problems[0]) from cause


def on_main_rank(state: Accelerator | PartialState, action: Callable[[], Any]) -> Any:
    """Call `action` on the main process, and return its result, or raise its error, on all processes."""
    outcome: list[Any] = [None, None]
    if state.is_main_process:
        try:
            outcome[0] = action()
        except (ValueError, OSError) as error:
            outcome[1] = error
    result, failure = broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    return result


def check_writable(output_dir: Path) -> None:
    """Check that files can be written to the output directory, or to its nearest parent that exists."""
    directory = output_dir
    while not directory.exists():
        directory = directory.parent
    probe = directory / f".writable-{os.getpid()}.tmp"
    try:
        probe.write_bytes(b"\0" * 4096)
    except OSError as error:
        raise OSError(
            f"output_dir {str(output_dir)!r} can't be written to ({error.strerror}): give another --output_dir, or "
            "free some space or make the directory writable."
        ) from error
    finally:
        with suppress(OSError):  # a read-only directory, reported above
            probe.unlink(missing_ok=True)


def archive_directories(output_dir: Path, directories: list[Path]) -> Path:
    """Move directories and files into a new directory `earlier-N`, and return it."""
    number = 1
    while (output_dir / f"earlier-{number}").exists():
        number += 1
    earlier = output_dir / f"earlier-{number}"
    earlier.mkdir()
    for path in directories:
        path.rename(earlier / path.name)
    return earlier
