"""UIDs and dates of objects made from a series, such that the same content is the same file."""

from __future__ import annotations

import hashlib
import re
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID

from .headers import text

__all__ = ["derive_uid", "encode_derived"]

_DATED = ("Content", "StructureSet", "InstanceCreation")
_DATES_OF_SOURCE = ("Content", "Acquisition", "Series", "Study")
_DIMENSIONS = ("DimensionOrganizationSequence", "DimensionIndexSequence")


def derive_uid(*content: str) -> str:
    """Make a UID of a hash, below the root 2.25 as of a UUID."""
    digest = hashlib.sha256("\n".join(content).encode("utf-8", "surrogateescape")).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def encode_derived(dataset: Dataset, source: Dataset, **options: Any) -> bytes:
    """Encode an object with the source's dates and with UIDs that follow from all of its content.

    A repeated prediction gives the same instance, which an archive doesn't store twice; any other content gives another
    one. `source` is the header of a file of the series; `options` are those of `Dataset.save_as`.
    """
    day, time = _date(source)
    for kind in _DATED:
        if f"{kind}Date" in dataset:
            setattr(dataset, f"{kind}Date", day)
            setattr(dataset, f"{kind}Time", time)
    for equipment in dataset.get("ContributingEquipmentSequence", ()):  # highdicom's
        equipment.ContributionDateTime = day + time
    _set_uids(dataset, "content")
    _set_uids(dataset, hashlib.sha256(_encode(dataset, options)).hexdigest())
    return _encode(dataset, options)


def _date(source: Dataset) -> tuple[str, str]:
    for kind in _DATES_OF_SOURCE:
        if re.fullmatch(r"[12]\d{3}[01]\d[0-3]\d", day := text(source, f"{kind}Date")):
            time = text(source, f"{kind}Time")
            return day, time if re.fullmatch(r"[0-2]\d[0-5]\d[0-5]\d(\.\d{1,6})?", time) else "000000"
    return "19000101", "000000"


def _set_uids(dataset: Dataset, content: str) -> None:
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(derive_uid(content, "instance"))
    dataset.SeriesInstanceUID = derive_uid(content, "series")
    for sequence in _DIMENSIONS:
        for item in dataset.get(sequence, ()):
            item.DimensionOrganizationUID = derive_uid(content, "dimensions")


def _encode(dataset: Dataset, options: dict[str, Any]) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, **options)
    return buffer.getvalue()
