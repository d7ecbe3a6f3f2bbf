"""SAMed in transformers' image-segmentation pipeline."""

from __future__ import annotations

from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.pipelines import SUPPORTED_TASKS
from transformers.pipelines.image_segmentation import ImageSegmentationPipeline

from .image_inputs import open_image
from .image_processing_samed import SamedImageProcessor

__all__ = ["SamedImageSegmentationPipeline", "register_pipeline"]


class SamedImageSegmentationPipeline(ImageSegmentationPipeline):
    """transformers' pipeline, but SAMed's image processor receives images with all their bits instead of 8-bit RGB.

    It also takes arrays and tensors, e.g. of Hounsfield units, as [`SamedImageProcessor`] does.

    Raises:
        ValueError: an image of which Pillow drops bits: one of colours with 16 bits per channel.
    """

    def preprocess(self, image: Any, subtask: str | None = None, timeout: float | None = None) -> Any:  # type: ignore[override]
        """As transformers', which is called for all other image processors."""
        if not isinstance(self.image_processor, SamedImageProcessor):
            return super().preprocess(image, subtask=subtask, timeout=timeout)
        image = image if hasattr(image, "ndim") else open_image(image, timeout)
        inputs = self.image_processor(images=[image], return_tensors="pt").to(self.dtype)
        inputs["target_size"] = [tuple(self.image_processor.image_slices(image).shape[-2:])]
        return inputs


def register_pipeline(model_type: str, name: str) -> None:
    """Make `pipeline("image-segmentation")` use this class, and know the model class `name`."""
    task: Any = SUPPORTED_TASKS["image-segmentation"]
    task["impl"] = SamedImageSegmentationPipeline
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[model_type] = name
