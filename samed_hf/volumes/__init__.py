"""Scans of any format, and where they lie in the body."""

from .geometry import Volume, reorient, restore_orientation, same_grid
from .nifti import case_name, find_volumes, read_volume, write_labels, write_volume

__all__ = [
    "Volume",
    "case_name",
    "find_volumes",
    "read_volume",
    "reorient",
    "restore_orientation",
    "same_grid",
    "write_labels",
    "write_volume",
]
