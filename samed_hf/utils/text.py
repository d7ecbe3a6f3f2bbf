"""Text for messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["join_or", "name_some", "one_line", "printable", "split_names"]


def printable(text: str | Path) -> str:
    """Replace every unprintable character, such as a line break in a file name, by its escape sequence."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line, or the name of its type if the message is empty."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def join_or(words: Sequence[str]) -> str:
    """Join words for a message: "a, b or c"."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def name_some(names: Iterable[object], limit: int = 3) -> str:
    """Join names by commas; those after the first `limit` are counted."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def split_names(argument: str, value: str | Iterable[str], known: Sequence[str]) -> list[str]:
    """The names of a list, or of a text with commas, in the order of `known`.

    Raises:
        ValueError: no name, an unknown one, or one given twice.
    """
    names = [name.strip() for name in (value.split(",") if isinstance(value, str) else value)]
    if not names or len({*names}) < len(names) or not {*names} <= {*known}:
        shown = value if isinstance(value, str) else ",".join(names)
        raise ValueError(f"{argument} is {shown!r}: expected some of {', '.join(known)}, with commas, each once.")
    return [name for name in known if name in names]
