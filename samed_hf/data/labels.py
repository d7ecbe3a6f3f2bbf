"""Names of labels in data sets: JSON (name → value or value → name), text, CSV, or only the values that occur."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["find_labels_file", "labels_from_mapping", "labels_of_names", "read_json", "read_text", "resolve_labels"]

_FILES = ("labels.json", "id2label.json", "labels.txt", "classes.txt", "labels.csv", "classes.csv")


class Labels(NamedTuple):
    """Names of the labels, and the number that each has in the files."""

    id2label: dict[int, str]  # keys 0, 1, …
    values: tuple[int, ...]  # the files' number of each, in order


def labels_from_mapping(mapping: Any, source: object, names_first: bool | None = None) -> Labels:
    """Labels of `{"0": "background", …}` or `{"background": 0, …}`; `source` is named in errors.

    One order holds for the whole mapping. If all names are numbers too, JSON's strings are the names; a layout that
    fixes the order (`names_first`, whether the keys are the names) must agree.
    """
    if not isinstance(mapping, Mapping) or not mapping:
        raise ValueError(f'{source} holds {_short(mapping)}: expected labels as {{"0": "background", "1": "liver"}}.')
    if any(isinstance(value, list) for value in mapping.values()):
        raise ValueError(
            f"{source} names regions of several label values ({_short(mapping)}): expected one value for each label; "
            "write label maps in which each region has a number of its own."
        )
    orders = {True: [(value, key) for key, value in mapping.items()], False: list(mapping.items())}
    bad = {order: [pair for pair in pairs if not _is_pair(*pair)] for order, pairs in orders.items()}
    possible = [order for order, pairs in bad.items() if not pairs]
    if not possible:
        order, pairs = min(bad.items(), key=lambda item: len(item[1]))
        shown = dict([pairs[0][::-1] if order else pairs[0]])
        raise ValueError(
            f"{source} names {_short(shown)}: expected a whole number and a name, and one order for all labels."
        )
    is_same = all(str(key).strip() == str(value).strip() for key, value in mapping.items())
    if len(possible) == 2 and not is_same:
        possible = [not any(isinstance(value, str) for value in mapping.values())]
        if names_first not in (None, possible[0]):
            raise ValueError(
                f"{source} names the labels {_short(mapping)}: names and values can't be told apart; give "
                'the labels names with a letter. nnU-Net v2 writes {"NAME": 1}, the Decathlon {"1": "NAME"}.'
            )
    return _checked([(int(number), str(name).strip()) for number, name in orders[possible[0]]], source)


def labels_of_names(names: Sequence[str], source: object = "label_names") -> Labels:
    """Labels of a list of names, numbered from 0; the background is put before them where it is missing."""
    names = [name.strip() for name in names]
    if names and names[0].lower() != "background":
        names = ["background", *names]
    return _checked(list(enumerate(names)), source)


def resolve_labels(
    named: Labels | None, maps: Iterable[np.ndarray], is_2d: bool, source: object
) -> tuple[Labels, list[str]]:
    """Return the labels of a data set, and notes on them for the user.

    Labels without names are called after the values in the label maps. Labels named in order are assigned to the values
    of 2-D masks if there are as many: 0 and 255 are the two labels of a list of two names.
    """
    if named is not None and not (is_2d and named.values == tuple(range(len(named.values)))):
        return named, []
    values = {0}
    for label in maps:
        values.update(np.unique(label).tolist())
    if len(values) > 256:
        raise ValueError(
            f"{source} has {len(values)} different values in its label maps and no file that names them: expected a "
            f"few labels; are they label maps? Name the labels in {_FILES[0]}."
        )
    found = _checked([(value, f"label_{value}" if value else "background") for value in values], source)
    if named is None:
        shown = ", ".join(map(str, found.values))
        return found, [f"neither label_names nor a file names the labels: called after the values {shown}"]
    if len(values) != len(named.values) or max(values) < len(values):
        return named, []
    shown = ", ".join(f"{value} {name}" for value, name in zip(found.values, named.id2label.values(), strict=True))
    return Labels(named.id2label, found.values), [
        f"the values of the masks are assigned to the labels in order: {shown}"
    ]


def find_labels_file(directory: Path) -> Labels | None:
    """Return the labels named by a file of a directory: JSON, text (one name a line, from 0) or CSV (value, name)."""
    path = next((directory / name for name in _FILES if (directory / name).is_file()), None)
    if path is None:
        return None
    if path.suffix == ".json":
        return labels_from_mapping(read_json(path), path)
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if path.suffix == ".txt":
        return labels_of_names(lines, path)
    rows = [row for row in csv.reader(lines) if len(row) >= 2 and any(_is_number(cell) for cell in row[:2])]
    return labels_from_mapping({row[0]: row[1].strip() for row in rows}, path)


def read_json(path: Path) -> Any:
    """The content of a JSON file; a ValueError names the file."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): repair it, or write it again.") from error
    except RecursionError as error:
        raise ValueError(f"{path} is no sensible JSON: it is nested too deeply.") from error


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8; a ValueError names the file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} can't be read: expected text in UTF-8 ({error}).") from error


def _checked(pairs: list[tuple[int, str]], source: object) -> Labels:
    pairs = sorted(pairs)
    numbers, names = [number for number, _ in pairs], [name for _, name in pairs]
    problem = None
    if len(pairs) < 2:
        problem = "expected the background and at least one label"
    elif len(set(numbers)) < len(numbers) or len(set(names)) < len(names):
        problem = "expected each number and each name once"
    elif numbers[0] < 0 or numbers[-1] > 65535:
        problem = "expected numbers from 0 to 65535"
    elif any(name.lower() == "background" for name in names[1:]):
        problem = "expected the background to have the lowest number"
    elif numbers[0] != 0:
        problem = "expected 0 to be the background"
    if problem:
        raise ValueError(f"{source} names the labels {_short(dict(pairs))}: {problem}.")
    return Labels(dict(enumerate(names)), tuple(numbers))


def _is_pair(number: Any, name: Any) -> bool:
    return _is_number(number) and bool(str(name).strip())


def _is_number(value: Any) -> bool:
    text = str(value).strip()
    return not isinstance(value, bool) and text.isascii() and text.isdigit() and len(text) < 10


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}…"
