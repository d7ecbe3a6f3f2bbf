"""What a training leaves for people: `training_report.html`, one file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from ...reporting.colors import hex_colors
from ...reporting.formatting import format_count, format_duration
from ...reporting.html import data_uri, jpeg_uri, write_page
from ...utils.text import printable
from ..run import TrainingRun
from .charts import best_validation, draw_gradient, draw_label_losses, draw_losses, draw_rate, draw_validation
from .tables import SPLITS, score_table, setting_tables, skipped_rows, validation_rows

__all__ = ["write_training_report"]


def write_training_report(path: Path, run: TrainingRun, metrics: Mapping[str, Any] | None) -> None:
    """Write the page of a run: scores, curves, validations, pictures, skipped steps, settings and versions.

    Args:
        path: the HTML file, in the folder of the run: `watch/`, `overlay.png` and `training_settings.json` are read
            from there, so far as they are there.
        run: the run; its log is drawn, and keys that rows of an older log lack are left out.
        metrics: the final scores, what `metrics.json` holds, with the "split" they are of; `None` without any.
    """
    folder, rows = path.parent, run.log
    labels = list(run.model.config.id2label.values())
    swatches = dict(zip(labels, hex_colors(len(labels)), strict=True))
    skipped = skipped_rows(rows)
    validated = {name for row in rows for name in row.get("validation_dice_per_class") or ()}
    columns = [{"name": printable(name), "color": swatches[name], "key": name} for name in labels if name in validated]
    write_page(
        path,
        "samed_hf.training.monitoring",
        "training.html.j2",
        title=f"Training: {printable(folder.resolve().name)}",
        subtitle=_about(run),
        notes=_notes(run),
        facts=_facts(run, metrics, len(skipped)),
        scores=None if metrics is None else score_table(metrics, swatches),
        charts=_charts(run, labels, [row["step"] for row in skipped]),
        columns=columns,
        validations=validation_rows(rows, [column["key"] for column in columns]),
        images=_images(folder, rows),
        skipped=skipped,
        tables=setting_tables(folder, run),
    )


def _about(run: TrainingRun) -> str:
    data, split = run.data, {name: len(getattr(run.data, name)) for name in SPLITS}
    cases = ", ".join(f"{count} {name}" for name, count in split.items() if count)
    where = "synthetic phantom patients" if run.args.uses_phantom else f"{printable(data.root)}, {data.layout}"
    base = "a small SAM of random weights" if run.args.uses_random_sam else printable(run.args.model_name_or_path)
    return f"{where} ({cases} cases) · {base} · {datetime.now().astimezone().isoformat(sep=' ', timespec='seconds')}"


def _notes(run: TrainingRun) -> list[str]:
    """What a reader must know before the numbers."""
    notes = []
    if run.args.uses_random_sam:
        notes.append("No pretrained model was given: a demonstration with random weights, not a medical result.")
    last = run.log[-1]["step"] if run.log else 0
    if last < run.plan.steps:
        notes.append(f"The run ended early, after {last} of {run.plan.steps} steps.")
    return notes + [printable(note) for note in run.data.notes]


def _facts(run: TrainingRun, metrics: Mapping[str, Any] | None, skipped: int) -> list[dict[str, Any]]:
    rows, last = run.log, run.log[-1] if run.log else {"step": 0}
    facts = [(f"{format_count(last['step'])} of {format_count(run.plan.steps)}", "steps", "")]
    facts += [(f"{last['epoch']:.1f}", "epochs", "")] if "epoch" in last else []
    facts += [(format_duration(run.seconds), "of training", "")] if run.seconds else []
    best = best_validation(rows)
    if best is not None:
        facts.append((f"{best['validation_dice']:.4f}", f"best validation Dice, step {best['step']}", "good"))
    if metrics is not None and metrics["mean"]["dice"] is not None:
        facts.append((f"{metrics['mean']['dice']:.4f}", f"Dice on the {metrics.get('split', 'scored')} cases", "good"))
    if skipped:
        facts.append((str(skipped), "step skipped" if skipped == 1 else "steps skipped", "warning"))
    speeds = [row["samples_per_second"] for row in rows if row.get("samples_per_second")]
    facts += [(f"{median(speeds):.3g}", "slices a second", "")] if speeds else []
    memory = max((row.get("memory_bytes") or 0 for row in rows), default=0)
    facts += [(f"{memory / 1e9:.3g} GB", "of memory at most", "")] if memory else []
    return [{"number": number, "text": text, "tone": tone} for number, text, tone in facts]


def _charts(run: TrainingRun, labels: Sequence[str], skipped: Sequence[int]) -> list[dict[str, str]]:
    rows = run.log
    charts = {
        "Loss and its parts": draw_losses(rows, skipped),
        "Validation Dice": draw_validation(rows, labels),
        "Dice loss of each label": draw_label_losses(rows, labels),
        "Gradient norm": draw_gradient(rows, run.args.max_grad_norm),
        "Learning rate": draw_rate(rows),
    }
    return [
        {"caption": caption, "alt": caption, "source": data_uri(content, "image/svg+xml")}
        for caption, content in charts.items()
        if content is not None
    ]


def _images(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The last validation's picture, behind lines to open those of the first and the best, and the scored case's."""
    steps = [row["step"] for row in rows if _watched(folder, row["step"]).is_file()]
    best = best_validation(rows)
    names = {steps[-1]: "the last"} if steps else {}
    for step, name in ((best["step"] if best else None, "the best"), (steps[0] if steps else None, "the first")):
        if step in steps:
            names[step] = f"{names[step]}, {name}" if step in names else name
    images = [
        (_watched(folder, step), f"{name.capitalize()} validation: step {step}", step == steps[-1])
        for step, name in names.items()
    ]
    if (folder / "overlay.png").is_file():
        images.append((folder / "overlay.png", "A case not trained on, with the final adapter", True))
    return [
        {"caption": caption, "alt": caption, "source": jpeg_uri(path), "open": is_open}
        for path, caption, is_open in images
    ]


def _watched(folder: Path, step: int) -> Path:
    return folder / "watch" / f"step-{step:06d}.png"
