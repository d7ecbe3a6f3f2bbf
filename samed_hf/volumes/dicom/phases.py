"""The time points, echoes or b-values of a DICOM file that holds several images at each position."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from .frames import Frame, frames_of
from .grid import arrange
from .headers import items, quiet, text
from .images import is_projection, may_be_images
from .kept_headers import read_header
from .parts import KEYWORDS, ImageHeader, divide

__all__ = ["divide_frames", "frame_names"]

# Elements of enhanced files, by the names that they have in others.
_ENHANCED = {
    "TemporalPositionIdentifier": "TemporalPositionIndex",
    "EchoTime": "EffectiveEchoTime",
    "TriggerTime": "NominalCardiacTriggerDelayTime",
    "ImageType": "FrameType",
    "AcquisitionTime": "FrameAcquisitionDateTime",
}


def frame_names(files: Iterable[str | Path]) -> list[str]:
    """Return the names of the frames of a series, which [`read_series`] reads one at a time, e.g. "phase-2", "echo-1".

    Only headers are read. A volume is one frame without a name, and so are all the images of a file without positions,
    and a series that cannot be read.
    """
    with quiet():
        headers = [(read_header(Path(file)), Path(file)) for file in sorted(map(Path, files))]
        try:
            if all(is_projection(*one) for one in headers):
                return [""]
            parts = divide_frames([frame for header, file in headers for frame in frames_of(header, file)])
            if may_be_images(headers[0][0]):
                for part in parts.values():
                    arrange(part, headers[0][1])
        except ValueError:  # reading raises it, or reads images
            return [""]
        return list(parts)


def divide_frames(frames: list[Frame]) -> dict[str, list[Frame]]:
    """Divide images so that each part has one at each position; the parts by their names, in their order."""
    headers = [_header(frame) for frame in frames]
    _, parts = divide(headers)
    by_header = dict(zip(map(id, headers), frames, strict=True))
    return {name: [by_header[id(header)] for header in part] for name, part in sorted(parts.items(), key=_order)}


def _order(part: tuple[str, list[ImageHeader]]) -> tuple[int, str]:
    return len(part[0]), part[0]


def _header(frame: Frame) -> ImageHeader:
    """Make what the search keeps of a single-frame file's header of a frame."""
    found: dict[str, str] = {}
    for holder in (frame.dataset, *_nested(frame.groups, frame.path)):
        for keyword in KEYWORDS:
            for name in (keyword, _ENHANCED.get(keyword, keyword)):
                if value := text(holder, name):
                    found[keyword] = value
    found |= {"InstanceNumber": str(frame.index + 1)} if frame.groups is not frame.dataset else {}
    position, directions = tuple(frame.position.tolist()), tuple(frame.directions.ravel().tolist())
    return ImageHeader(frame.path, found, position, directions, True)


def _nested(groups: Dataset, path: Path) -> Iterator[Dataset]:
    """Yield the items of a frame's functional groups, and those in them."""
    for keyword in map(keyword_for_tag, groups.keys()):  # iterating over the elements would decode all of them
        if keyword.endswith("Sequence"):
            for item in items(groups, keyword, path):
                yield item
                yield from _nested(item, path)
