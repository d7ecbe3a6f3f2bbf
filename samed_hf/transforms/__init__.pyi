from .augmentation import Augmentation, augment, default_augmentation, window_intensity
from .slicing import SliceStack, cut_slices, join_slices
from .zoom import nearest_zoom, spline_zoom

__all__ = [
    "Augmentation",
    "SliceStack",
    "augment",
    "cut_slices",
    "default_augmentation",
    "join_slices",
    "nearest_zoom",
    "spline_zoom",
    "window_intensity",
]
