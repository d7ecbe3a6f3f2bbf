from .postprocessing import keep_largest, remove_islands
from .segmenter import Segmentation, Segmenter, load_model, segment_volume
from .slices import predict_confidence, predict_image, predict_slices, predict_volume
from .statistics import measure_labels

__all__ = [
    "Segmentation",
    "Segmenter",
    "keep_largest",
    "load_model",
    "measure_labels",
    "predict_confidence",
    "predict_image",
    "predict_slices",
    "predict_volume",
    "remove_islands",
    "segment_volume",
]
