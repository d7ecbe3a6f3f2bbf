from .phases import frame_names
from .search import find_series
from .seg_writer import write_segmentation
from .series import read_series

__all__ = ["find_series", "frame_names", "read_series", "write_segmentation"]
