"""Several data sets with the same labels as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..dataset import CaseDataset

__all__ = ["concatenate"]

_SAME = ("id2label", "channel_names", "is_2d", "orientation", "input_size", "regions", "has_ignored")


def concatenate(parts: Sequence[CaseDataset]) -> CaseDataset:
    """Make one data set of several, in which the names of the cases begin with their data set's.

    Raises:
        ValueError: other labels, channels or kinds of images, or the same data set twice.
    """
    first = parts[0]
    for part in parts[1:]:
        for what in _SAME:
            if getattr(part, what) != getattr(first, what):
                raise ValueError(
                    f"{first.root} has the {what} {getattr(first, what)}, but {part.root} {getattr(part, what)}: "
                    "expected the same in both; name the labels alike (labels.json, --label_names)."
                )
    names = _names([Path(part.root) for part in parts])
    layout = " and ".join(dict.fromkeys(part.layout for part in parts))
    whole = CaseDataset(layout, ", ".join(str(part.root) for part in parts), first.id2label, {})
    for what in (*_SAME, "declares_labels", "declares_folds"):
        setattr(whole, what, getattr(first, what))
    stated = [str(part.about.get("name") or name) for part, name in zip(parts, names, strict=True)]
    whole.about = {"name": " and ".join(stated)}
    if ranges := [part.intensity_range for part in parts if part.intensity_range is not None]:
        whole.intensity_range = min(low for low, _ in ranges), max(high for _, high in ranges)
    if all("synthetic" in part.about for part in parts):
        whole.about["synthetic"] = all(part.about["synthetic"] for part in parts)
    for part, name in zip(parts, names, strict=True):
        for split in ("train", "validation", "test"):
            whole.add_cases(split, {f"{name}-{case}": part.sources[case] for case in getattr(part, split)})
        whole.groups |= {f"{name}-{case}": f"{name}-{group}" for case, group in part.groups.items()}
        whole.notes += [f"{name}: {note}" for note in part.notes]
        whole.split_notes += [f"{name}: {note}" for note in part.split_notes]
        whole.declares_labels &= part.declares_labels
        whole.declares_folds |= part.declares_folds
        whole.is_sliced |= part.is_sliced
    whole.explanation = "; ".join(f"{name}: {part.explanation}" for part, name in zip(parts, names, strict=True))
    return whole


def _names(roots: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as tell them apart; of a listing without its suffix."""
    paths = [root.resolve().with_suffix("") if root.is_file() else root.resolve() for root in roots]
    if twice := [str(path) for path, count in Counter(paths).items() if count > 1]:
        raise ValueError(f"data_dir names {twice[0]} twice: expected each data set once.")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["-".join(path.parts[-depth:]).strip("/") for path in paths]
        if len(set(names)) == len(names):
            break
    return names
