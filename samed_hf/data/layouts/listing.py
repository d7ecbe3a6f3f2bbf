"""Listings: a CSV, TSV, JSON or JSON Lines file with the image and the label of each case, and MONAI's datalist."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...volumes import case_name
from ...volumes.registry import IMAGE_SUFFIXES, suffix_of
from ..dataset import CaseDataset
from ..labels import read_text
from ..splits import split_of
from .records import Found, Options, Record, build_dataset, name_some, natural
from .tables import (
    SPLIT_KEY,
    USUAL,
    Row,
    cell_text,
    column_names,
    columns_of_splits,
    find_columns,
    is_listing,
    read_rows,
    read_table,
)

__all__ = ["apply_splits", "divide_as_declared", "find_listing", "read_listing"]

_STEMS = ("cases", "dataset", "datalist", "data_list", "listing")
_TABLES = ("participants.tsv", "meta.csv", "splits.csv", "split.csv", "splits.tsv", "metadata.csv")
_LISTS = ("", "ImageSets/Segmentation", "splits", "lists")


def find_listing(root: Path, *, named: bool) -> list[Path]:
    """Find the file of a directory with columns of images and labels: one called `cases` or alike, or any other.

    Any other has to name files that exist. Several are one listing if they are called as the splits, `train.csv`, ….
    """
    found = []
    for path in sorted(root.glob("[!.]*")):
        if is_listing(path) and (path.stem.lower() in _STEMS) == named:
            try:
                rows = read_rows(path)[0]
                columns = [find_columns(column_names(rows), what, None, path) for what in ("image", "label")]
                if all(columns) and (named or _names_files(path, rows, columns)):
                    found.append(path)
            except ValueError:
                if path.stem.lower() == _STEMS[0]:
                    raise
    splits = {split_of(path.stem) for path in found}
    if len(found) > 1 and (None in splits or len(splits) < len(found)):
        raise ValueError(f"{root} holds the listings {found[0].name} and {found[1].name}: name one as data_dir.")
    return found


def _names_files(path: Path, rows: Sequence[Row], columns: Sequence[Sequence[str]]) -> bool:
    """Whether the first row with an image and a label names files that exist."""
    cells = ([row.get(names[0]) for names in columns] for row in rows)
    with suppress(ValueError):
        return all(file.exists() for cell in next(filter(all, cells), [""]) for file in _paths(path, cell, ""))
    return False


def read_listing(path: Path, options: Options, more: Sequence[Path] = ()) -> CaseDataset:
    """Describe the cases that a listing names; see [`read_data`] for the arguments.

    The rows of `train.csv`, `val.csv` and so on are of that split; `more` are such listings beside `path`.

    Paths are relative to the listing. An entry without an image or a label, or of an unknown split, is left out with a
    note. `fold` is held out of those that a column declares.

    Raises:
        ValueError, FileNotFoundError: no row, no column of images or labels, or two that could be it, or missing files.
    """
    rows, labels, notes = read_rows(path)
    rows = [{SPLIT_KEY: split_of(path.stem) or "train", **row} for row in rows]
    for other in more:
        rows += [{SPLIT_KEY: other.stem, **row} for row in read_rows(other)[0]]
    columns = column_names(rows)
    given = {"image": options.image_column, "label": options.label_column}
    given |= {"split": options.split_column, "case": options.case_column}
    found = {what: find_columns(columns, what, given.get(what), path) for what in USUAL}
    found["split"] = found["split"] or columns_of_splits(rows, columns, path)
    for what in ("image", "label"):
        if not found[what]:
            raise ValueError(
                f"{path} has the columns {name_some(columns, 12) or 'none'}: expected {' or '.join(USUAL[what][:3])}; "
                f"give --{what}_column."
            )
    records, folds, left_out = [], [], Counter[str]()
    for row in rows:
        split = _split(row, found["split"])
        if reason := _unusable(row, found, split):
            left_out[reason] += 1
            continue
        images = _images(path, row, found["image"])
        record = Record("", images, _label(path, row, found["label"], options), split_of(split) or "train")
        records.append(replace(record, group=cell_text(row, found["patient"]), order=_number(row, found["slice"])))
        folds.append(cell_text(row, found["fold"]))
    notes += [f"{count} entries of {path.name} left out: {reason}" for reason, count in left_out.items()]
    names = [cell_text(row, found["case"]) for row in rows if not _unusable(row, found, _split(row, found["split"]))]
    records = _name(path.parent, records, names)
    records, held_out, has_folds = _hold_out(records, folds, options.fold, path)
    used = [f"{what} from {' and '.join(map(repr, names))}" for what, names in found.items() if names]
    explanation = f"{len(records)} entries of {', '.join(one.name for one in (path, *more))}: {', '.join(used)}"
    channels = tuple(found["image"]) if len(found["image"]) > 1 else _channels(records, notes)
    data = build_dataset(Found("listing", path, records, explanation, channels, labels, [*notes, *held_out]), options)
    data.declares_folds = has_folds
    data.split_notes += held_out
    return data


def apply_splits(root: Path, records: Sequence[Record], options: Options, notes: list[str]) -> list[Record]:
    """Divide cases as a table of the directory, e.g. participants.tsv, or lists `train.txt`, … say, if there are any.

    Cases that they don't list, or in an unknown split, are left out; what was done is added to `notes`.
    """
    splits = _declared_splits(root, {record.name: record.group for record in records}, options, notes)
    if splits is None:
        return list(records)
    return [replace(record, split=splits[record.name]) for record in records if record.name in splits]


def divide_as_declared(data: CaseDataset, root: Path, options: Options) -> None:
    """Do the same with the training cases of a data set."""
    names, splits = data.train, _declared_splits(root, dict.fromkeys(data.train, ""), options, data.notes)
    if splits is not None:
        data.train = []
        for name in names:
            getattr(data, splits[name]).append(name) if name in splits else data.sources.pop(name)


def _declared_splits(
    root: Path, groups: Mapping[str, str], options: Options, notes: list[str]
) -> dict[str, str] | None:
    """The split of each case, which is listed by its name or by its patient's, if the directory declares them."""
    known = {*groups, *groups.values()} - {""}
    listed, where = _listed_in_table(root, known, options) or _listed_in_texts(root, known)
    if not listed:
        notes += [f"{where} name none of the cases: not used"] if where else []
        return None
    given = {name: split_of(listed.get(group) or listed.get(name)) for name, group in groups.items()}
    notes.append(f"splits of {where}")
    if left_out := [name for name, split in given.items() if not split]:
        notes.append(f"{len(left_out)} cases without a known split in it left out: {name_some(left_out)}")
    return {name: split for name, split in given.items() if split}


def _listed_in_table(root: Path, known: Set[str], options: Options) -> tuple[dict[str, str], str] | None:
    for path in filter(Path.is_file, (root / name for name in _TABLES)):
        rows = read_table(path)
        columns = column_names(rows)
        if not (column := find_columns(columns, "split", options.split_column, path)):
            continue
        tables = [{_stem(cell_text(row, [name])): cell_text(row, column) for row in rows} for name in columns]
        table = max(tables, key=lambda table: len(known & set(table)))
        if not known & set(table):
            raise ValueError(
                f"{path} has the column {column[0]!r} and none of the cases, e.g. {min(known)}: expected the name of "
                "each in a column; correct or rename the file."
            )
        return table, f"the column {column[0]!r} of {path.name}"
    return None


def _listed_in_texts(root: Path, known: Set[str]) -> tuple[dict[str, str], str]:
    listed: dict[str, str] = {}
    paths = [path for one in _LISTS for path in sorted((root / one).glob("*.txt")) if split_of(path.stem)]
    for path in paths:
        for name in {_stem(text) for line in read_text(path).splitlines() for text in (line, *line.split()[:1])}:
            if name in known and listed.setdefault(name, path.stem) != path.stem:
                raise ValueError(f"{path} lists {name}, as {listed[name]}.txt does: expected each in one of them.")
    return listed, ", ".join(path.name for path in paths)


def _stem(path: str) -> str:
    return case_name(Path(path.strip().replace("\\", "/")))


def _number(row: Row, columns: Sequence[str]) -> float:
    try:
        return float(cell_text(row, columns) or 0)
    except ValueError:
        return 0.0


def _split(row: Row, columns: Sequence[str]) -> str:
    """The name of a row's split: its cell or, without such a column, the key of its list."""
    return cell_text(row, columns) if columns else str(row.get(SPLIT_KEY, "train"))


def _unusable(row: Row, found: Mapping[str, list[str]], split: str) -> str:
    """Why a row is left out; "" if it isn't."""
    if not split_of(split):
        return f"the split {split!r} is unknown (known: train, validation, test)" if split else "they have no split"
    for what in ("image", "label"):
        if not any(row.get(name) for name in found[what]):
            return f"they have no {what}"
    return ""


def _paths(path: Path, value: Any, what: str) -> tuple[Path, ...]:
    """The files that a cell names: one, or a list, in a table as JSON."""
    if isinstance(value, str) and value.strip().startswith("["):
        with suppress(ValueError):
            value = json.loads(value)
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str) and one.strip() for one in values):
        raise ValueError(f"{path} has the {what} {str(value)[:80]!r}: expected the path of a file, or a list of them.")
    files = (path.parent / one.strip() for one in values)
    return tuple(file if file.exists() else Path(str(file).replace("\\", "/")) for file in files)


def _images(path: Path, row: Row, columns: Sequence[str]) -> tuple[Path, ...]:
    return tuple(file for name in columns for file in _paths(path, row.get(name), name))


def _label(path: Path, row: Row, columns: Sequence[str], options: Options) -> Path | dict[str, Path]:
    """A label map; or masks of classes, called as their columns or, in one cell, by `label_names`."""
    if len(columns) > 1:
        return {name: _paths(path, row[name], name)[0] for name in columns if row.get(name)}
    files = _paths(path, row[columns[0]], columns[0])
    if len(files) == 1:
        return files[0]
    names = [name for name in options.label_names or () if name.lower() != "background"]
    if len(names) != len(files):
        raise ValueError(
            f"{path} lists the labels {files[0].name} and {files[1].name} of one image: expected one label map, or "
            f"{len(files)} --label_names, as many as there are masks, each of one class."
        )
    return dict(zip(names, files, strict=True))


def _channels(records: Sequence[Record], notes: list[str]) -> tuple[str, ...]:
    counts = {len(record.images): record.images[0] for record in records}
    if len(counts) > 1:
        raise ValueError(
            f"{list(counts.values())[-1]} is one of {list(counts)[-1]} images: expected as many in each case."
        )
    count = max(counts, default=1)
    return ("image",) if count == 1 else tuple(f"image {index}" for index in range(1, count + 1))


def _name(root: Path, records: Sequence[Record], cases: Sequence[str]) -> list[Record]:
    """Name each record by its case or, without one, by what is its own in its path."""
    parts = [(*record.images[0].parts[:-1], case_name(record.images[0])) for record in records]
    names = [part[-1] for part in parts]
    if len(set(names)) < len(names):
        depth = min(map(len, parts))
        varies = [place for place in range(-depth, 0) if len({part[place] for part in parts}) > 1]
        names = ["-".join(part[place] for place in varies) for part in parts]
    named = []
    cases = [re.sub(r"[/\\]+", "-", case) for case in cases]
    counts = Counter(cases)
    for record, case, own in zip(records, cases, names, strict=True):
        is_image = suffix_of(record.images[0]) in IMAGE_SUFFIXES
        if case and not is_image and counts[case] > 1:  # several scans of one patient
            named.append(replace(record, name=f"{case}-{own}", group=record.group or case))
        else:
            named.append(replace(record, name=case or own))
    return named


def _hold_out(
    records: list[Record], folds: Sequence[str], fold: int | None, path: Path
) -> tuple[list[Record], list[str], bool]:
    """Make the training records of a declared fold those for validation, with a note on it."""
    training = [index for index, record in enumerate(records) if record.split == "train"]
    values = sorted({folds[index] for index in training if folds[index]}, key=natural)
    if not values:
        return records, [], False
    if fold is None and any(record.split == "validation" for record in records):
        return records, [f"the folds of {path.name} are not used, as it names cases for validation"], False
    if not 0 <= (fold or 0) < len(values):
        raise ValueError(f"{path} has no fold {fold}: expected one of its {len(values)} folds, counted from 0.")
    held_out = values[fold or 0]
    records = [
        replace(record, split="validation") if record.split == "train" and folds[index] == held_out else record
        for index, record in enumerate(records)
    ]
    notes = [f"fold {fold or 0} of {len(values)} ({held_out!r} in {path.name}) is held out"]
    if without := sum(not folds[index] for index in training):
        notes.append(f"{without} entries of {path.name} have no fold and are trained on")
    return records, notes, True
