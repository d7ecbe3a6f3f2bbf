from .discovery import find_scans
from .geometry import Volume, reorient, restore_orientation, same_grid
from .io import read_scan, read_volume, write_labels, write_volume
from .naming import ScanFile, case_name
from .nifti import find_volumes

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
