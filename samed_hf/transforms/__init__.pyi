from .augmentation import Augmentation, augment, default_augmentation, window_intensity
from .slicing import SliceStack, cut_image, cut_slices, image_bounds, join_image, join_slices, rows_point_up
from .zoom import nearest_zoom, spline_zoom

__all__ = [
    "Augmentation",
    "SliceStack",
    "augment",
    "cut_image",
    "cut_slices",
    "default_augmentation",
    "image_bounds",
    "join_image",
    "join_slices",
    "nearest_zoom",
    "rows_point_up",
    "spline_zoom",
    "window_intensity",
]
