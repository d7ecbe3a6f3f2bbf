"""Checkpoints as folders that are whole or not there: written aside, checked, and moved in by a rename."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from ...utils.atomic import fsync, replace_directory, write_text
from ..distributed.logging import get_logger
from .run_directory import on_all_ranks

__all__ = [
    "check_checkpoint",
    "find_checkpoint",
    "list_checkpoints",
    "write_checkpoint",
]

logger = get_logger(__name__)

_NAME = re.compile(r"^checkpoint-(\d+)$")
_MANIFEST = "manifest.json"


def write_checkpoint(
    accelerator: Accelerator, output_dir: Path, step: int, fill: Callable[[Path], None], keep: int | None
) -> Path:
    """Write `checkpoint-STEP` aside, check it, move it in; only then take away the oldest beyond `keep`.

    A manifest holds the size and SHA-256 of every file. Files and folder are on the disk, and are read back from there,
    before the rename, so that whatever is called `checkpoint-STEP` was whole at one time.

    Args:
        accelerator: every process must call.
        output_dir: the run's folder, seen by all processes.
        step: optimizer steps done.
        fill: writes the files into a folder; called on every process.
        keep: how many checkpoints stay; `None`: all.

    Raises:
        OSError: it couldn't be written, on all processes alike; nothing of it is left and the earlier ones are whole.
    """
    folder, aside = output_dir / f"checkpoint-{step}", output_dir / f".checkpoint-{step}.tmp"
    main = accelerator.is_main_process

    def seal() -> None:
        _write_manifest(aside)
        problem = check_checkpoint(aside)
        if problem:
            raise OSError(f"read back, {problem}")
        replace_directory(aside, folder)

    try:
        on_all_ranks(accelerator, lambda: _make_empty(aside) if main else None)
        on_all_ranks(accelerator, lambda: fill(aside))
        on_all_ranks(accelerator, lambda: seal() if main else None)
    except BaseException as error:
        if main:
            shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, OSError):
            earlier = list_checkpoints(output_dir)
            kept = f"{earlier[-1].name} is whole" if earlier else "there is no earlier one"
            raise OSError(
                f"The checkpoint of step {step} can't be written to {output_dir} ({error.strerror or error}); {kept}. "
                "Make room or the folder writable, and go on with the same command and --resume_from_checkpoint latest."
            ) from error
        raise
    if main and keep is not None:
        for old in [path for path in list_checkpoints(output_dir) if path != folder][: 1 - keep or None]:
            _take_away(old)
    accelerator.wait_for_everyone()
    return folder


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write_manifest(folder: Path) -> None:
    """Bring the files to the disk, and note their sizes and hashes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    about = {}
    for path in files:
        about[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        fsync(path)
    write_text(folder / _MANIFEST, json.dumps({"files": about}, indent=2) + "\n")
    fsync(folder / _MANIFEST)
    for path in {folder, *(path.parent for path in files)}:
        fsync(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_checkpoint(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words: a file missing, cut off or changed; `None` where it is whole."""
    try:
        files = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, about in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != about["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {about['bytes']}"
            if _sha256(path) != about["sha256"]:
                return f"{name} isn't what was written, by its SHA-256"
    except FileNotFoundError:
        return f"no {_MANIFEST} in it"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} can't be read"
    except OSError as error:
        return f"it can't be read: {error.strerror}"
    return None


def find_checkpoint(output_dir: Path, requested: str, *, quiet: bool = False) -> Path | None:
    """The checkpoint to continue from: a folder, or "latest" for the last whole one of the run.

    Args:
        output_dir: the run's folder.
        requested: a directory, or "latest".
        quiet: log no warning of damaged checkpoints that are skipped.

    Returns:
        The folder; `None` where "latest" finds no whole one: the run begins at its first step, so that a scheduler can
        give the same command from the first time on.

    Raises:
        FileNotFoundError: the folder isn't there, or is no checkpoint.
        ValueError: the folder is a damaged checkpoint.
    """
    if requested == "latest":
        for folder in reversed(list_checkpoints(output_dir)):
            problem = check_checkpoint(folder)
            if problem is None:
                return folder
            if not quiet:
                logger.warning(f"{folder} is damaged ({problem}) and left out")
        return None
    folder = Path(requested)
    problem = check_checkpoint(folder)
    if problem and not (folder / _MANIFEST).is_file():
        raise FileNotFoundError(
            f"resume_from_checkpoint {requested!r} is no whole checkpoint ({problem}): expected a folder "
            f"checkpoint-STEP, or latest."
        )
    if problem:
        raise ValueError(
            f"The checkpoint {folder} is damaged ({problem}): give --resume_from_checkpoint another one, or latest."
        )
    return folder


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Folders called `checkpoint-STEP`, the fewest steps first."""
    steps = {int(match[1]): path for path in output_dir.glob("checkpoint-*") if (match := _NAME.match(path.name))}
    return [steps[step] for step in sorted(steps)]


def _take_away(folder: Path) -> None:
    # Renamed first: half of a folder must never be called a checkpoint.
    aside = folder.with_name(f".{folder.name}.tmp")
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
