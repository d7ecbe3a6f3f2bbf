from .label_objects import LabelObject, label_kind, read_label_map, read_label_object
from .phases import frame_names
from .rtstruct_writer import write_rtstruct
from .search import SeriesFiles, find_series, search_series
from .seg_writer import write_segmentation
from .series import read_series

__all__ = [
    "LabelObject",
    "SeriesFiles",
    "find_series",
    "frame_names",
    "label_kind",
    "read_label_map",
    "read_label_object",
    "read_series",
    "search_series",
    "write_rtstruct",
    "write_segmentation",
]
