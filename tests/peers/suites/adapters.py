"""PEFT's tests of custom models on SAMed, beside SAM, for eight methods.

OFT is left out: its layers take inputs of three dimensions, and those of the image encoder have four.
"""

from __future__ import annotations

from typing import Any

import torch
from models import SAM, SIZE
from peft import BOFTConfig, IA3Config, LoHaConfig, LoKrConfig, LoraConfig, VeraConfig
from peft_tests import test_custom_models
from torch import nn
from transformers import SamConfig, SamModel

from samed_hf import SamedConfig, SamedForSemanticSegmentation

METHODS: dict[str, tuple[type, dict[str, Any]]] = {
    "LoRA": (LoraConfig, {}),
    "LoRA with bias": (LoraConfig, {"lora_bias": True}),
    "DoRA": (LoraConfig, {"use_dora": True}),
    "IA3": (IA3Config, {"feedforward_modules": []}),
    "LoHa": (LoHaConfig, {}),
    "LoKr": (LoKrConfig, {}),
    "VeRA": (VeraConfig, {"r": 4}),
    "BOFT": (BOFTConfig, {"boft_block_size": 4}),
}
_ATTENTION = r".*vision_encoder\.layers\.\d+\.attn\."
TARGETS = {"samed": _ATTENTION + "(q_proj|v_proj)", "sam": _ATTENTION + "qkv"}
test_custom_models.TEST_CASES[:] = [
    (f"peer_{model} {name}", model, kind, {"target_modules": target} | options)
    for model, target in TARGETS.items()
    for name, (kind, options) in METHODS.items()
]


class Classifier(nn.Module):
    """A model as PEFT's tests of custom models expect it: logarithms of class probabilities, of shape `(9, 2)`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.dtype = model, torch.float32
        for weight in model.parameters():  # far enough from zero that every adapter changes the output
            nn.init.normal_(weight, std=0.4)

    def forward(self, X: torch.Tensor) -> torch.Tensor:  # noqa: N803 - PEFT's name
        if isinstance(self.model, SamModel):
            masks = self.model(X.to(self.dtype), multimask_output=True).pred_masks[:, 0, :2]
        else:
            masks = self.model(X.to(self.dtype)).logits
        return (1000 * masks.float().mean(dim=(2, 3))).log_softmax(dim=1)


class Models:
    """Makes the same tiny models at every call, as PEFT's tests expect of `from_pretrained`."""

    @staticmethod
    def from_pretrained(name: str, dtype: torch.dtype | None = None) -> nn.Module:
        torch.manual_seed(0)
        if name == "samed":
            model = Classifier(SamedForSemanticSegmentation(SamedConfig(image_size=SIZE, num_labels=2, **SAM)))
        elif name == "sam":
            model = Classifier(SamModel(SamConfig(**SAM)))
        else:
            return test_custom_models.MockTransformerWrapper.from_pretrained(name, dtype)
        return model.to(dtype or torch.float32)


class TestCustomModels(test_custom_models.TestPeftCustomModel):
    transformers_class = Models

    def prepare_inputs_for_testing(self) -> dict[str, torch.Tensor]:
        return {"X": torch.rand(9, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))}
