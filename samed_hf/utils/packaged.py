"""The base model that is a part of the package: its name, its version and its directory."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["SMALL_SAM", "SMALL_SAM_VERSION", "check_version", "is_directory", "locate"]

SMALL_SAM = "samed_hf/small"
"""Name of the packaged base model, which has learnt from synthetic images; see docs/small-sam.md."""

SMALL_SAM_VERSION = "1"
"""Version of its weights, and their `revision`: adapters of one don't work on another."""


def locate(source: str | os.PathLike[str]) -> str:
    """The directory of the packaged base model for its name, and any other directory or Hub id unchanged."""
    return str(Path(__file__).parents[1] / "small") if source == SMALL_SAM else str(source)


def is_directory(source: str | os.PathLike[str]) -> bool:
    """Whether a base model is a directory of the user; the packaged one isn't, wherever Python runs."""
    return source != SMALL_SAM and Path(source).is_dir()


def check_version(revision: str | None) -> str:
    """The version of the packaged base model.

    Raises:
        ValueError: another one was asked for.
    """
    if revision not in (None, SMALL_SAM_VERSION):
        raise ValueError(
            f"revision is {revision!r} for {SMALL_SAM}: expected {SMALL_SAM_VERSION!r}, the version in this samed_hf. "
            "Install the samed_hf that the adapter was trained with, or train the adapter again."
        )
    return SMALL_SAM_VERSION
