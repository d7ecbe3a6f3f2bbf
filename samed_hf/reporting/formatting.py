"""Numbers, names, settings and scores as text for people."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "NARROW_SPACE",
    "format_bytes",
    "format_count",
    "format_counts",
    "format_difference",
    "format_duration",
    "format_indices",
    "format_interval",
    "format_ml",
    "format_number",
    "format_score",
    "format_scores",
    "format_sides",
    "format_value",
    "plural",
    "score_titles",
]

NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"


def format_count(number: int) -> str:
    """Group the digits of a whole number by narrow spaces: 12 345."""
    return f"{number:,}".replace(",", NARROW_SPACE)


def format_number(value: float) -> str:
    """Round a number to three digits, from 100 to a whole number."""
    return format_count(round(value)) if abs(value) >= 99.5 or float(value).is_integer() else f"{value:.3g}"


def format_indices(indices: Sequence[int]) -> str:
    """Format ascending indices with their ranges: 0, 4-8."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1][1:] = [index]
        else:
            parts.append([index])
    return ", ".join("-".join(map(str, part)) for part in parts)


def format_ml(ml: float) -> str:
    """Round millilitres to three digits, from 100 ml to whole ones."""
    return f"{ml:.0f}" if ml >= 99.95 else f"{ml:.3g}"


def format_bytes(size: int) -> str:
    """Format bytes as MB or GB, powers of 1000."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.{0 if size >= 1e7 else 2}f} MB"


def format_duration(seconds: float) -> str:
    """Format a duration as seconds, minutes and seconds, or hours and minutes."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_sides(sides: Sequence[float]) -> str:
    """Format numbers along axes: 512 × 512 × 30, or 0.977 × 0.977 × 2, lengths in three digits."""
    return " × ".join(str(side) if isinstance(side, int) else f"{side:.3g}" for side in sides)


def format_value(value: Any) -> str:
    """Format a setting: yes or no, the items of a list or mapping, or the value itself."""
    if value is None or isinstance(value, bool) or value in ([], {}, ()):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {format_value(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value))
    return str(value)


def format_counts(counts: Mapping[str, int]) -> str:
    """Format how often each name occurs: LPS in 5, RAS in 1."""
    return ", ".join(f"{name} in {count}" for name, count in counts.items())


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: 1 case, 2 cases."""
    return f"{count} {noun if count == 1 else f'{noun}s'}"


def format_scores(metrics: Mapping[str, Any]) -> str:
    """Format the content of `metrics.json` as a table: each label and the mean; "-" stands for an undefined score."""
    columns = score_titles(metrics)
    widths = {key: max(12 if key in ("hd95", "hd", "assd") else 6, len(name)) for key, name in columns.items()}
    width = max(len("label"), *(len(name) for name in metrics["per_class"]))

    def format_row(name: str, row: Mapping[str, Any]) -> str:
        cells = {key: format_score(key, row[key], "-") for key in columns}
        return "  ".join([f"{name:<{width}}", *(f"{cell:>{widths[key]}}" for key, cell in cells.items())])

    head = "  ".join([f"{'label':<{width}}", *(f"{name:>{widths[key]}}" for key, name in columns.items()), "cases"])
    lines = [head, "-" * len(head)]
    for name, row in metrics["per_class"].items():
        undefined = [f"no {key.upper()} in {row[f'{key}_undefined']}" for key in columns if row.get(f"{key}_undefined")]
        note = f"  ({', '.join(undefined)})" if undefined else ""
        lines.append(f"{format_row(name, row)}  {row.get('cases', ''):>5}{note}")
    lines += ["-" * len(head), format_row("mean", metrics["mean"])]
    if intervals := metrics.get("intervals"):
        found = {key: format_interval(key, pair) for key, pair in intervals["mean"].items() if pair}
        shown = ", ".join(f"{columns[key]} {ends}" for key, ends in found.items())
        lines.append(f"{intervals['level']:.0%} intervals of the mean over cases: {shown or 'undefined'}")
    lines.append(f"protocol {metrics['protocol']}, {len(metrics['per_case'])} cases; DSC from 0 to 1")
    return "\n".join(lines)


def score_titles(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Titles of the scores in `metrics.json`, distances with their unit, and NSD with its tolerance if it has one."""
    unit, tolerance = metrics.get("distance_unit", "voxel"), metrics.get("nsd_tolerance_mm")
    names = {"dice": "DSC", **{key: f"{key.upper()} ({unit})" for key in ("hd95", "hd", "assd")}}
    names |= {"iou": "IoU", "nsd": f"NSD ({tolerance:g} mm)" if isinstance(tolerance, int | float) else "NSD"}
    words = {"ece": "ECE", "brier": "Brier", "tp": "TP", "fp": "FP", "fn": "FN", "f1": "F1"}
    return {
        key: names.get(key) or " ".join(words.get(word, word) for word in key.split("_")) for key in metrics["mean"]
    }


def format_score(key: str, value: float | None, undefined: str = "–") -> str:
    """Format a score: two digits for distances, volumes and counts, four for shares."""
    if value is None:
        return undefined
    is_coarse = key in ("hd95", "hd", "assd") or key.endswith(("_ml", "_tp", "_fp", "_fn"))
    return f"{value:.2f}" if is_coarse else f"{value:.4f}"


def format_interval(key: str, ends: Sequence[float] | None) -> str:
    """Format the interval of a score, or "–" if it is undefined."""
    return " to ".join(format_score(key, end) for end in ends) if ends else "–"


def format_difference(key: str, value: float | None, interval: Sequence[float] | None = None) -> str:
    """Format a difference of scores with its sign, and its interval: +0.0314 (+0.0212 to +0.0420)."""
    signed = [
        ("+" if one is not None and one > 0 else "") + format_score(key, one).replace("-", "−")
        for one in (value, *(interval or ()))
    ]
    return f"{signed[0]} ({signed[1]} to {signed[2]})" if interval else signed[0]
