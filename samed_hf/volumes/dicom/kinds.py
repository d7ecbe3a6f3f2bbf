"""Kinds of DICOM objects: images, and what else is found beside them, by SOP class."""

from __future__ import annotations

__all__ = ["CAPTURES", "FOREIGN", "LOCALIZER", "NO_POSITION", "count_of", "is_image_class", "kind_of"]

_STORAGE = "1.2.840.10008.5.1.4.1.1."
# Kinds as they are named in messages, `{s}` for the plural, by the rest of the SOP class UID or, with a dot, its start.
_KINDS = {
    "88.59": "a key object selection{s} (KO)",
    "88.": "a structured report{s} (SR)",
    "9.1.": "an ECG{s}",
    "9.": "a waveform{s}",
    "11.": "a presentation state{s} (PR)",
    "104.1": "an encapsulated PDF document{s}",
    "104.": "an encapsulated document{s}",
    "66": "a raw data file{s}",
    "66.1": "a spatial registration{s} (REG)",
    "66.3": "a spatial registration{s} (REG)",
    "66.4": "a segmentation{s} (SEG)",
    "66.7": "a segmentation{s} (SEG)",
    "66.5": "a surface segmentation{s} (SEG)",
    "481.2": "an RT dose{s} (RTDOSE)",
    "481.3": "an RT structure set{s} (RTSTRUCT)",
    "481.5": "an RT plan{s} (RTPLAN)",
    "481.8": "an RT plan{s} (RTPLAN)",
    "481.": "an RT object{s}",
    "30": "a parametric map{s}",
    "67": "a real-world value mapping{s}",
    "4.2": "an MR spectroscopy measurement{s}",
}
_DICOMDIR = "1.2.840.10008.1.3.10"
FOREIGN = "a file{s} of another format"
LOCALIZER = "a localizer{s}"
NO_POSITION = "an image{s} without a position or in colour"
# CT, MR, PET and secondary capture: beside volumes, images without a position are screenshots and documents.
CAPTURES = tuple(_STORAGE + code for code in ("2", "4", "128", "7", "7.1", "7.2", "7.3", "7.4"))


def is_image_class(uid: str) -> bool | None:
    """Whether objects of a SOP class are images; `None` for a class that the standard, as known here, doesn't have."""
    name = _name(uid)
    if "Image Storage" in name or name == "Enhanced US Volume Storage":
        return True
    return None if kind_of(uid) == _unknown(uid) and name in ("", uid) else False


def kind_of(uid: str) -> str:
    """Return the name of an object that is no image, for [`count_of`]."""
    if uid == _DICOMDIR:
        return "a DICOMDIR{s}, the index of a medium"
    code = uid.removeprefix(_STORAGE)
    for start, name in _KINDS.items():
        if code == start or (start.endswith(".") and code.startswith(start)):
            return name
    return _unknown(uid)


def count_of(kind: str, count: int | None = None) -> str:
    """Return a kind with its number, e.g. "2 structured reports (SR)", or with its article."""
    if count is None:
        return kind.format(s="")
    return f"{count} {kind.split(' ', 1)[1].format(s='s' if count > 1 else '')}"


def _unknown(uid: str) -> str:
    return f"a DICOM object{{s}} of class {_name(uid).removesuffix(' Storage')}"


def _name(uid: str) -> str:
    from pydicom.uid import UID  # not at the top: messages of a search without DICOM use this module

    return UID(uid).name
