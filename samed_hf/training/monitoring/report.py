"""The report of a training, `training_report.html`: one file, readable offline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from ...reporting.charts import hex_colors
from ...reporting.formatting import format_count, format_duration
from ...reporting.html import data_uri, jpeg_uri, write_page
from ...utils.text import name_some
from ..checkpointing.provenance import package_versions
from ..setup import TrainingRun
from .charts import best_validation, draw_gradient, draw_label_losses, draw_losses, draw_rate, draw_validation

__all__ = ["skipped_rows", "write_training_report"]

_SPLITS = ("train", "validation", "test")
_MAX_NAMES = 20  # of a split's cases
_DEMONSTRATION = "The base model has random weights: a demonstration, not a medical result."


def write_training_report(path: Path, run: TrainingRun, metrics: Mapping[str, Any] | None) -> None:
    """Write the page of a run: scores, curves, validations, images, skipped steps, settings and versions.

    `watch/`, `overlay.png` and `training_settings.json` are read from the page's directory if they exist. The run's log
    may lack keys, as that of an older version does. `metrics` is the content of `metrics.json` with the "split" of the
    scores, or `None` without scores.
    """
    directory, rows = path.parent, run.log
    labels = list(run.model.config.id2label.values())
    skipped = skipped_rows(rows)
    validated = {name for row in rows for name in row.get("validation_dice_per_class") or ()}
    last = rows[-1]["step"] if rows else 0
    notes = [_DEMONSTRATION] if run.args.uses_random_sam else []
    if last < run.plan.steps:
        notes.append(f"The run ended early, after {last} of {run.plan.steps} steps.")
    charts = {
        "Loss and its parts": draw_losses(rows, [row["step"] for row in skipped]),
        "Validation Dice": draw_validation(rows, labels),
        "Dice loss of each label": draw_label_losses(rows, labels),
        "Gradient norm": draw_gradient(rows, run.args.max_grad_norm),
        "Learning rate": draw_rate(rows),
    }
    write_page(
        path,
        "samed_hf.training.monitoring",
        "training.html.j2",
        title=f"Training: {directory.resolve().name}",
        subtitle=_about(run),
        notes=[*notes, *run.data.notes],
        facts=_facts(run, metrics, len(skipped)),
        colors=dict(zip(labels, hex_colors(len(labels)), strict=True)),
        metrics=metrics,
        charts=[
            {"caption": caption, "source": data_uri(chart, "image/svg+xml")}
            for caption, chart in charts.items()
            if chart
        ],
        columns=[name for name in labels if name in validated],
        validations=[row for row in rows if row.get("validation_dice") is not None],
        best=best_validation(rows),
        seen=f"{len(run.data.selection)} of {len(run.data.validation)}",
        images=_images(directory, rows),
        skipped=skipped,
        tables=_setting_tables(directory, run),
    )


def _about(run: TrainingRun) -> str:
    cases = ", ".join(f"{len(names)} {split}" for split in _SPLITS if (names := getattr(run.data, split)))
    data = "synthetic phantom patients" if run.args.uses_phantom else f"{run.data.root}, {run.data.layout}"
    base = "a small SAM of random weights" if run.args.uses_random_sam else run.args.model_name_or_path
    return f"{data} ({cases} cases) · {base} · {datetime.now().astimezone().isoformat(sep=' ', timespec='seconds')}"


def _facts(run: TrainingRun, metrics: Mapping[str, Any] | None, skipped: int) -> list[tuple[str, str, str]]:
    rows, last = run.log, run.log[-1] if run.log else {"step": 0}
    facts = [(f"{format_count(last['step'])} of {format_count(run.plan.steps)}", "steps", "")]
    facts += [(f"{last['epoch']:.1f}", "epochs", "")] if "epoch" in last else []
    facts += [(format_duration(run.seconds), "of training", "")] if run.seconds else []
    best = best_validation(rows)
    if best is not None:
        count = sum(row.get("validation_dice") is not None for row in rows)
        seen = f"{len(run.data.selection)} of {len(run.data.validation)} cases"
        text = f"Dice, best of {count} validations, {seen}, step {best['step']}"
        facts.append((f"{best['validation_dice']:.4f}", text, "good"))
    if metrics is not None and metrics["mean"].get("dice") is not None:
        facts.append((f"{metrics['mean']['dice']:.4f}", f"Dice on the {metrics.get('split', 'scored')} cases", "good"))
    if skipped:
        facts.append((str(skipped), "step skipped" if skipped == 1 else "steps skipped", "warning"))
    speeds = [row["samples_per_second"] for row in rows if row.get("samples_per_second")]
    facts += [(f"{median(speeds):.3g}", "slices a second", "")] if speeds else []
    memory = max((row.get("memory_bytes") or 0 for row in rows), default=0)
    facts += [(f"{memory / 1e9:.3g} GB", "of memory at most", "")] if memory else []
    return facts


def _images(directory: Path, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the images of the last, best and first validation and of the scored case; some are folded."""
    paths = {row["step"]: directory / "watch" / f"step-{row['step']:06d}.png" for row in rows}
    steps = [step for step, path in paths.items() if path.is_file()]
    best = best_validation(rows)
    names: dict[int, str] = {}
    drawn = [*steps[-1:], best["step"] if best else None, *steps[:1]]
    for step, name in zip(drawn, ("last", "best", "first"), strict=False):
        if step in steps:
            names[step] = f"{names[step]}, the {name}" if step in names else f"The {name}"
    images = [(paths[step], f"{name} validation: step {step}", step == steps[-1]) for step, name in names.items()]
    if (directory / "overlay.png").is_file():
        images.append((directory / "overlay.png", "A case not trained on, with the final adapter", True))
    return [{"caption": caption, "source": jpeg_uri(path), "open": is_open} for path, caption, is_open in images]


def skipped_rows(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of skipped steps, at which the log's count of them increases."""
    return [row for before, row in pairwise([{}, *rows]) if row.get("skipped", 0) > before.get("skipped", 0)]


def _setting_tables(directory: Path, run: TrainingRun) -> dict[str, dict[str, Any]]:
    """Return the settings and the other parts of `training_settings.json`, each as a table."""
    file = directory / "training_settings.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else run.args.to_dict()
    cases = record.pop("cases", None) or {split: getattr(run.data, split) for split in _SPLITS}
    about = record.pop("run", {})
    parts = {"settings": record, "run": about} | {key: part for key, part in about.items() if isinstance(part, Mapping)}
    parts.setdefault("versions", package_versions())
    tables: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        values = {key: value for key, value in part.items() if value is not None and not isinstance(value, Mapping)}
        if values:
            shown = values if name == "versions" else {key.replace("_", " "): value for key, value in values.items()}
            tables[name.replace("_", " ").capitalize()] = shown
    names = {split: f"{len(names)}: {name_some(names, _MAX_NAMES)}" for split, names in cases.items() if names}
    return tables | {"Cases": names}
