"""SAMed on the Hugging Face stack: Segment Anything adapted to medical images with LoRA (arXiv 2304.13785)."""

__all__ = ["SamedConfig", "SamedForSemanticSegmentation", "SamedImageProcessor", "samed_lora_config"]
__version__ = "0.1.0.dev0"

try:
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation

    from .adapter import samed_lora_config
    from .configuration_samed import SamedConfig
    from .image_processing_samed import SamedImageProcessor
    from .modeling_samed import SamedForSemanticSegmentation
except Exception as error:  # a package is missing or broken; `samed-hf doctor`, which tells which, is in this package
    _problem = error

    def __getattr__(name: str):
        if name in __all__:
            reason = " ".join(str(_problem).split()) or type(_problem).__name__
            raise ImportError(f"samed_hf can't be used here ({reason}): samed-hf doctor tells more.") from _problem
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
else:
    AutoConfig.register(SamedConfig.model_type, SamedConfig)
    AutoImageProcessor.register(SamedConfig, slow_image_processor_class=SamedImageProcessor)
    AutoModelForSemanticSegmentation.register(SamedConfig, SamedForSemanticSegmentation)
