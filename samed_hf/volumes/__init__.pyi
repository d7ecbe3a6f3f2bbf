from .discovery import ScanFile, find_scans
from .frames import Frames
from .geometry import Volume, reorient, restore_orientation, same_grid
from .io import read_frames, read_scan, read_volume, write_labels, write_volume
from .limits import InputLimits
from .nifti import find_volumes
from .registry import case_name

__all__ = [
    "Frames",
    "InputLimits",
    "ScanFile",
    "Volume",
    "case_name",
    "find_scans",
    "find_volumes",
    "read_frames",
    "read_scan",
    "read_volume",
    "reorient",
    "restore_orientation",
    "same_grid",
    "write_labels",
    "write_volume",
]
