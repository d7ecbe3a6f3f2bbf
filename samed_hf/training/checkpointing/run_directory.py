"""The folder of a run, in which things are whole or not there, whatever becomes of the process or the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError

__all__ = ["archive_directories", "check_writable", "on_all_ranks"]


def on_all_ranks(accelerator: Accelerator, action: Callable[[], None]) -> None:
    """Do something on every process; where it fails on one, it fails on all, so that none waits for another.

    Raises:
        OSError: what went wrong, in one line, on all processes.
    """
    problem, cause = None, None
    try:
        action()
    except (OSError, RuntimeError, SafetensorError) as error:  # the latter two are how torch and safetensors tell it
        problem, cause = _described(error), error
    problems = [found for found in gather_object([problem]) if found]
    if problems:
        raise OSError(*problems[0]) from cause


def _described(error: Exception) -> tuple[int, str, str | None]:
    """Number, words and file of an error of writing, as [`OSError`] has them, without lines of C++."""
    if isinstance(error, OSError) and error.errno:
        return error.errno, error.strerror, None if error.filename is None else str(error.filename)
    text = " ".join(str(error).split())
    if any(words in text for words in ("No space left", "file write failed", "unexpected pos", "requested and")):
        return errno.ENOSPC, os.strerror(errno.ENOSPC), None
    return errno.EIO, text[:200] or type(error).__name__, None


def check_writable(output_dir: Path) -> None:
    """Refuse a folder in which nothing can be written, before anything long starts; nothing is left there.

    Raises:
        OSError: it, or the folder it is to be made in, is read-only or full.
    """
    place = output_dir
    while not place.exists():
        place = place.parent
    probe = place / f".writable-{os.getpid()}.tmp"
    try:
        probe.write_bytes(b"\0" * 4096)
    except OSError as error:
        raise OSError(
            f"output_dir {str(output_dir)!r} can't be written to ({error.strerror}): give another --output_dir, or "
            "make room or the folder writable."
        ) from error
    finally:
        _unlink(probe)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a read-only folder, which the caller tells
        return


def archive_directories(output_dir: Path, directories: list[Path]) -> Path:
    """Move directories and files into `earlier-N`, the first free number; returns it."""
    number = 1
    while (output_dir / f"earlier-{number}").exists():
        number += 1
    earlier = output_dir / f"earlier-{number}"
    earlier.mkdir()
    for path in directories:
        path.rename(earlier / path.name)
    return earlier
