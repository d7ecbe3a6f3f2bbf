"""Text for messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["join_or", "one_line", "printable"]


def printable(text: str | Path) -> str:
    """Replace every unprintable character, such as a line break in a file name, by its escape sequence."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line, or the name of its type if the message is empty."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def join_or(words: Sequence[str]) -> str:
    """Join words for a message: "a, b or c"."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
