"""Text for messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["comma_separated", "join_or", "name_some", "one_line", "parse_sizes", "printable", "split_names"]


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


def comma_separated(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in text.split(","))


def parse_sizes(text: str | None, flag: str, unit: str) -> dict[str, float]:
    """Parse `0.5`, for "all" labels, or `liver=1,spleen=0.5`."""
    found: dict[str, float] = {}
    for part in [] if text is None else text.split(","):
        name, equals, number = part.rpartition("=")
        name = name.strip() if equals else "all"
        try:
            size = float(number)
        except ValueError:
            name = ""
        if not name or name in found:
            raise ValueError(
                f"{flag} is {text!r}: expected a size in {unit} for all labels, e.g. 0.5, or one for each label, e.g. "
                "liver=1,spleen=0.5."
            )
        found[name] = size
    return found


def split_names(argument: str, value: str | Iterable[str], known: Sequence[str]) -> list[str]:
    """The names of a list, or of a text with commas, in the order of `known`.

    Raises:
        ValueError: no name, an unknown one, or one given twice.
    """
    names = list(comma_separated(value) if isinstance(value, str) else value)
    if not names or len({*names}) < len(names) or not {*names} <= {*known}:
        shown = value if isinstance(value, str) else ",".join(names)
        raise ValueError(f"{argument} is {shown!r}: expected some of {', '.join(known)}, with commas, each once.")
    return [name for name in known if name in names]
