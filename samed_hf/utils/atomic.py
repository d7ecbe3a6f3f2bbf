"""Files written aside and moved into place when whole."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["write_bytes", "write_text"]


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write a file so that at any moment it is the old one or the new one, whole."""
    path = Path(path)
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike, content: str) -> None:
    """[`write_bytes`] for text in UTF-8."""
    write_bytes(path, content.encode("utf-8"))
