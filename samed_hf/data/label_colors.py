"""Colours of labels in the files that come with coloured masks: class_dict.csv, labelmap.txt, labels.json."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["LabelEntry", "entries_of_json", "entries_of_table", "parse_color"]

_ROLES = {
    "name": ("name", "class_name", "classname", "title", "category", "organ", "class", "label"),
    "color": ("color", "colour", "rgb", "color_rgb", "rgb_color", "hex", "hex_color"),
    "value": ("value", "id", "index", "pixel", "pixel_value", "label_value", "label_id", "class_id", "label", "class"),
    "r": ("r", "red"),
    "g": ("g", "green"),
    "b": ("b", "blue"),
}
_PLURALS = {"names": "name", "labels": "name", "classes": "name", "colors": "color", "colours": "color"}
_PLURALS |= {"values": "value", "ids": "value"}


class LabelEntry(NamedTuple):
    """What a file says on one label."""

    name: str
    value: int | None
    color: int | None  # 0xRRGGBB


def parse_color(value: Any) -> int | None:
    """A colour as 0xRRGGBB: "#rrggbb", [r, g, b], "r, g, b" or "(r g b)", each from 0 to 255; `None` if it is none."""
    if isinstance(value, str):
        if re.fullmatch(r"(#|0x)[0-9a-f]{6}", value.strip(), re.I):
            return int(value.strip()[-6:], 16)
        found = re.fullmatch(r"(?:rgb)?[(\[]?\s*(\d+)\s*[, ;]\s*(\d+)\s*[, ;]\s*(\d+)\s*[)\]]?", value.strip(), re.I)
        value = list(map(int, found.groups())) if found else None
    if not isinstance(value, list | tuple) or len(value) not in (3, 4):
        return None
    if not all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= 255 for one in value):
        return None
    return int(value[0]) << 16 | int(value[1]) << 8 | int(value[2])


def entries_of_json(content: Any, source: object) -> list[LabelEntry] | None:
    """Labels of name → colour, colour → name, or lists of names or records; `None` of name → value and the reverse."""
    if isinstance(content, Mapping):
        for key in ("labels", "classes", "categories"):
            if len(content) == 1 and isinstance(content.get(key), list | Mapping):
                return entries_of_json(content[key], source)
        if content and all(isinstance(column, list) for column in content.values()) and content.keys() <= set(_PLURALS):
            if len({len(column) for column in content.values()}) > 1:
                raise ValueError(f"{source} has lists of unequal length, {', '.join(content)}: expected one length.")
            rows = zip(*content.values(), strict=True)
            return [_entry(dict(zip(map(_PLURALS.get, content), row, strict=True)), source) for row in rows]
        if content and all(parse_color(value) is not None for value in content.values()):
            return [LabelEntry(str(name), None, parse_color(value)) for name, value in content.items()]
        if content and all(parse_color(key) is not None for key in content):
            return [LabelEntry(str(name), None, parse_color(key)) for key, name in content.items()]
        if content and all(isinstance(value, Mapping) for value in content.values()):
            return [
                _entry({"value" if str(key).isdigit() else "name": key, **value}, source)
                for key, value in content.items()
            ]
        return None
    if isinstance(content, list) and content:
        if all(isinstance(one, str) for one in content):
            return [LabelEntry(name, value, None) for value, name in enumerate(content)]
        if all(isinstance(one, list) and len(one) == 2 for one in content):
            pairs = [one[::-1] if isinstance(one[0], str) and parse_color(one[0]) is None else one for one in content]
            kinds = ["value" if parse_color(first) is None else "color" for first, _ in pairs]
            content = [{kind: pair[0], "name": pair[1]} for kind, pair in zip(kinds, pairs, strict=True)]
        if all(isinstance(one, Mapping) for one in content):
            return [_entry(one, source) for one in content]
    return None


def entries_of_table(lines: Iterable[str], source: object) -> list[LabelEntry] | None:
    """Labels of a table with colours, with or without a header; `None` if no row has a colour."""
    lines = [line.lstrip("# ") if index == 0 and ":" in line else line for index, line in enumerate(lines)]
    delimiter = max("\t;:,", key=lambda one: min((line.count(one) for line in lines), default=0))
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    header = [cell.lower() for cell in rows[0]] if rows else []
    if len({role for role in ("color", "r", "g", "b") if set(header) & set(_ROLES[role])}) in (1, 3, 4):
        return [_entry(dict(zip(header, row, strict=False)), source) for row in rows[1:]]
    entries = []
    for row in rows:
        words = [cell for cell in row if cell and parse_color(cell) is None and not cell.isdigit()]
        colors = [cell for cell in row if parse_color(cell) is not None] or [",".join(c for c in row if c.isdigit())]
        entries.append(LabelEntry(words[0] if words else "", None, parse_color(colors[0])))
    if rows and entries[0].color is None and len(rows[0]) == 4 and not rows[0][1].isdigit():  # an unknown header
        rows, entries = rows[1:], entries[1:]
    if not entries or entries[0].color is None:
        return None
    for row, entry in zip(rows, entries, strict=True):
        if entry.color is None or not entry.name:
            raise ValueError(
                f"{source} has the row {', '.join(row)[:80]!r}: expected a name and r, g, b from 0 to 255."
            )
    return entries


def _entry(record: Mapping[Any, Any], source: object) -> LabelEntry:
    fields = {str(key).strip().lower().replace(" ", "_"): value for key, value in record.items()}
    found = {role: next((fields[key] for key in keys if key in fields), None) for role, keys in _ROLES.items()}
    channels = [str(found[role]).strip() for role in "rgb"]
    stated = found["color"] if found["color"] is not None else ",".join(channels) if "None" not in channels else None
    color, value = parse_color(stated), str(found["value"]).strip()
    name = str(found["name"]).strip() if found["name"] is not None else ""
    if not name or (stated is not None and color is None) or not (value.isdigit() or color is not None):
        raise ValueError(
            f"{source} has the entry {str(dict(record))[:120]}: expected a name with a value or a colour, which is "
            "r, g, b from 0 to 255 or #rrggbb."
        )
    return LabelEntry(name, int(value) if value.isdigit() else None, color)
