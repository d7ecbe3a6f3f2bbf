"""transformers' Trainer for models with `add_adapter`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import load_peft_weights, set_peft_model_state_dict
from torch import nn
from transformers import Trainer

__all__ = ["SamedTrainer"]


class SamedTrainer(Trainer):
    """[`~transformers.Trainer`] that resumes models with `add_adapter` and loads their best adapter at the end.

    `Trainer` does so with `peft.get_peft_model` alone (github.com/huggingface/transformers/issues/34660). All else is
    the same, for every model.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self._load_adapter(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._load_adapter(self.state.best_model_checkpoint):
            super()._load_best_model()

    def _load_adapter(self, directory: Any) -> bool:
        """Load a checkpoint's weights into the active adapter of a model with `add_adapter`; else return `False`."""
        model: Any = self.model
        if not getattr(model, "_hf_peft_config_loaded", False) or self.is_fsdp_enabled:
            return False
        if not Path(directory, "adapter_model.safetensors").is_file():
            raise FileNotFoundError(f"{directory} has no adapter_model.safetensors: expected a checkpoint of Trainer.")
        weights = {key.removeprefix("base_model.model."): value for key, value in load_peft_weights(directory).items()}
        set_peft_model_state_dict(model, weights, adapter_name=model.active_adapters()[0])
        return True
