"""Checkpoint directories: written to a temporary directory, verified, and renamed."""

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

__all__ = ["check_checkpoint", "find_checkpoint", "list_checkpoints", "write_checkpoint", "write_manifest"]

logger = get_logger(__name__)

_NAME = re.compile(r"^checkpoint-(\d+)$")
_MANIFEST = "manifest.json"


def write_checkpoint(
    accelerator: Accelerator, output_dir: Path, step: int, fill: Callable[[Path], None], keep: int | None
) -> Path:
    """Write `checkpoint-STEP`, then delete the oldest checkpoints beyond `keep`; every process calls it, and `fill`.

    A manifest holds the size and the SHA-256 of every file. The files are flushed to the disk and read back before the
    rename, so that every directory called `checkpoint-STEP` was complete when it got its name. An error is an `OSError`
    on all processes; the new files are removed then, and earlier checkpoints are intact.
    """
    directory, temporary = output_dir / f"checkpoint-{step}", output_dir / f".checkpoint-{step}.tmp"
    main = accelerator.is_main_process

    def verify_and_rename() -> None:
        write_manifest(temporary)
        problem = check_checkpoint(temporary)
        if problem:
            raise OSError(f"read back, {problem}")
        replace_directory(temporary, directory)

    try:
        if main:
            shutil.rmtree(temporary, ignore_errors=True)
        on_all_ranks(accelerator, lambda: temporary.mkdir(parents=True) if main else None)
        on_all_ranks(accelerator, lambda: fill(temporary))
        on_all_ranks(accelerator, lambda: verify_and_rename() if main else None)
    except BaseException as error:
        if main:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            earlier = list_checkpoints(output_dir)
            last = f"{earlier[-1].name} is complete" if earlier else "there is no earlier one"
            raise OSError(
                f"The checkpoint of step {step} can't be written to {output_dir} ({error.strerror or error}); {last}. "
                "Free some space or make the directory writable, and resume with the same command and "
                "--resume_from_checkpoint latest."
            ) from error
        raise
    if main and keep is not None:
        for old in [path for path in list_checkpoints(output_dir) if path != directory][: 1 - keep or None]:
            # Renamed first, so that no checkpoint is ever incomplete.
            shutil.rmtree(old.rename(old.with_name(f".{old.name}.tmp")), ignore_errors=True)
    accelerator.wait_for_everyone()
    return directory


def write_manifest(directory: Path) -> None:
    """Write the sizes and hashes of the files, and flush everything to the disk."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    entries = {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": _hash_file(path)}
        for path in files
    }
    write_text(directory / _MANIFEST, json.dumps({"files": entries}, indent=2) + "\n")
    for path in (*files, directory / _MANIFEST, *{directory, *(path.parent for path in files)}):
        fsync(path)


def _hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_checkpoint(directory: Path) -> str | None:
    """Compare a checkpoint with its manifest; return a phrase about the first missing, cut off or changed file."""
    try:
        files = json.loads((directory / _MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, entry in files.items():
            path = directory / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}"
            if _hash_file(path) != entry["sha256"]:
                return f"{name} doesn't match its SHA-256"
    except FileNotFoundError:
        return f"it has no {_MANIFEST}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{_MANIFEST} can't be read"
    except OSError as error:
        return f"it can't be read: {error.strerror}"
    return None


def find_checkpoint(output_dir: Path, requested: str, *, quiet: bool = False) -> Path | None:
    """Return the checkpoint to resume from: the directory `requested`, or for "latest" the last complete one.

    Without a complete one, "latest" is `None`: the run starts at its first step, so that a scheduler can repeat one
    command. `quiet` logs no warning of damaged checkpoints that are skipped.
    """
    if requested == "latest":
        for path in reversed(list_checkpoints(output_dir)):
            problem = check_checkpoint(path)
            if problem is None:
                return path
            if not quiet:
                logger.warning(f"{path} is damaged ({problem}) and skipped")
        return None
    directory = Path(requested)
    problem = check_checkpoint(directory)
    if problem is None:
        return directory
    if not (directory / _MANIFEST).is_file():
        raise FileNotFoundError(
            f"resume_from_checkpoint {requested!r} is no complete checkpoint ({problem}): expected a directory "
            "checkpoint-STEP, or latest."
        )
    raise ValueError(
        f"The checkpoint {directory} is damaged ({problem}): give --resume_from_checkpoint another one, or latest."
    )


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Return the directories called `checkpoint-STEP`, the fewest steps first."""
    steps = {int(match[1]): path for path in output_dir.glob("checkpoint-*") if (match := _NAME.match(path.name))}
    return [steps[step] for step in sorted(steps)]
