"""Atomic writes of files and directories: write to a temporary path, then rename.

Temporary paths are named `.….tmp` and are on the same file system as their target, so that the move is one rename. A
process that is killed leaves at most a temporary path, which [`remove_leftovers`] deletes.
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

_PREFIX, _SUFFIX, _OLD = ".", ".tmp", ".old"


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically: at any moment the old or the new file exists, complete."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """[`write_bytes`] for text in UTF-8."""
    write_bytes(path, content.encode("utf-8"))


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file in the directory of `path`, which replaces `path` if the block succeeds."""
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)  # mkstemp creates files that only their owner can read
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def temporary_directory(parent: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a hidden directory in `parent`, which is removed at the end with its remaining content."""
    temporary = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=_SUFFIX, dir=parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary directory, which replaces `path` if the block succeeds; parents of `path` are created."""
    path = Path(path).resolve()  # the target of "." or of a link
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

    Missing directories are created, and other files in them stay. `order` is the sort key of the files: the file that a
    reader opens first is moved last. If a file can't be moved, the files moved before it are removed and the files they
    replaced are restored.
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
                    (backup / name).parent.mkdir(parents=True, exist_ok=True)
                    try:
                        os.link(target, backup / name)
                    except OSError:  # a file system without hard links
                        shutil.copy2(target, backup / name)
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


def replace_directory(source: Path, target: Path) -> None:
    """Replace the directory `target` by `source`; [`remove_leftovers`] recovers from a kill in between."""
    old = target.with_name(f".{target.name}{_OLD}")
    if target.exists():
        target.rename(old)
    source.rename(target)
    fsync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Delete the temporary paths of a killed process in a directory, and restore directories it was replacing."""
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
