"""What the layouts with a dataset.json share: nnU-Net's and the Medical Segmentation Decathlon's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..dataset import CaseDataset
from ..labels import read_json

__all__ = ["channel_names", "read_description", "require_files"]


def read_description(root: Path) -> dict[str, Any]:
    """Return the content of `root/dataset.json`; empty if there is none or it names no labels.

    Raises:
        ValueError: it is not JSON.
    """
    path = root / "dataset.json"
    content = read_json(path) if path.is_file() else None
    return content if isinstance(content, dict) and "labels" in content else {}


def channel_names(names: Any, path: Path) -> tuple[str, ...]:
    """Return the names of the channels in order, given {"0": "CT"} or a list.

    Raises:
        ValueError: there are none or more than three.
    """
    if isinstance(names, dict) and all(str(key).isdigit() for key in names):
        names = [names[key] for key in sorted(names, key=lambda key: int(str(key)))]
    if not isinstance(names, list) or not 1 <= len(names) <= 3:
        raise ValueError(
            f"{path} names the channels {str(names)[:80]}: expected one to three, which become red, green and blue; "
            "leave the others out."
        )
    return tuple(str(name) for name in names)


def require_files(path: Path, data: CaseDataset) -> None:
    """Refuse a data set whose description at `path` names files that do not exist.

    Raises:
        FileNotFoundError: the first missing file, and how many others there are.
    """
    missing = [file for source in data.sources.values() for file in source.files() if not file.is_file()]
    if missing:
        others = f" (nor do {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{path} names {missing[0]}, which does not exist{others}: add or remove it.")
