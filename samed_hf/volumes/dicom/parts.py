"""Division of a series that holds several images at each position: echoes, phases, b-values."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

__all__ = ["KEYWORDS", "ImageHeader", "divide", "split_stacks"]

# Elements that tell images at one position apart, in the order in which they are tried, and a name for the parts.
_NAMES = {
    "EchoNumbers": "echo",
    "EchoTime": "echo",
    "TemporalPositionIdentifier": "phase",
    "NominalPercentageOfCardiacPhase": "phase",
    "DiffusionBValue": "b",
    "InversionTime": "inversion",
    "FlipAngle": "flip",
    "KVP": "kv",
    "ImageType": "type",
    "ConvolutionKernel": "kernel",
    "AcquisitionNumber": "acquisition",
    "DiffusionGradientOrientation": "direction",
    "TriggerTime": "phase",
    "AcquisitionTime": "phase",
    "ContentTime": "phase",
    "InstanceNumber": "phase",
}
# These may differ between the slices of one part as well: their order at each position counts.
_ORDERED = ("TriggerTime", "AcquisitionTime", "ContentTime", "InstanceNumber")
_BY_RANK = ("EchoTime", "InversionTime", "DiffusionGradientOrientation", *_ORDERED)  # whose values make no names
_DIRECTION = "DiffusionGradientOrientation"
_DIRECTORY = "directory"
KEYWORDS = tuple(_NAMES)


@dataclass(frozen=True)
class ImageHeader:
    """What the search keeps of a file's header."""

    file: Path
    values: dict[str, str]  # text of the elements that are not empty
    position: tuple[float, ...] | None  # (3,), mm, of a single image
    directions: tuple[float, ...] | None  # (6,)
    is_slice: bool = True  # unlike a projection or a photograph, which are read as images
    has_position: bool = False  # whether the file states positions in the patient
    frames: int = 1

    def text(self, keyword: str) -> str:
        """Return an element's text, empty if it is missing."""
        return self.values.get(keyword, "")


def split_stacks(images: Sequence[ImageHeader]) -> list[list[ImageHeader]]:
    """Group images by size and direction."""
    stacks: list[list[ImageHeader]] = []
    for image in images:
        for stack in stacks:
            first = stack[0]
            sizes = [(one.text("Rows"), one.text("Columns"), one.directions is None) for one in (first, image)]
            if sizes[0] == sizes[1] and np.allclose(first.directions or 0.0, image.directions or 0.0, atol=1e-2):
                stack.append(image)
                break
        else:
            stacks.append([image])
    return stacks


def divide(images: list[ImageHeader]) -> tuple[str, dict[str, list[ImageHeader]]]:
    """Divide a stack so that each part has one image at each position.

    Returns:
        The elements that tell the parts apart, empty if nothing does or need be, and the parts by their names, e.g.
        "echo-2". Copies of an image are in the same part.
    """
    planes = _planes(images)
    names = [keyword for keyword in KEYWORDS if len({image.text(keyword) for image in images}) > 1]
    # Two images without a difference are copies, which stay in one part.
    same = [tuple(image.text(keyword) for keyword in ("SOPInstanceUID", *names)) for image in images]
    if planes is None or len(set(planes)) == len(set(zip(planes, same, strict=True))):
        return "", {"": images}
    valued = [keyword for keyword in names if keyword not in _ORDERED[1:]]
    # The directions of diffusion come with a b-value, of which 0 has none.
    singles = [(keyword,) for keyword in valued if keyword != _DIRECTION]
    for keywords in [*singles, *combinations(valued, 2), (_DIRECTION,), (_DIRECTORY,)]:
        labels = [tuple(_value(image, keyword) for keyword in keywords) for image in images]
        if _separates(labels, planes, same):
            columns = zip(*labels, strict=True)
            words = [_part_names(column, keyword) for column, keyword in zip(columns, keywords, strict=True)]
            return " and ".join(keywords), _grouped(images, ["_".join(one) for one in zip(*words, strict=True)])
    for keyword in _ORDERED:
        if keyword in names and (ranks := _ranks([image.text(keyword) for image in images], planes)):
            return f"the order of {keyword}", _grouped(images, [f"{_NAMES[keyword]}-{rank}" for rank in ranks])
    return "", {"": images}


def _planes(images: Sequence[ImageHeader]) -> list[int] | None:
    """Number the position of each image; `None` if one has none."""
    positions = [image.position for image in images if image.position is not None]
    directions = images[0].directions
    if len(positions) != len(images) or directions is None:
        return None
    along = np.array(positions) @ np.cross(directions[:3], directions[3:])
    order = np.argsort(along, kind="stable")
    numbers = np.empty(len(images), dtype=int)
    numbers[order] = np.concatenate([[0], np.cumsum(np.diff(along[order]) > 0.01)])
    return numbers.tolist()


def _value(image: ImageHeader, keyword: str) -> str:
    return str(image.file.parent) if keyword == _DIRECTORY else image.text(keyword)


def _separates(labels: list[tuple[str, ...]], planes: list[int], same: list[tuple[str, ...]]) -> bool:
    """Whether images of equal labels are at different positions, or the same, and a part is more than one slice."""
    parts: dict[Hashable, dict[int, tuple[str, ...]]] = defaultdict(dict)
    for label, plane, own in zip(labels, planes, same, strict=True):
        if parts[label].setdefault(plane, own) != own:
            return False
    return len(parts) > 1 and (len(set(planes)) == 1 or min(map(len, parts.values())) > 1)


def _ranks(values: list[str], planes: list[int]) -> list[int] | None:
    """Rank each image, from 1, by its value at its position; `None` unless each position has as many values."""
    found: dict[int, set[str]] = defaultdict(set)
    for value, plane in zip(values, planes, strict=True):
        found[plane].add(value)
    counts = {len(values) for values in found.values()}
    if len(counts) != 1 or min(counts) < 2:
        return None
    order = {plane: sorted(values, key=_sort_key) for plane, values in found.items()}
    return [1 + order[plane].index(value) for value, plane in zip(values, planes, strict=True)]


def _part_names(values: Sequence[str], keyword: str) -> list[str]:
    """Name the part of each value: by a whole number or words, else by the value's rank."""
    distinct = sorted(set(values), key=_sort_key)
    words = {value: str(rank) for rank, value in enumerate(distinct, 1)}
    if keyword == _DIRECTORY:
        directories = {value: Path(value).name for value in distinct}
        words = directories if len(set(directories.values())) == len(distinct) else words
    elif keyword not in _BY_RANK and all(re.fullmatch(r"[0-9]{1,6}(\.0*)?", value) for value in distinct):
        words = {value: str(int(float(value))) for value in distinct}
    elif keyword in ("ImageType", "ConvolutionKernel"):
        parts = {value: value.split("\\") for value in distinct}
        common = set.intersection(*map(set, parts.values()))
        named = {
            value: [re.sub(r"\W+", "-", part) for part in parts[value] if part not in common] for value in distinct
        }
        if all(named.values()):
            words = {value: "-".join(part) for value, part in named.items()}
    prefix = f"{_NAMES[keyword]}-" if keyword in _NAMES else ""
    return [prefix + words[value] for value in values]


def _sort_key(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def _grouped(images: list[ImageHeader], names: list[str]) -> dict[str, list[ImageHeader]]:
    parts: dict[str, list[ImageHeader]] = defaultdict(list)
    for image, name in zip(images, names, strict=True):
        parts[name].append(image)
    return parts
