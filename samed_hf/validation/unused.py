"""Files of a data set that no case uses, such as an image without a label or a slice missing from all lists."""

from __future__ import annotations

from pathlib import Path

from ..data.dataset import CaseDataset

__all__ = ["unused_files"]


def unused_files(data: CaseDataset) -> dict[Path, list[str]]:
    """Return the unused files with a suffix of the cases' files in the same directory, by directory."""
    used: dict[Path, set[str]] = {}
    for source in data.sources.values():
        for file in source.files():
            used.setdefault(file.parent, set()).add(file.name.lower())  # lists may differ in case
    unused = {}
    for directory, names in sorted(used.items()):
        suffixes = {_suffix(name) for name in names}
        files = (path.name for path in sorted(directory.glob("[!.]*")))
        unlisted = [file for file in files if file.lower() not in names and _suffix(file.lower()) in suffixes]
        if unlisted:
            unused[directory] = unlisted
    return unused


def _suffix(name: str) -> str:
    return "".join(Path(name).suffixes[-2:] if name.endswith(".gz") else Path(name).suffixes[-1:])
