"""transformers' common image-processor tests on SAMed's, beside SegFormer's."""

from __future__ import annotations

import unittest
from typing import Any

import torch
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
from transformers_tests.test_image_processing_common import (
    ImageProcessingTester,
    ImageProcessingTestMixin,
    PostProcessSemanticSegmentationTestMixin,
)

from samed_hf import SamedImageProcessor

SIZE, NUM_LABELS = 32, 3


class SamedTester(ImageProcessingTester):
    def __init__(self, parent: Any) -> None:
        super().__init__(parent, image_size=SIZE, size={"height": SIZE, "width": SIZE})

    def _get_image_processing_classes(self) -> dict[str, type]:
        return {"pil": SamedImageProcessor, "torchvision": SamedImageProcessor}

    def prepare_post_process_semantic_segmentation_inputs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        logits = torch.randn(self.batch_size, NUM_LABELS, SIZE // 4, SIZE // 4)
        expected = {"num_labels": NUM_LABELS, "height": SIZE, "width": SIZE}
        return {"outputs": SemanticSegmenterOutput(logits=logits)}, expected


class SamedImageProcessorTest(ImageProcessingTestMixin, PostProcessSemanticSegmentationTestMixin, unittest.TestCase):
    image_processor_tester_class = SamedTester


class SegformerTester(ImageProcessingTester):
    num_labels = NUM_LABELS

    def __init__(self, parent: Any) -> None:
        super().__init__(parent, size={"height": SIZE, "width": SIZE})

    def _get_image_processing_classes(self) -> dict[str, type]:
        return {"pil": SegformerImageProcessorPil}


class SegformerImageProcessorTest(
    ImageProcessingTestMixin, PostProcessSemanticSegmentationTestMixin, unittest.TestCase
):
    image_processor_tester_class = SegformerTester
