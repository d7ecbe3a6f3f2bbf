"""SAMed on the Hugging Face stack: Segment Anything adapted to medical images with LoRA (arXiv 2304.13785)."""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation

from .adapter import samed_lora_config
from .configuration_samed import SamedConfig
from .image_processing_samed import SamedImageProcessor
from .modeling_samed import SamedForSemanticSegmentation

__all__ = ["SamedConfig", "SamedForSemanticSegmentation", "SamedImageProcessor", "samed_lora_config"]
__version__ = "0.1.0.dev0"

AutoConfig.register(SamedConfig.model_type, SamedConfig)
AutoImageProcessor.register(SamedConfig, slow_image_processor_class=SamedImageProcessor)
AutoModelForSemanticSegmentation.register(SamedConfig, SamedForSemanticSegmentation)
