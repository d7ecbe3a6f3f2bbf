from .ensemble import write_ensemble
from .onnx_segmenter import OnnxSegmenter
from .postprocessing import keep_largest, remove_islands
from .segmenter import Segmenter, load_model
from .slices import predict_slices
from .statistics import measure_labels, measure_regions
from .volumes import Segmentation, predict_image, predict_volume, segment_volume

__all__ = [
    "OnnxSegmenter",
    "Segmentation",
    "Segmenter",
    "keep_largest",
    "load_model",
    "measure_labels",
    "measure_regions",
    "predict_image",
    "predict_slices",
    "predict_volume",
    "remove_islands",
    "segment_volume",
    "write_ensemble",
]
