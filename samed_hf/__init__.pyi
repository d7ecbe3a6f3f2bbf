from .model.configuration_samed import SamedConfig
from .model.image_processing_samed import SamedImageProcessor
from .model.lora import samed_lora_config
from .model.modeling_samed import SamedForSemanticSegmentation

__all__ = [
    "SamedConfig",
    "SamedForSemanticSegmentation",
    "SamedImageProcessor",
    "__version__",
    "samed_lora_config",
]
__version__: str
