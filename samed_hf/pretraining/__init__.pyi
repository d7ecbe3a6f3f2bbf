from .arguments import PretrainingArguments
from .images import SyntheticImages
from .run import pretrain
from .scores import measure_iou
from .small_sam import make_small_sam, resize_input
from .synthesis import SyntheticImage, draw_image

__all__ = [
    "PretrainingArguments",
    "SyntheticImage",
    "SyntheticImages",
    "draw_image",
    "make_small_sam",
    "measure_iou",
    "pretrain",
    "resize_input",
]
