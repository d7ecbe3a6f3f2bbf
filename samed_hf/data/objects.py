"""Label maps of objects with outlines as in COCO: polygons or run lengths, drawn by pycocotools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["category_numbers", "draw_objects", "list_objects"]

_CATEGORIES = ("category", "categories", "category_id", "category_ids", "label", "labels", "class", "class_id")


def list_objects(value: Any, name: str) -> list[tuple[Any, Any]]:
    """The category and the outline of each object of a row, which is a list of records or a record of lists.

    Raises:
        ValueError: an object has no outline or no category.
    """
    records = value
    if isinstance(value, Mapping):
        columns = {key: column for key, column in value.items() if isinstance(column, list)}
        if len({len(column) for column in columns.values()}) > 1:
            raise ValueError(f"{name} lists objects in columns of unequal length: expected one entry for each object.")
        records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    found = []
    for record in records:
        outline = next((record[key] for key in record if key.startswith("segment")), None)
        category = next((record[key] for key in _CATEGORIES if record.get(key) is not None), None)
        if not outline or category is None:
            raise ValueError(f"{name} has an object without segmentation or category: add them or remove the object.")
        found.append((category, outline))
    return found


def category_numbers(fields: Mapping[str, Any], used: set[Any]) -> dict[Any, tuple[int, str]]:
    """The label and the name of each category: those of its ClassLabel, else the names or numbers in use, sorted."""
    feature = next((fields[key] for key in _CATEGORIES if key in fields), None)
    while (inner := getattr(feature, "feature", None)) is not None:
        feature = inner
    names = getattr(feature, "names", None)
    if names:
        first = 0 if names[0].lower() == "background" else 1
        return {index: (index + first, str(name)) for index, name in enumerate(names)}
    ordered = sorted(used, key=lambda one: (isinstance(one, str), one))
    return {one: (index, one if isinstance(one, str) else f"category_{one}") for index, one in enumerate(ordered, 1)}


def draw_objects(
    objects: Sequence[tuple[Any, Any]], numbers: Mapping[Any, int], size: tuple[int, int], name: str
) -> tuple[np.ndarray, int]:
    """The label map `(height, width)` of a row, and the number of pixels in objects of several labels: the last counts.

    Raises:
        ValueError: pycocotools is missing, or an outline is damaged, of another size, or beyond the image.
    """
    label, overlaps = np.zeros(size, np.uint8 if max(numbers.values()) < 256 else np.uint16), 0
    for category, outline in objects:
        mask = _draw(outline, size, name)
        overlaps += int(np.count_nonzero(mask & (label > 0) & (label != numbers[category])))
        label[mask] = numbers[category]
    return label, overlaps


def _draw(outline: Any, size: tuple[int, int], name: str) -> np.ndarray:
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise ValueError(f"{name} has outlines as in COCO: pip install 'samed-hf[coco]' to read them.") from error
    height, width = size
    if isinstance(outline, Mapping):
        counts, stated = outline.get("counts"), [int(side) for side in outline.get("size") or ()]
        if stated != [height, width]:
            raise ValueError(f"{name} has run lengths for {stated} pixels: expected those of the image, {[*size]}.")
        if isinstance(counts, list):  # checked here: pycocotools writes beyond its memory
            if min(counts, default=-1) < 0 or sum(counts) != height * width:
                raise ValueError(f"{name} has run lengths of {sum(counts)} pixels: expected {height * width}.")
            outline = coco.frPyObjects({"counts": counts, "size": [height, width]}, height, width)
        runs = {"size": [height, width], "counts": outline["counts"]}
    else:
        polygons = [outline] if not isinstance(outline[0], list) else outline
        for polygon in polygons:
            points = np.asarray(polygon, np.float64)
            if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not (abs(points) <= 2 * max(size)).all():
                raise ValueError(
                    f"{name} has the polygon {polygon[:8]}: expected x, y of 3 points or more in the image."
                )
        runs = coco.merge(coco.frPyObjects([list(map(float, polygon)) for polygon in polygons], height, width))
    try:
        return np.asarray(coco.decode(runs), bool)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} has damaged run lengths ({error}): write them again.") from error
