"""The files of an earlier save that contradict a new one, in a directory or in a repository."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

__all__ = ["obsolete_files"]

_INDEX = r"(\.index(?P<of_index>\.\w+)?\.json)?"
_ADAPTER = re.compile(rf"(adapter/)?adapter_(config\.json|model[\w-]*\.(safetensors|bin){_INDEX})")
_WHOLE = re.compile(rf"(pytorch_)?model(?P<variant>\.\w+?)?(-\d{{5}}-of-\d{{5}})?\.(safetensors|bin){_INDEX}")


def obsolete_files(existing: Iterable[str], written: Collection[str]) -> list[str]:
    """Return those of the `existing` names that must go when the files `written` are saved beside them.

    With an adapter these are the weights of whole models and other adapter files, as those of the older layout in
    `adapter/`; with a whole model those of adapters, and other shards of the same variant. `adapter_config.json`
    decides which of the two is loaded.
    """
    has_adapter = any(_ADAPTER.fullmatch(name) for name in written)
    variants = {_variant(match) for name in written if (match := _WHOLE.fullmatch(name))}
    obsolete = []
    for name in existing:
        whole = _WHOLE.fullmatch(name)
        contradicts = has_adapter or _variant(whole) in variants if whole else _ADAPTER.fullmatch(name)
        if contradicts and name not in written:
            obsolete.append(name)
    return obsolete


def _variant(match: re.Match[str]) -> str | None:
    return match["variant"] or match["of_index"]
