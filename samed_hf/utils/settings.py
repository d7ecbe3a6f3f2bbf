"""Settings as fields of a dataclass, whose metadata hold their help text, range and meaning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field, fields
from typing import Any

__all__ = ["field_names", "find_problems", "setting"]


def setting(
    default: Any,  # `None` for a value that is derived later
    help: str,  # text of the flag, with a derived default in brackets
    *,
    minimum: float | None = None,  # smallest number that is allowed
    choices: Sequence[str] | None = None,  # the allowed values
    filled: Any = None,  # what `fill_defaults` replaces `None` by, where neither a preset nor the data decides
    resume: bool = False,  # a resumed run must have the value of the run that wrote the checkpoint
    private: bool = False,  # a path of the user's machine, the name of private data or a secret; never published
    on_card: bool = True,  # affects the trained weights, and so belongs on the model card
) -> Any:
    """A field of a dataclass of settings; the command line makes a flag of each."""
    metadata: dict[str, Any] = {"help": help, "minimum": minimum, "choices": choices, "filled": filled}
    metadata |= {"resume": resume, "private": private, "on_card": on_card and not private}
    return field(default=default, metadata=metadata)


def field_names(settings: Any, key: str) -> list[str]:
    """Names of the fields whose metadata `key` is set."""
    return [item.name for item in fields(settings) if item.metadata.get(key)]


def find_problems(settings: Any) -> list[str]:
    """One phrase for each value below its minimum or not among its choices; `None` is always allowed."""
    problems = []
    for item in fields(settings):
        value, minimum, choices = (getattr(settings, item.name), *map(item.metadata.get, ("minimum", "choices")))
        if value is None:
            continue
        if minimum is not None and not minimum <= value < math.inf:
            problems.append(f"{item.name} is {value}: expected a number of at least {minimum}")
        if choices is not None and value not in choices:
            problems.append(f"{item.name} is {value!r}: expected {', '.join(map(repr, choices))}")
    return problems
