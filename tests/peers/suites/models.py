"""transformers' common model and configuration tests on SAMed, beside SAM and SegFormer."""

from __future__ import annotations

import unittest
from typing import Any

import torch
from transformers import SamConfig, SamModel, SegformerConfig, SegformerForSemanticSegmentation
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin

from samed_hf import SamedConfig, SamedForSemanticSegmentation

SIZE = 32
VISION = {
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "mlp_dim": 37,
    "image_size": SIZE,
    "patch_size": 4,
    "output_channels": 16,
    "num_pos_feats": 8,
    "window_size": 3,
    "global_attn_indexes": [1],
}
PROMPT = {"hidden_size": 16, "image_size": SIZE, "patch_size": 4, "mask_input_channels": 16}
DECODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_dim": 32,
    "iou_head_hidden_dim": 16,
    "iou_head_depth": 2,
}
SAM = {"vision_config": VISION, "prompt_encoder_config": PROMPT, "mask_decoder_config": DECODER}


class Tester:
    """What transformers' tests ask of a model tester."""

    batch_size = 2
    is_training = True
    num_hidden_layers = 2
    num_attention_heads = 4
    hidden_size = 36
    seq_length = (SIZE // 4) ** 2

    def __init__(self, config_class: type, **options: Any) -> None:
        self.config_class, self.options = config_class, options

    def get_config(self) -> Any:
        return self.config_class(**self.options)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        return self.get_config(), {"pixel_values": torch.rand(self.batch_size, 3, SIZE, SIZE)}


class Common(ModelTesterMixin):
    """The settings that the three models share."""

    test_resize_embeddings = False
    tester: Tester

    def setUp(self) -> None:
        self.model_tester = self.tester
        common = {"has_text_modality": False, "common_properties": []}
        self.config_tester = ConfigTester(self, config_class=self.tester.config_class, **common)

    def test_config(self) -> None:
        self.config_tester.run_common_tests()


class SamedModelTest(Common, unittest.TestCase):
    tester = Tester(SamedConfig, image_size=SIZE, num_labels=3, **SAM)
    all_model_classes = (SamedForSemanticSegmentation,)
    pipeline_model_mapping = {"image-segmentation": SamedForSemanticSegmentation}  # noqa: RUF012


class SamModelTest(Common, unittest.TestCase):
    tester = Tester(SamConfig, **SAM)
    all_model_classes = (SamModel,)


class SegformerModelTest(Common, unittest.TestCase):
    tester = Tester(
        SegformerConfig,
        num_labels=3,
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 32],
        num_attention_heads=[2, 4],
        strides=[4, 2],
        patch_sizes=[7, 3],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
    )
    all_model_classes = (SegformerForSemanticSegmentation,)
