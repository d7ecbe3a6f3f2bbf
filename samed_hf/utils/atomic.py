"""Files and directories that appear whole or not at all: the only place that writes aside and moves.

Whatever is written aside is called `.….tmp` and lies on the same file system as its target, so that the move is one
rename. A process that is killed leaves at most such a file, which [`remove_leftovers`] deletes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "atomic_directory",
    "atomic_file",
    "atomic_update",
    "fsync",
    "remove_leftovers",
    "replace_directory",
    "temporary_directory",
    "write_bytes",
    "write_text",
]

_PREFIX, _SUFFIX = ".", ".tmp"
_OLD = ".old"


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that at any moment the old one or the new one is there, whole."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """[`write_bytes`] for text in UTF-8."""
    write_bytes(path, content.encode("utf-8"))


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file beside `path`, which replaces `path` if the block succeeds.

    Raises:
        FileNotFoundError: the directory of `path` does not exist.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)  # mkstemp's are for their owner alone
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def temporary_directory(parent: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a hidden directory in `parent`, removed at the end with all that was not moved out of it.

    Its name is short: a file whose name is as long as the file system allows can be written by way of it.

    Raises:
        FileNotFoundError: `parent` does not exist.
    """
    temporary = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=_SUFFIX, dir=parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary directory, which becomes `path`, replacing what is there, if the block succeeds.

    Parents of `path` are created.
    """
    path = Path(path).resolve()  # the target itself of "." and of a link
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_directory(path.parent) as temporary:
        content = temporary / "content"
        content.mkdir()
        yield content
        replace_directory(content, path)


@contextmanager
def atomic_update(
    directory: str | os.PathLike[str], order: Callable[[Path], object] = lambda path: path.suffix == ".json"
) -> Iterator[Path]:
    """Yield a temporary directory, whose files are moved into `directory` if the block succeeds.

    If one of them can't be moved, those moved before are taken back and the files they replaced are restored.

    Args:
        directory: created where it is missing; files of other names in it stay.
        order: sort key of the files; what a reader opens first comes last. By default JSON files come last. A file may
            lie in a subdirectory, which is created where it is missing.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with temporary_directory(directory) as temporary:
        content, backup = temporary / "content", temporary / "backup"
        content.mkdir()
        yield content
        files = [path for path in content.rglob("*") if path.is_file()]
        moved: list[Path] = []
        created: list[Path] = []
        try:
            for file in sorted(files, key=lambda file: (order(file), str(file))):
                name = file.relative_to(content)
                target = directory / name
                if not target.parent.exists():
                    target.parent.mkdir()
                    created.append(target.parent)
                if target.exists():
                    _link(target, backup / name)
                file.chmod(0o644)
                os.replace(file, target)
                moved.append(name)
        except BaseException:
            for name in moved:
                if (backup / name).exists():
                    os.replace(backup / name, directory / name)
                else:
                    (directory / name).unlink(missing_ok=True)
            for path in created:
                path.rmdir()
            raise


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def replace_directory(source: Path, target: Path) -> None:
    """Move a directory to `target` in place of what is there; a kill in between is mended by [`remove_leftovers`]."""
    old = target.with_name(f".{target.name}{_OLD}")
    if target.exists():
        target.rename(old)
    source.rename(target)
    fsync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Delete what a killed process left half-written in a directory, and restore what it was about to replace."""
    for old in directory.glob(f".*{_OLD}"):
        target = old.with_name(old.name.removeprefix(".").removesuffix(_OLD))
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)
    for path in directory.glob(f"{_PREFIX}*{_SUFFIX}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Flush a file or directory to the disk, and drop it from the page cache, so that reading it reads the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        if path.is_file() and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
