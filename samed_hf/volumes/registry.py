"""The registry of file formats: which suffix belongs to which format, and which functions read and write it.

A new reader is one file beside this one, with the functions described in [`FileFormat`], and one line in [`FORMATS`].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["FORMATS", "IMAGE_SUFFIXES", "LABEL_FORMATS", "VOLUME_SUFFIXES", "FileFormat", "format_of", "suffix_of"]


@dataclass(frozen=True)
class FileFormat:
    """A file format. Functions are given as "module:function" of this package and imported when they are called.

    Attributes:
        name: Name in messages, e.g. "NIfTI".
        kind: Group of formats: "nifti", "itk", "image" or "dicom".
        suffixes: Suffixes in lower case, the longer of two that end alike first.
        writable: Suffixes that can be written. Label maps of a scan whose own suffix is not among them get the first.
        reader: `read(path, *, num_channels) -> Volume`; "" where a scan consists of many files.
        writer: `write(path, volume)`; "" where the format cannot hold every volume.
        label_writer: `write(path, labels, like, *, names, colors)`; the arguments of [`write_labels`].
    """

    name: str
    kind: str
    suffixes: tuple[str, ...]
    writable: tuple[str, ...]
    reader: str = ""
    writer: str = ""
    label_writer: str = ""

    def function(self, role: str) -> Callable[..., Any]:
        """Import the function of a role: "reader", "writer" or "label_writer"."""
        module, _, name = getattr(self, role).partition(":")
        return getattr(import_module(f".{module}", __package__), name)


FORMATS = (
    FileFormat(
        *("NIfTI", "nifti", (".nii.gz", ".nii"), (".nii.gz", ".nii")),
        *("nifti:read_nifti", "nifti:write_nifti", "nifti:write_nifti_labels"),
    ),
    FileFormat(
        *("NRRD", "itk", (".nrrd", ".nhdr"), (".nrrd",)),
        *("itk:read_itk", "itk:write_itk", "itk:write_itk_labels"),
    ),
    FileFormat(
        *("MetaImage", "itk", (".mha", ".mhd"), (".mha", ".mhd")),
        *("itk:read_itk", "itk:write_itk", "itk:write_itk_labels"),
    ),
    FileFormat(
        *("DICOM", "dicom", (".dcm", ".dicom", ".ima"), (".dcm",)), label_writer="dicom.seg_writer:write_segmentation"
    ),
    FileFormat(
        *("image (PNG, JPEG, TIFF, BMP)", "image", (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"), (".png",)),
        *("images:read_image", "", "images:write_mask"),
    ),
)
VOLUME_SUFFIXES = tuple(suffix for form in FORMATS if form.writer for suffix in form.suffixes)
IMAGE_SUFFIXES = tuple(suffix for form in FORMATS if form.kind == "image" for suffix in form.suffixes)
LABEL_FORMATS = tuple(suffix[1:] for form in FORMATS if form.kind != "image" for suffix in form.writable)
"""Formats of label maps for scans of any kind, e.g. "nii.gz"."""


def suffix_of(path: str | Path) -> str:
    """Return the registered suffix of a path in lower case, e.g. ".nii.gz"; "" where it has none."""
    name = Path(path).name.lower()
    return next((suffix for form in FORMATS for suffix in form.suffixes if name.endswith(suffix)), "")


def format_of(path: str | Path) -> FileFormat | None:
    """Return the format that the suffix of a path belongs to."""
    suffix = suffix_of(path)
    return next((form for form in FORMATS if suffix in form.suffixes), None)
