"""Labels of nnU-Net v2's dataset.json: plain ones, regions of several values, and the ignore label."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..dataset import IGNORED_LABEL, FileValues, label_numbers
from ..labels import labels_from_mapping

__all__ = ["NnunetLabels", "nnunet_labels"]


class NnunetLabels(NamedTuple):
    """The labels to train on, exclusive of each other."""

    id2label: dict[int, str]
    values: FileValues
    regions: dict[str, tuple[int, ...]]  # by name, the labels whose union a region is; empty without regions
    ignored: int | None  # the files' value that becomes `IGNORED_LABEL`
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
        id2label, numbers, regions = _divide_regions(mapping, content.get("regions_class_order"), path)
        values: FileValues = numbers
        parts = ", ".join(f"{index} {name}" for index, name in id2label.items() if index)
        notes.append(
            f"{len(regions)} regions are trained as exclusive labels ({parts}), each the part of the region that no "
            "later one covers; scores and statistics are of whole regions"
        )
    else:
        older = {"training", "modality"} & content.keys()  # keys of nnU-Net v1
        id2label, values, _ = labels_from_mapping(mapping, path, None if older else True)
    ignored = _value_of_ignored(mapping, id2label, values)
    if ignored is not None:
        kept = [(value, id2label[label]) for value, label in label_numbers(values).items() if value != ignored]
        if not regions:
            id2label = {index: name for index, (_, name) in enumerate(kept)}
            values = {value: index for index, (value, _) in enumerate(kept)}
        if (
            len(id2label) < 2
            or len(id2label) >= IGNORED_LABEL
            or ignored in (0, *label_numbers(values).keys() - {ignored})
        ):
            raise ValueError(
                f"{path} has {len(id2label)} labels besides the ignore label {ignored}: expected the background, at "
                f"least one and at most {IGNORED_LABEL - 1} others, and a value of its own."
            )
        values = {**label_numbers(values), ignored: IGNORED_LABEL}
        notes.append(f"voxels of the ignore label ({ignored}) are neither trained nor scored")
    return NnunetLabels(id2label, values, regions, ignored, notes)


def _value_of_ignored(mapping: Any, id2label: Mapping[int, str], values: FileValues) -> int | None:
    """The value of the label "ignore", which isn't among the labels of regions."""
    for value, label in label_numbers(values).items():
        if id2label[label].lower() == "ignore":
            return value
    found = [value for name, value in mapping.items() if name.lower() == "ignore"]
    return int(found[0]) if found else None


def _divide_regions(
    mapping: Mapping[str, Any], order: Any, path: Path
) -> tuple[dict[int, str], dict[int, int], dict[str, tuple[int, ...]]]:
    """Names of the exclusive labels, the label of each of the files' values, and the labels of each region."""
    members: dict[str, list[int]] = {}
    for name, listed in mapping.items():
        found = listed if isinstance(listed, list) else [listed]
        if not found or not all(type(value) is int and 0 <= value <= 65535 for value in found):
            raise ValueError(f"{path} names {str({name: listed})[:120]}: expected a whole number, or a list of them.")
        members[name.strip()] = found
    ignored = [value for name in list(members) if name.lower() == "ignore" for value in members.pop(name)]
    background = [value for name in list(members) if name.lower() == "background" for value in members.pop(name)]
    if background != [0] or not members or any(value in (0, *ignored) for found in members.values() for value in found):
        raise ValueError(
            f"{path} names the labels {str(dict(mapping))[:120]}: expected 0 to be the background and to be, as the "
            "ignore label, in no region."
        )
    order = list(range(1, len(members) + 1)) if order is None else order
    if not isinstance(order, list) or len(order) != len(members) or len({str(one) for one in order}) != len(order):
        raise ValueError(
            f"{path} has the regions_class_order {str(order)[:80]}: expected {len(members)} different numbers, one for "
            f"each of the regions {', '.join(members)[:120]}."
        )
    names = list(members)
    inside = {
        value: tuple(name for name in names if value in members[name])
        for value in sorted({value for found in members.values() for value in found})
    }
    parts = sorted(set(inside.values()), key=lambda part: (order[names.index(part[-1])], part))
    last = [part[-1] for part in parts]
    id2label = {0: "background"}
    for index, part in enumerate(parts, 1):
        id2label[index] = part[-1] if last.count(part[-1]) == 1 or len(part) == 1 else " and ".join(part)
    numbers = {0: 0, **{value: parts.index(part) + 1 for value, part in inside.items()}}
    regions = {name: tuple(index for index, part in enumerate(parts, 1) if name in part) for name in names}
    return id2label, numbers, regions
