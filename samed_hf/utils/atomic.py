"""Atomic writes of files and directories: write to a temporary path, then rename.

Temporary paths are named `.….tmp` and are on the same file system as their target, so that the move is one rename. A
process that is killed leaves at most a temporary path, which [`remove_leftovers`] deletes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
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
def temporary_directory(parent: str | os.PathLike[str], prefix: str = "") -> Iterator[Path]:
    """Yield a hidden directory in `parent`, which is removed at the end with its remaining content.

    Its name begins with `prefix`, by which [`remove_leftovers`] finds it after a kill.
    """
    temporary = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{prefix}", suffix=_SUFFIX, dir=parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_directory(path: str | os.PathLike[str], *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary directory, which becomes `path` if the block succeeds; parents of `path` are created.

    Without `replace`, a `path` that another process has made meanwhile is kept.
    """
    path = Path(path).resolve()  # the target of "." or of a link
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_directory(path.parent) as temporary:
        content = temporary / "content"
        content.mkdir()
        yield content
        if replace:
            replace_directory(content, path)
            return
        try:
            content.rename(path)
        except OSError:
            if not path.is_dir():
                raise


@contextmanager
def atomic_update(
    directory: str | os.PathLike[str],
    order: Callable[[Path], object] = lambda path: path.suffix == ".json",
    obsolete: Callable[[list[str]], Iterable[str]] = lambda written: (),
    prefix: str = "",
) -> Iterator[Path]:
    """Yield a temporary directory, whose files are moved into `directory` if the block succeeds.

    Missing directories are created, and other files in them stay, except those whose relative paths `obsolete` returns
    for the relative paths of the new files. `order` is the sort key of the files: the file that a reader opens first is
    moved last, and of the obsolete files it is removed first. If a step fails, the changes before it are undone.
    `prefix` begins the temporary directory's name.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with temporary_directory(directory, prefix) as temporary:
        content, backup = temporary / "content", temporary / "backup"
        content.mkdir()
        yield content
        files = [path for path in content.rglob("*") if path.is_file()]
        names = [file.relative_to(content) for file in sorted(files, key=lambda file: (order(file), str(file)))]
        leaving = [Path(name) for name in obsolete([name.as_posix() for name in names])]
        # An obsolete file that is read first goes before its like arrives; the others when nothing refers to them.
        first = [name for name in leaving if order(name)]
        start = next((index for index, name in enumerate(names) if order(name)), len(names))
        steps = [*names[:start], *first, *names[start:], *(name for name in leaving if name not in first)]
        changed: list[Path] = []
        created: list[Path] = []
        try:
            for name in steps:
                target = directory / name
                if not target.parent.exists():
                    target.parent.mkdir()
                    created.append(target.parent)
                if target.exists():
                    _copy(target, backup / name)
                changed.append(name)
                if name in leaving:
                    target.unlink(missing_ok=True)
                else:
                    (content / name).chmod(0o644)
                    os.replace(content / name, target)
        except BaseException:
            _undo(directory, changed, backup, created)
            raise
        for parent in {name.parent for name in leaving} - {Path()}:
            if not any((directory / parent).iterdir()):
                (directory / parent).rmdir()


def _undo(directory: Path, changed: list[Path], backup: Path, created: list[Path]) -> None:
    """Restore the files `changed` in `directory` from their copies, and remove the directories `created`."""
    for name in changed:
        if (backup / name).exists():
            os.replace(backup / name, directory / name)
        else:
            (directory / name).unlink(missing_ok=True)
    for path in created:
        path.rmdir()


def _copy(file: Path, target: Path) -> None:
    """Link a file to `target`, or copy it on a file system without hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copy2(file, target)


def replace_directory(source: Path, target: Path) -> None:
    """Replace the directory `target` by `source`; [`remove_leftovers`] recovers from a kill in between."""
    old = target.with_name(f".{target.name}{_OLD}")
    if target.exists():
        target.rename(old)
    source.rename(target)
    fsync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(directory: Path, prefix: str = "") -> None:
    """Delete the temporary paths of a killed process in a directory, and restore directories it was replacing.

    With `prefix`, only the temporary paths whose names begin with it.
    """
    for old in [] if prefix else directory.glob(f".*{_OLD}"):
        target = old.with_name(old.name.removeprefix(".").removesuffix(_OLD))
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)
    for path in directory.glob(f"{_PREFIX}{prefix}*{_SUFFIX}"):
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
