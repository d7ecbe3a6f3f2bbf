"""Names of labels in data sets: JSON (name → value or value → name), text, CSV, or only the values that occur."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .label_colors import LabelEntry, entries_of_json, entries_of_table
from .softened import LabelValues

__all__ = ["find_labels_file", "labels_from_mapping", "labels_of_names", "read_json", "read_text", "resolve_labels"]

_FILES = ("labels.json", "id2label.json", "labels.txt", "classes.txt", "labels.csv", "classes.csv")
_COLOR_FILES: tuple[str, ...] = ("class_dict.csv", "class_dict_seg.csv", "class_dict.json", "classes.json")
_COLOR_FILES += ("colors.json", "palette.json", "labelmap.txt", "colormap.csv", "label_colors.csv", "label_colors.txt")

_NUMBERED = re.compile(
    r'(\d+)(?:[\s,;:=]+[\d.]+)*[\s,;:=]+"?(.*[^\W\d].*?)"?'
)  # 1 liver, or ITK-SNAP's 1 255 0 0 1 1 1 "liver"


class Labels(NamedTuple):
    """Names of the labels, and the number that each has in the files."""

    id2label: dict[int, str]  # keys 0, 1, …
    values: tuple[int, ...]  # the files' number of each, in order; () if only colours are known
    colors: tuple[int, ...] | None = None  # the colour 0xRRGGBB of each in masks; after `resolve_labels` also `values`


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
    named: Labels | None,
    maps: Iterable[tuple[object, np.ndarray]],
    is_2d: bool,
    source: object,
    *,
    as_colors: bool = False,
) -> tuple[Labels, list[str]]:
    """Return the labels of a data set, and notes on them for the user.

    Labels without names are called after the values in the label maps, each given with its name for messages. Labels
    named in order are assigned to the values of 2-D masks if there are as many: 0 and 255 are the two labels of a list
    of two names. With `as_colors` the maps hold 0xRRGGBB.
    """
    if as_colors and named is not None and named.colors is not None:
        return named._replace(values=named.colors), []
    if not as_colors and named is not None and not named.values:
        raise ValueError(f"{source} has label maps of values and labels with colours only: name the value of each.")
    if not as_colors and named is not None and not (is_2d and named.values == tuple(range(len(named.values)))):
        return named._replace(colors=None), []
    found = LabelValues()
    for name, label in maps:
        found.add(name, label)
    if as_colors:
        return _labels_of_colors(named, found, source)
    values = sorted({0, *found.values})
    if named is not None:
        if len(values) != len(named.values) or values[-1] < len(values):
            return named._replace(colors=None), []
        shown = ", ".join(f"{value} {name}" for value, name in zip(values, named.id2label.values(), strict=True))
        note = f"the values of the masks are assigned to the labels in order: {shown}"
        return Labels(named.id2label, tuple(values)), [note]
    _check_unnamed(found, source)
    labels = _checked([(value, f"label_{value}" if value else "background") for value in values], source)
    shown = ", ".join(map(str, labels.values))
    return labels, [f"neither label_names nor a file names the labels: called after the values {shown}"]


def find_labels_file(directory: Path) -> Labels | None:
    """Return the labels named by a file of a directory.

    JSON, text (one name a line, from 0), CSV (value, name), or a table or JSON of their colours.
    """
    path = next((directory / name for name in (*_FILES, *_COLOR_FILES) if (directory / name).is_file()), None)
    if path is None:
        return None
    if path.suffix == ".json":
        content = read_json(path)
        entries = entries_of_json(content, path)
        return labels_from_mapping(content, path) if entries is None else _labels_of_entries(entries, path)
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    entries = entries_of_table(lines, path)
    if entries is not None:
        return _labels_of_entries(entries, path)
    if path.name in _COLOR_FILES:
        raise ValueError(f"{path} names no colours: expected the columns name, r, g, b.")
    if path.suffix == ".txt":
        lines = [line for line in lines if line[0] != "#"]
        pairs = [(int(found[1]), found[2]) for found in map(_NUMBERED.fullmatch, lines) if found]
        if not pairs or len(pairs) < len(lines):
            return labels_of_names(lines, path)
        return _checked(pairs if 0 in dict(pairs) else [(0, "background"), *pairs], path)
    rows = [row for row in csv.reader(lines) if len(row) >= 2 and any(_is_number(cell) for cell in row[:2])]
    return labels_from_mapping({row[0]: row[1].strip() for row in rows}, path)


def _labels_of_entries(entries: Sequence[LabelEntry], source: object) -> Labels:
    """Labels with a value, a colour or both; without values the background is the one called so, or black."""
    colors = None
    if all(entry.color is not None for entry in entries):
        colors = [entry.color or 0 for entry in entries]
        if len(set(colors)) < len(colors):
            raise ValueError(f"{source} gives two labels the same colour: expected each colour once.")
    if all(entry.value is not None for entry in entries):
        labels = _checked([(entry.value or 0, entry.name) for entry in entries], source)
        by_name = {entry.name: entry.color or 0 for entry in entries}
        return labels._replace(colors=tuple(by_name[name] for name in labels.id2label.values()) if colors else None)
    if colors is None:
        raise ValueError(f"{source} gives only some labels a value or a colour: expected one of them for each.")
    pairs = [(entry.name, color) for entry, color in zip(entries, colors, strict=True)]
    first = [pair for pair in pairs if pair[0].lower() == "background"] or [pair for pair in pairs if not pair[1]]
    pairs = [*(first or [("background", 0)]), *(pair for pair in pairs if pair not in first)]
    labels = _checked(list(enumerate(name for name, _ in pairs)), source)
    return Labels(labels.id2label, (), tuple(color for _, color in pairs))


def _labels_of_colors(named: Labels | None, found: LabelValues, source: object) -> tuple[Labels, list[str]]:
    """Labels of coloured masks whose colours no file lists: called after them; two names are black and the other."""
    _check_unnamed(found, source)
    colors = tuple(sorted(found.values))
    shown = ", ".join(f"#{color:06x}" for color in colors)
    if 0 not in colors:
        raise ValueError(
            f"{source} has masks in the colours {shown} and no file that names them: expected the background to be "
            "black; give name,r,g,b in class_dict.csv, one of them called background."
        )
    if named is not None:
        if not len(named.values) == len(colors) == 2:
            raise ValueError(
                f"{source} has coloured masks ({shown}) and labels that are named without colours: expected the colour "
                "of each; give name,r,g,b in class_dict.csv."
            )
        return Labels(named.id2label, colors, colors), [f"the colours of the masks are assigned in order: {shown}"]
    labels = _checked(list(enumerate(f"color_{color:06x}" if color else "background" for color in colors)), source)
    return Labels(labels.id2label, colors, colors), [
        f"no file names the labels: called after the colours of the masks, black the background: {shown}; name them in "
        "class_dict.csv (name,r,g,b)"
    ]


def _check_unnamed(found: LabelValues, source: object) -> None:
    """Refuse values of unnamed labels that cannot be labels."""
    if softened := found.softened():
        raise ValueError(f"{softened}. Name the values in {_FILES[0]} if they are labels.")
    if len(found.values) > 256:
        raise ValueError(
            f"{source} has {len(found.values)} different values in its label maps and no file that names them: "
            f"expected a few labels; are they label maps? Name the labels in {_FILES[0]}."
        )
    if found.values == {0, 1, 255}:
        raise ValueError(
            f"{source} has masks with the values 0, 1 and 255: expected 0 and 1, or 0 and 255, in all; name the labels "
            f"in {_FILES[0]} if 1 and 255 are two."
        )


def read_json(path: Path) -> Any:
    """The content of a JSON file; a ValueError names the file."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): repair it, or write it again.") from error
    except RecursionError as error:
        raise ValueError(f"{path} is no sensible JSON: it is nested too deeply.") from error


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8, or in UTF-16 if it says so; a ValueError names the file."""
    content = path.read_bytes()
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} can't be read: expected text in UTF-8 ({error}); save it so, in Excel as CSV UTF-8."
        ) from error


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
