"""Scores as a table in plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["format_scores"]


def format_scores(metrics: Mapping[str, Any]) -> str:
    """Format the scores of each label and their mean as a table; "-" stands for an undefined score.

    Args:
        metrics: content of `metrics.json`.
    """
    unit = metrics.get("distance_unit", "voxel")
    width = max(len("label"), *(len(name) for name in metrics["per_class"]))
    head = f"{'label':<{width}}  {'DSC':>6}  {f'HD95 ({unit})':>12}  {'cases':>5}"
    lines = [head, "-" * len(head)]
    for name, row in metrics["per_class"].items():
        note = f"  (no HD95 in {row['hd95_undefined']})" if row.get("hd95_undefined") else ""
        lines.append(f"{name:<{width}}  {_scores(row)}  {row.get('cases', ''):>5}{note}")
    lines += ["-" * len(head), f"{'mean':<{width}}  {_scores(metrics['mean'])}"]
    lines.append(f"protocol {metrics['protocol']}, {len(metrics['per_case'])} cases; DSC from 0 to 1")
    return "\n".join(lines)


def _scores(row: Mapping[str, float | None]) -> str:
    dice = "-" if row["dice"] is None else f"{row['dice']:.4f}"
    hd95 = "-" if row["hd95"] is None else f"{row['hd95']:.2f}"
    return f"{dice:>6}  {hd95:>12}"
