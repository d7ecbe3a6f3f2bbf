from .label_objects import LabelObject, read_label_map, read_label_object
from .rtstruct_writer import write_rtstruct
from .search import SeriesFiles, find_series
from .seg_writer import write_segmentation
from .series import read_series

__all__ = [
    "LabelObject",
    "SeriesFiles",
    "find_series",
    "read_label_map",
    "read_label_object",
    "read_series",
    "write_rtstruct",
    "write_segmentation",
]
