"""The log of a training run: one row for each optimizer step, in `training_log.csv` and for the trackers."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...utils.atomic import write_text

__all__ = ["LogFile", "numbers_of", "read_log"]

_FIELDS = (
    *("step", "epoch", "learning_rate", "loss", "cross_entropy", "dice", "gradient_norm", "samples_per_second"),
    *("memory_bytes", "skipped", "validation_dice"),
)
_WHOLE = ("step", "memory_bytes", "skipped")
# Prefixes of the columns that hold a label's Dice loss and its Dice on the validation cases.
_LOSS, _SCORE = "dice/", "validation_dice/"


class LogFile:
    """`training_log.csv`, a row for each step, written at once; a context manager.

    Columns: "step", "epoch", "learning_rate", the loss and its parts "cross_entropy" and "dice", "gradient_norm",
    "samples_per_second" (slices of all processes), "memory_bytes", "skipped" (steps skipped so far),
    "validation_dice", and for each label "dice/NAME", its Dice loss, and "validation_dice/NAME", its Dice from 0 to 1.
    `labels` are the names of all labels, the background first; `rows` the earlier ones of a resumed run.
    """

    def __init__(self, path: Path, labels: Sequence[str], rows: Sequence[Mapping[str, Any]] = ()) -> None:
        self.path, self.labels, self.rows = path, list(labels), rows
        self.fields = [*_FIELDS, *(_LOSS + name for name in labels), *(_SCORE + name for name in labels[1:])]

    def __enter__(self) -> LogFile:
        """Replace the file by one with the earlier rows, in one rename."""
        header = io.StringIO()
        csv.writer(header).writerow(self.fields)
        write_text(self.path, header.getvalue() + "".join(map(self._line, self.rows)))
        self.file = self.path.open("ab", buffering=0)
        return self

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; missing values are empty. An error, e.g. of a full disk, has the file's name."""
        line = self._line(row).encode("utf-8")
        try:
            done = self.file.write(line)
            while done < len(line):  # a partial write: the disk was almost full
                done += self.file.write(line[done:])
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _line(self, row: Mapping[str, Any]) -> str:
        content = io.StringIO()
        csv.DictWriter(content, self.fields, restval="", extrasaction="ignore").writerow(numbers_of(row, self.labels))
        return content.getvalue()

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.file.close()


def numbers_of(row: Mapping[str, Any], labels: Sequence[str], *, plain_names: bool = False) -> dict[str, float]:
    """Flatten a row to single numbers; those of the labels are called "dice/NAME" and "validation_dice/NAME".

    The row may hold "dice_per_class", a list of all labels' Dice losses, the background's first, and
    "validation_dice_per_class", Dice from 0 to 1 by a label's name; `None` where a label is in no case. `plain_names`
    replaces characters that some trackers refuse in names.
    """
    shown = [re.sub(r"[^\w .:-]", "_", name, flags=re.ASCII) if plain_names else name for name in labels]
    if len(set(shown)) < len(shown):
        shown = [f"{index}_{name}" for index, name in enumerate(shown)]
    numbers = {key: value for key, value in row.items() if not isinstance(value, list | tuple | Mapping)}
    numbers |= {_LOSS + name: value for name, value in zip(shown, row.get("dice_per_class") or (), strict=False)}
    scores = row.get("validation_dice_per_class") or {}
    numbers |= {_SCORE + name: scores.get(label) for name, label in zip(shown, labels, strict=True)}
    return {key: value for key, value in numbers.items() if value is not None}


def read_log(path: Path, last_step: float = math.inf) -> list[dict[str, Any]]:
    """Read the rows of `training_log.csv`, if it exists, up to a step; a last line without its end is ignored."""
    if not path.is_file():
        return []
    content = path.read_text(encoding="utf-8")
    reader = csv.DictReader(io.StringIO(content[: content.rfind("\n") + 1], newline=""))
    rows = [_row_of(line) for line in reader]
    return [row for row in rows if row.get("step", math.inf) <= last_step]


def _row_of(line: Mapping[str, str | None]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, text in line.items():
        if not text or key is None:
            continue
        number = float(text)
        if key.startswith(_LOSS):
            row.setdefault("dice_per_class", []).append(number)
        elif key.startswith(_SCORE):
            row.setdefault("validation_dice_per_class", {})[key.removeprefix(_SCORE)] = number
        else:
            row[key] = int(number) if key in _WHOLE else number
    return row
