"""Labels of nnU-Net v2's dataset.json: plain ones, regions of several values, and the ignore label."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..dataset import IGNORED_LABEL, FileValues
from ..labels import labels_from_mapping

__all__ = ["NnunetLabels", "nnunet_labels"]


class NnunetLabels(NamedTuple):
    """The labels to train on, exclusive of each other."""

    id2label: dict[int, str]
    values: FileValues
    regions: dict[str, tuple[int, ...]]  # by name, the labels whose union a region is; empty without regions
    has_ignored: bool  # whether a value becomes `IGNORED_LABEL`
    notes: list[str]


def nnunet_labels(content: Mapping[str, Any], path: Path) -> NnunetLabels:
    """Labels of the content of a dataset.json.

    Regions overlap, so they are divided into exclusive labels: the voxels that are in the same regions are one label,
    called after the last of these regions, and a region is the union of its labels. `regions_class_order` orders the
    labels as nnU-Net numbers them.

    Raises:
        ValueError: labels, regions or `regions_class_order` are invalid.
    """
    mapping, notes = content["labels"], list[str]()
    regions: dict[str, tuple[int, ...]] = {}
    if isinstance(mapping, Mapping) and any(isinstance(value, list) for value in mapping.values()):
        members = _region_values(mapping, path)
        ignored = members.pop("ignore", [])
        names, numbers, regions = _divide_regions(members, content.get("regions_class_order"), path)
        parts = ", ".join(f"{index} {name}" for index, name in enumerate(names) if index)
        notes.append(
            f"{len(regions)} regions are trained as exclusive labels ({parts}), each the part of the region that no "
            "later one covers; scores and statistics are of whole regions"
        )
    else:
        version_1 = {"training", "modality"} & content.keys()
        labels = labels_from_mapping(mapping, path, None if version_1 else True)
        named = [(value, labels.id2label[index]) for index, value in enumerate(labels.values)]
        ignored = [value for value, name in named if name.lower() == "ignore"]
        names = [name for value, name in named if value not in ignored]
        numbers = {value: names.index(name) for value, name in named if value not in ignored}
    if ignored:
        if len(names) < 2 or len(names) > IGNORED_LABEL or {*ignored} & {0, *numbers}:
            raise ValueError(
                f"{path} has {len(names)} labels besides the ignore label {ignored[0]}: expected the background, 0, at "
                f"least one other and at most {IGNORED_LABEL} in all, and an ignore label of its own."
            )
        notes.append(f"voxels of the ignore label ({ignored[0]}) are neither trained nor scored")
    numbers |= dict.fromkeys(ignored, IGNORED_LABEL)
    values: FileValues = numbers if ignored or regions else tuple(numbers)
    return NnunetLabels(dict(enumerate(names)), values, regions, bool(ignored), notes)


def _region_values(mapping: Mapping[str, Any], path: Path) -> dict[str, list[int]]:
    """The values of each region and of "ignore", without the background."""
    members: dict[str, list[int]] = {}
    for name, listed in mapping.items():
        found = listed if isinstance(listed, list) else [listed]
        if not found or not all(type(value) is int and 0 <= value <= 65535 for value in found):
            raise ValueError(f"{path} names {str({name: listed})[:120]}: expected a whole number, or a list of them.")
        special = name.lower() in ("background", "ignore")
        members[name.lower() if special else name.strip()] = found
    background = members.pop("background", None)
    if background != [0] or not members or any(0 in found for found in members.values()):
        raise ValueError(
            f"{path} names the labels {str(dict(mapping))[:120]}: expected 0 to be the background, and in no region."
        )
    return members


def _divide_regions(
    members: Mapping[str, list[int]], order: Any, path: Path
) -> tuple[list[str], dict[int, int], dict[str, tuple[int, ...]]]:
    """Names of the exclusive labels, the label of each of the files' values, and the labels of each region."""
    names = list(members)
    order = list(range(1, len(names) + 1)) if order is None else order
    is_list = isinstance(order, list) and all(type(one) is int for one in order)
    if not is_list or len(order) != len(names) or len(set(order)) != len(order):
        raise ValueError(
            f"{path} has the regions_class_order {str(order)[:80]}: expected {len(names)} different numbers, one for "
            f"each of the regions {', '.join(names)[:120]}."
        )
    values = sorted({value for found in members.values() for value in found})
    inside = {value: tuple(name for name in names if value in members[name]) for value in values}
    parts = sorted(set(inside.values()), key=lambda part: (order[names.index(part[-1])], part))
    last = [part[-1] for part in parts]
    labels = [part[-1] if last.count(part[-1]) == 1 or len(part) == 1 else " and ".join(part) for part in parts]
    numbers = {0: 0} | {value: parts.index(part) + 1 for value, part in inside.items()}
    regions = {name: tuple(index for index, part in enumerate(parts, 1) if name in part) for name in names}
    return ["background", *labels], numbers, regions
