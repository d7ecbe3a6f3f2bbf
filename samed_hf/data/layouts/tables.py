"""Files of rows: CSV, TSV, JSON and JSON Lines, and the columns in them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..labels import Labels, labels_from_mapping, read_json, read_text
from ..splits import split_of
from .records import name_some, split_names

__all__ = ["SPLIT_KEY", "USUAL", "Row", "cell_text", "column_names", "columns_of_splits", "find_columns", "is_listing"]
__all__ += ["read_rows", "read_table"]

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
USUAL = {
    "image": ("image", "images", "img", "scan", "volume"),
    "label": ("label", "labels", "mask", "masks", "seg", "segmentation", "annotation", "ground_truth", "gt"),
    "split": ("split", "set", "subset", "partition"),
    "case": ("case", "case_id", "scan_id", "volume_id"),
    "patient": ("patient", "patient_id", "subject", "subject_id", "participant_id"),
    "fold": ("fold",),
    "slice": ("slice", "slice_index", "slice_number"),
}
_ENDINGS = ("", "_path", "_file", "_filename", "_filepath")
SPLIT_KEY = " split"  # of the list in a datalist that holds a row
_MAX_BYTES = 2**28

Row = dict[str, Any]


def is_listing(path: Path) -> bool:
    """Return whether a file is one by its suffix."""
    return path.is_file() and path.suffix.lower() in _SUFFIXES


def read_rows(path: Path) -> tuple[list[Row], Labels | None, list[str]]:
    """The rows, the labels that the file names, and notes on keys that are no split."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes: expected a listing of at most {_MAX_BYTES}.")
    if path.suffix.lower() in (".csv", ".tsv"):
        return read_table(path), None, []
    if path.suffix.lower() == ".jsonl":
        try:
            rows = [json.loads(line) for line in read_text(path).splitlines() if line.strip()]
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} holds a line that is no JSON ({error}): expected one entry a line.") from error
        return _checked(rows, path), None, []
    content = read_json(path)
    if isinstance(content, list):
        return _checked(content, path), None, []
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {str(content)[:60]}: expected a list of entries, or lists of them by split.")
    rows, notes = [], []
    for key, entries in content.items():
        if isinstance(entries, list) and any(isinstance(one, dict) for one in entries):
            rows += [{**row, SPLIT_KEY: key} for row in _checked(entries, path)]
        elif isinstance(entries, list) and split_of(key) and entries:
            notes.append(f"{len(entries)} entries under {key} of {path.name} left out: they have no label")
    labels = content.get("labels")
    return rows, labels_from_mapping(labels, path) if isinstance(labels, dict) else None, notes


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV or TSV file; the header decides between comma, semicolon, tab and bar."""
    text = read_text(path)
    header = text.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=header.count)
    try:
        reader = csv.DictReader(text.splitlines(), delimiter=delimiter, skipinitialspace=True, strict=True)
        columns = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        rows: list[Row] = list(reader)
    except csv.Error as error:
        raise ValueError(f"{path} is no table ({error}): expected a header and a line for each case.") from error
    if len(set(columns)) < len(columns):
        raise ValueError(f"{path} has two columns of one name ({', '.join(columns)}): rename one.")
    if long := next((index for index, row in enumerate(rows, 2) if None in row), None):
        raise ValueError(f"{path}, line {long}, has more cells than the header: quote cells that hold {delimiter!r}.")
    return rows


def _checked(rows: Sequence[Any], path: Path) -> list[Row]:
    if odd := [row for row in rows if not isinstance(row, dict)]:
        raise ValueError(f'{path} lists {str(odd[0])[:80]}: expected entries as {{"image": …, "label": …}}.')
    return list(rows)


def column_names(rows: Iterable[Row]) -> list[str]:
    """The columns that occur, in order."""
    return list(dict.fromkeys(name for row in rows for name in row if name != SPLIT_KEY))


def find_columns(columns: Sequence[str], what: str, given: str | None, path: Path) -> list[str]:
    """The columns given, separated by commas, or the one of a usual name; none if there is no such column."""
    if given:
        names = [given] if given in columns else split_names(given)
        if missing := [name for name in names if name not in columns]:
            raise ValueError(f"{path} has no column {missing[0]!r}: expected one of {name_some(columns, 12)}.")
        return names
    usual = {f"{name}{end}" for name in USUAL[what] for end in (_ENDINGS if what in ("image", "label") else ("",))}
    plain = {name: re.sub(r"(?<=[a-z])(?=[A-Z])|[\s\-]+", "_", name).lower() for name in columns}
    names = [name for name in columns if plain[name] in usual]
    if len(names) > 1:
        flag = f"give --{what}_column" if what in ("image", "label", "split", "case") else "remove one"
        raise ValueError(f"{path} has the columns {' and '.join(names)}, which could both be the {what}: {flag}.")
    return names


def columns_of_splits(rows: Sequence[Row], columns: Sequence[str], path: Path) -> list[str]:
    """The column whose cells are all names of splits, not only "train"; so that no test case is trained on."""
    names = [name for name in columns if all(split_of(cell_text(row, [name])) for row in rows)]
    names = [name for name in names if {split_of(cell_text(row, [name])) for row in rows} != {"train"}]
    if len(names) > 1:
        raise ValueError(f"{path} has the columns {' and '.join(names)}, both of splits: give --split_column.")
    return names


def cell_text(row: Row, columns: Sequence[str]) -> str:
    """The first of the columns as text; "" if there is none."""
    value = row.get(columns[0]) if columns else None
    return "" if value is None else str(value).strip()
