"""The tables of a training's report: scores, validations, skipped steps, settings and versions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...reporting.formatting import format_names, format_value
from ...utils.text import printable
from ..checkpointing.record import package_versions
from ..run import TrainingRun
from .charts import best_validation

__all__ = ["SPLITS", "score_table", "setting_tables", "skipped_rows", "validation_rows"]

SPLITS = ("train", "validation", "test")
_MANY = 20  # so many cases of a split are named, more are counted


def score_table(metrics: Mapping[str, Any], swatches: Mapping[str, str]) -> dict[str, Any]:
    """The final scores of each label and their mean.

    Args:
        metrics: what `metrics.json` holds.
        swatches: colour of each label by its name.
    """
    rows = [
        {"name": printable(name), "color": swatches.get(name, "transparent"), "cases": row.get("cases", "–")}
        | _score(row)
        for name, row in metrics["per_class"].items()
    ]
    count = len(metrics["per_case"])
    about = (
        f"{count} {metrics.get('split', 'scored')} {'case' if count == 1 else 'cases'}, protocol "
        f"{metrics['protocol']}. Dice from 0 to 1, higher is better; HD95, the 95th percentile of the distances "
        "between the surfaces, lower is better."
    )
    unit = metrics.get("distance_unit", "voxel")
    return {"rows": rows, "mean": _score(metrics["mean"]), "unit": unit, "about": about}


def _score(row: Mapping[str, float | None]) -> dict[str, str]:
    return {
        "dice": "–" if row["dice"] is None else f"{row['dice']:.4f}",
        "hd95": "–" if row["hd95"] is None else f"{row['hd95']:.2f}",
    }


def validation_rows(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Every validation in the log, the best one told.

    Args:
        rows: of the log.
        labels: names of the columns.
    """
    best = best_validation(rows)
    return [
        {
            "step": row["step"],
            "epoch": f"{row['epoch']:.1f}" if "epoch" in row else "–",
            "mean": _number(row["validation_dice"]),
            "cells": [_number((row.get("validation_dice_per_class") or {}).get(name)) for name in labels],
            "best": row is best,
        }
        for row in rows
        if row.get("validation_dice") is not None
    ]


def skipped_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The steps that were left out, "step", "loss" and "norm" of each: the count in the log rises with them."""
    found, count = [], 0
    for row in rows:
        if (now := row.get("skipped", count)) > count:
            loss, norm = _number(row.get("loss")), _number(row.get("gradient_norm"))
            found.append({"step": row["step"], "loss": loss, "norm": norm})
            count = now
    return found


def setting_tables(folder: Path, run: TrainingRun) -> dict[str, dict[str, str]]:
    """Settings, and what else `training_settings.json` holds of the run, each part in a table of its own."""
    file = folder / "training_settings.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else run.args.to_dict()
    cases = record.pop("cases", None) or {name: getattr(run.data, name) for name in SPLITS}
    parts: dict[str, Mapping[str, Any]] = {}
    _divide({"settings": record}, parts)
    parts["settings"] = {key: value for key, value in parts["settings"].items() if value is not None}
    parts.setdefault("versions", package_versions())
    tables = {
        key.replace("_", " ").capitalize(): {_readable(name, key): format_value(one) for name, one in part.items()}
        for key, part in parts.items()
        if part
    }
    named = {split: f"{len(names)}: {printable(format_names(names, _MANY))}" for split, names in cases.items() if names}
    return tables | {"Cases": named}


def _readable(name: str, part: str) -> str:
    """A setting's name in words; a package's as it is."""
    return printable(name) if part == "versions" else printable(name).replace("_", " ")


def _divide(record: Mapping[str, Any], parts: dict[str, Mapping[str, Any]]) -> None:
    """Give each mapping a part of its own, however deep it lies in others."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            parts[key] = {name: one for name, one in value.items() if not isinstance(one, Mapping)}
            _divide(value, parts)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if math.isfinite(value) else str(value)
