"""The paper's three runs as settings: SAMed, SAMed_s and SAMed_h (SAMed, section 4.1, and the reference's commands)."""

from __future__ import annotations

from typing import Any

__all__ = ["PRESETS"]

_SAMED: dict[str, Any] = {
    "model_name_or_path": "facebook/sam-vit-base",
    "image_size": 512,
    "rank": 4,
    "variant": "samed",
    "lora_targets": "q,v",
    "encoder": "lora",
    "augmentation": "samed",
    "effective_batch_size": 24,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0.005,
    "optimizer": "adamw",
    "weight_decay": 0.1,
    "dice_weight": 0.8,
    "loss_resolution": "low",
    "lr_warmup_steps": 250,
    "lr_power": 0.9,
    "num_train_epochs": 200.0,
    "stop_after_epochs": 160.0,
    "max_train_steps": None,
    "max_grad_norm": None,
    "mixed_precision": "no",
    "num_validation_cases": 0,
    "protocol": "samed",
    "input_size": 224,
}
_SAMED_H = {"model_name_or_path": "facebook/sam-vit-huge", "lr_power": 7.0, "mixed_precision": "fp16"}

PRESETS: dict[str, dict[str, Any]] = {
    "samed": _SAMED,
    "samed_s": _SAMED | {"variant": "samed_s"},
    "samed_h": _SAMED | _SAMED_H | {"num_train_epochs": 400.0, "stop_after_epochs": 300.0},
}
"""The settings of each preset by the name of their flag.

`effective_batch_size` is the number of slices in a step: slices per process × processes × accumulated batches. The
reference computes its loss over 24 slices on two GPUs. `input_size` is the side in pixels to which slices are resized,
in training and scoring.
"""
