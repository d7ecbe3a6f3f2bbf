from .configuration_samed import SamedConfig
from .image_processing_samed import SamedImageProcessor
from .lora import samed_lora_config
from .losses import dice_loss, segmentation_loss
from .modeling_samed import SamedForSemanticSegmentation, SamedSegmenterOutput
from .random_sam import make_random_sam

__all__ = [
    "SamedConfig",
    "SamedForSemanticSegmentation",
    "SamedImageProcessor",
    "SamedSegmenterOutput",
    "dice_loss",
    "make_random_sam",
    "samed_lora_config",
    "segmentation_loss",
]
