"""The folder of a run, in which things are whole or not there, whatever becomes of the process or the disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError

__all__ = ["check_writable", "clear_leftovers", "move_in", "on_all_ranks", "set_aside", "sync"]

# What a killed process leaves: folders being written or taken away, and files being written aside.
_LEFTOVERS = (
    ".checkpoint-*.tmp",
    ".phantom-*",
    ".base_model.tmp",
    ".best.tmp",
    ".validated.tmp",
    ".saving-*",
    ".writable-*",
    ".training_*-????????",
)


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
    probe = place / f".writable-{os.getpid()}"
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


def sync(path: Path) -> None:
    """Bring a file or folder to the disk, and out of the memory, so that reading it reads the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        if path.is_file() and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def move_in(aside: Path, folder: Path) -> None:
    """Put a folder in another's place; a kill in between leaves what [`clear_leftovers`] sets right."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def clear_leftovers(output_dir: Path) -> None:
    """Take away what a killed run left half-written, and put back what it was about to replace."""
    for old in output_dir.glob(".*.old"):
        place = old.with_name(old.name.removeprefix(".").removesuffix(".old"))
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(place)
    for pattern in _LEFTOVERS:
        for path in output_dir.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                _unlink(path)


def set_aside(output_dir: Path, folders: list[Path]) -> Path:
    """Move folders into `earlier-N`, the first that is free; returns it."""
    number = 1
    while (output_dir / f"earlier-{number}").exists():
        number += 1
    earlier = output_dir / f"earlier-{number}"
    earlier.mkdir()
    for folder in folders:
        folder.rename(earlier / folder.name)
    return earlier
