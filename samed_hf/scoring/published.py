"""Scores published by SAMed's authors for Synapse, and the comparison of a run with them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["PUBLISHED", "PublishedScores", "compare_with_published", "read_metrics"]


class PublishedScores(NamedTuple):
    """Scores of one row of the paper's table: 8 organs, 12 test cases, protocol `samed`."""

    dice: float  # mean, in percent
    hd95: float  # mean, in voxels
    per_class: dict[str, float] | None = None  # Dice of each organ in percent, if it was published


_ORGANS = ("aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach")
_SAMED = (87.77, 69.11, 80.45, 79.95, 94.80, 72.17, 88.72, 82.06)
_SAMED_H = (87.81, 74.72, 85.76, 81.52, 95.76, 70.63, 90.46, 87.77)
PUBLISHED: dict[str, PublishedScores] = {
    "samed": PublishedScores(81.88, 20.64, dict(zip(_ORGANS, _SAMED, strict=True))),
    "samed_s": PublishedScores(77.78, 31.72),
    "samed_h": PublishedScores(84.30, 16.02, dict(zip(_ORGANS, _SAMED_H, strict=True))),
}
"""Published scores of each preset (arXiv 2304.13785; SAMed_h by the authors' repository)."""


def read_metrics(path: str | os.PathLike) -> dict[str, Any]:
    """Read a `metrics.json`, given its path or its directory."""
    path = Path(path)
    path = path / "metrics.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, expected a metrics.json written by `samed-hf evaluate`.")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        if not (metrics["mean"].keys() and metrics["protocol"] and metrics["per_class"].items()):
            raise ValueError("no score")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not a metrics.json, expected protocol, mean and per_class ({error!r}).") from error
    return metrics


def compare_with_published(metrics: Mapping[str, Any], preset: str) -> str:
    """Compare a run's scores with the published ones, organ by organ.

    Args:
        metrics: the content of a `metrics.json`.
        preset: "samed", "samed_s" or "samed_h".

    Returns:
        A table in plain text, Dice in percent, followed by notes on differences in protocol and number of cases.

    Raises:
        ValueError: Dice or HD95 is missing, or the scores of some of the eight organs.
    """
    published = PUBLISHED[preset]
    if not {"dice", "hd95"} <= metrics["mean"].keys():
        raise ValueError(f"metrics has {', '.join(metrics['mean'])}: expected dice and hd95, as in the paper's table.")
    if missing := [name for name in _ORGANS if name not in metrics["per_class"]]:
        raise ValueError(
            f"metrics has no scores for {', '.join(missing)}: expected those of Synapse's eight organs, as in the "
            f"paper's table; it has {', '.join(metrics['per_class'])}."
        )
    dice = [(name, metrics["per_class"][name]["dice"], (published.per_class or {}).get(name)) for name in _ORGANS]
    dice.append(("mean DSC (%)", metrics["mean"]["dice"], published.dice))
    rows = [(name, None if value is None else 100 * value, target) for name, value, target in dice]
    rows.append(("mean HD95", metrics["mean"]["hd95"], published.hd95))
    lines = [f"{'':<14}{'this run':>10}{'published':>11}{'difference':>12}"]
    for name, value, target in rows:
        shown = ["-" if number is None else f"{number:.2f}" for number in (value, target)]
        difference = "-" if value is None or target is None else f"{value - target:+.2f}"
        lines.append(f"{name:<14}{shown[0]:>10}{shown[1]:>11}{difference:>12}")
    if metrics["protocol"] != "samed":
        lines.append(f"note: the protocol is {metrics['protocol']!r}; the published scores are of --protocol samed")
    if (cases := len(metrics.get("per_case", {}))) != 12:
        lines.append(f"note: {cases} cases; the published scores are of the 12 test cases")
    return "\n".join(lines)
