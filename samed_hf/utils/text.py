"""Text of messages."""

from __future__ import annotations

from pathlib import Path

__all__ = ["one_line", "printable"]


def printable(text: str | Path) -> str:
    """The text with every unprintable character, such as a line break in a file's name, as an escape sequence."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def one_line(error: BaseException) -> str:
    """The message of an error in one line, or the name of its type where it has none."""
    return printable(" ".join(str(error).split())) or type(error).__name__
