"""The registry of file formats: which suffix belongs to which format, and which functions read and write it.

A new format is one module beside this one and one entry of [`FORMATS`].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "LABEL_FORMATS",
    "VOLUME_SUFFIXES",
    "FileFormat",
    "case_name",
    "file_kind",
    "format_of",
    "label_suffix",
    "suffix_of",
]


@dataclass(frozen=True)
class FileFormat:
    """A file format. Functions are given as "module:function" of this package and imported when they are called."""

    name: str  # in messages
    kind: str  # "nifti", "itk", "image" or "dicom"
    suffixes: tuple[str, ...]  # in lower case, the longer of two that end alike first
    writable: tuple[str, ...]  # label maps of a scan with another suffix get the first
    reader: str = ""  # `read(path, *, num_channels, limits) -> Volume`; "" where a scan consists of many files
    writer: str = ""  # `write(path, volume)`; "" where the format cannot hold every volume
    label_writer: str = ""  # `write(path, labels, like, *, names, colors)`; "" where `writer` writes label maps
    frame_reader: str = ""  # `read(path, *, num_channels, limits, frames) -> Frames`; "" where a volume has all frames

    def function(self, role: str) -> Callable[..., Any]:
        """Import the function of a role: "reader", "writer", "label_writer" or "frame_reader"."""
        module, _, name = getattr(self, role).partition(":")
        return getattr(import_module(f".{module}", __package__), name)


_NIFTI = ("nifti:read_nifti", "nifti:write_nifti", "nifti:write_nifti_labels", "nifti:read_nifti_frames")
_ITK = ("itk:read_itk", "itk:write_itk", "", "itk:read_itk_frames")
_IMAGE = ("images:read_image", "", "images:write_mask")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_RTSTRUCT = ".rtstruct.dcm"
FORMATS = (
    FileFormat("NIfTI", "nifti", (".nii.gz", ".nii"), (".nii.gz", ".nii"), *_NIFTI),
    FileFormat("NRRD", "itk", (".nrrd", ".nhdr"), (".nrrd",), *_ITK),
    FileFormat("MetaImage", "itk", (".mha", ".mhd"), (".mha", ".mhd"), *_ITK),
    FileFormat("DICOM", "dicom", (_RTSTRUCT,), (_RTSTRUCT,), "", "", "dicom.rtstruct_writer:write_rtstruct"),
    FileFormat("DICOM", "dicom", (".dcm", ".dicom", ".ima"), (".dcm",), "", "", "dicom.seg_writer:write_segmentation"),
    FileFormat("image (PNG, JPEG, TIFF, BMP)", "image", IMAGE_SUFFIXES, (".png", ".tif"), *_IMAGE),
)
VOLUME_SUFFIXES = tuple(suffix for form in FORMATS if form.writer for suffix in form.suffixes)
# Formats of label maps for scans of any kind, e.g. "nii.gz", and their suffixes.
LABEL_FORMATS = {
    "rtstruct" if suffix == _RTSTRUCT else suffix[1:]: suffix
    for form in FORMATS
    if form.kind != "image"
    for suffix in form.writable
}


def suffix_of(path: str | Path) -> str:
    """Return the registered suffix of a path in lower case, e.g. ".nii.gz"; "" where it has none."""
    name = Path(path).name.lower()
    return next((suffix for form in FORMATS for suffix in form.suffixes if name.endswith(suffix)), "")


def format_of(path: str | Path) -> FileFormat | None:
    """Return the format that the suffix of a path belongs to."""
    suffix = suffix_of(path)
    return next((form for form in FORMATS if suffix in form.suffixes), None)


def file_kind(path: str | Path) -> str | None:
    """Return the kind of a file by its suffix; `None` for DICOM, whose files often have none, and for other files."""
    form = format_of(path)
    return None if form is None or form.kind == "dicom" else form.kind


def case_name(path: str | Path) -> str:
    """Return the name of a file without directory and registered suffix."""
    name = Path(path).name
    return name[: len(name) - len(suffix_of(path))] or name


def label_suffix(path: Path) -> str:
    """Return the suffix of a label map in the format of a file: ".png" for an image, ".tif" for several pages."""
    form, suffix = format_of(path), suffix_of(path)
    if form is None:
        return ".png"
    if suffix in (".tif", ".tiff"):
        from .images import count_pages

        return ".tif" if count_pages(path) > 1 else ".png"
    if form.kind == "image":
        return ".png"
    return suffix if suffix in form.writable else form.writable[0]
