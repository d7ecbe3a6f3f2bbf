"""Scans of any format, and where they lie in the body."""

from .geometry import Volume, reorient, restore_orientation, same_grid
from .nifti import find_volumes
from .scan_files import find_scans
from .scan_names import ScanFile, case_name
from .scans import read_scan, read_volume, write_labels, write_volume

__all__ = [
    "ScanFile",
    "Volume",
    "case_name",
    "find_scans",
    "find_volumes",
    "read_scan",
    "read_volume",
    "reorient",
    "restore_orientation",
    "same_grid",
    "write_labels",
    "write_volume",
]
