"""The settings of a training run, as command-line flags."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..data.arguments import DataArguments, flag, range_problems
from ..model.lora import VARIANTS
from .presets import PRESETS, deviations

__all__ = ["SamedTrainingArguments"]


@dataclass
class ModelArguments:
    """The model that a training starts from."""

    model_name_or_path: str | None = flag(
        None, "A plain SAM, folder or Hub id, e.g. facebook/sam-vit-base. Without it: a small SAM of random weights."
    )
    model_revision: str | None = flag(None, "Branch, tag or commit of model_name_or_path on the Hub.")


@dataclass
class SamedTrainingArguments(DataArguments, ModelArguments):
    """Settings of a SAMed training run; the defaults are the paper's where a pretrained SAM is given.

    Raises:
        ValueError: a value out of its range; every bad one is named.
    """

    preset: str | None = flag(
        None, "samed, samed_s or samed_h: all settings as in the paper's run, but for those given besides."
    )
    output_dir: str = flag("outputs/samed", "Where the adapter, scores, pictures and checkpoints go.")
    image_size: int | None = flag(
        None, "Model input in pixels, a multiple of 16 [512; for the random SAM 256, or 128 for slices of up to 96]."
    )
    rank: int = flag(4, "Rank of the LoRA matrices.")
    variant: str | None = flag(None, "samed, or samed_s: LoRA on the mask decoder's transformer too [samed].")
    augmentation: str | None = flag(
        None,
        "default: rotation, and left-right mirroring where no label has a side; samed: the paper's, which mirrors all; "
        "none [default].",
    )
    per_device_train_batch_size: int | None = flag(
        None,
        "Slices per process and step [12; for the random SAM 4, of small slices 16; with a preset, 24 in all].",
    )
    gradient_accumulation_steps: int = flag(1, "Batches per optimizer step.")
    learning_rate: float | None = flag(None, "Base learning rate [0.005; 0.003 for the random SAM's small batches].")
    weight_decay: float = flag(0.1, "Weight decay of AdamW.")
    optimizer: str = flag("adamw", "adamw, or adamw_8bit: AdamW's moments in 8 bits, with bitsandbytes on a GPU.")
    lr_warmup_steps: int | None = flag(None, "Optimizer steps of warmup [250, at most a fortieth of the run].")
    lr_power: float | None = flag(None, "Exponent of the learning rate's decay [0.9].")
    num_train_epochs: float | None = flag(
        None, "Epochs of the learning rate's decay [200; 14 for the random SAM, 10 on the phantom]."
    )
    stop_after_epochs: float | None = flag(None, "Epochs actually trained [160 of 200, else num_train_epochs].")
    max_train_steps: int | None = flag(
        None, "Optimizer steps to train instead of epochs; the rate decays over them, unless num_train_epochs is given."
    )
    max_grad_norm: float | None = flag(None, "Clip the gradient's norm to this; 0: never [0; 0.5 for the random SAM].")
    max_skipped_steps: int = flag(
        10, "Steps in a row that may be left out because loss or gradient isn't finite, before the run stops."
    )
    ema_decay: float | None = flag(
        None, "Save and score a moving average of the trained weights with this decay, e.g. 0.999 [none]."
    )
    mixed_precision: str | None = flag(None, "no, fp16 or bf16 [Accelerate's configuration].")
    frozen_dtype: str | None = flag(
        None, "Data type in which the encoder's frozen weights are kept: float32, or bfloat16 with bf16 [float32]."
    )
    gradient_checkpointing: bool = flag(False, "Recompute the encoder's activations: less memory, slower.")
    resume_from_checkpoint: str | None = flag(
        None, "A checkpoint folder, or latest: the last whole one, or from the first step where there is none."
    )
    checkpointing_steps: int | None = flag(None, "Optimizer steps between checkpoints [one epoch; 0: none].")
    checkpoints_total_limit: int | None = flag(2, "Checkpoints to keep.")
    num_validation_cases: int | None = flag(None, "Training cases to hold out, unless the data does [a tenth].")
    eval_steps: int | None = flag(None, "Optimizer steps between validations [a quarter of the run].")
    early_stopping_patience: int | None = flag(
        None, "Stop after so many validations in a row without a better score, and save the best adapter [never]."
    )
    save_best: bool = flag(True, "Keep the adapter of the best validation in OUTPUT_DIR/best.")
    watched_slices: int = flag(4, "Validation slices pictured at every validation; 0: none.")
    protocol: str | None = flag(None, "Protocol of the final scores: strict or samed [strict].")
    dataloader_num_workers: int = flag(0, "Worker processes that prepare samples.")
    report_to: str | None = flag(
        None, "Tracker of Accelerate (tensorboard, wandb, trackio, …), or none [tensorboard where it is installed]."
    )
    seed: int = flag(0, "Seed of weights, order and augmentation: the same seed gives the same run.")
    push_to_hub: bool = flag(False, "Upload the adapter when the training has ended.")
    push_every: int | None = flag(None, "Upload the adapter every so many optimizer steps too [only at the end].")
    hub_model_id: str | None = flag(None, "Repository to push to [the name of output_dir].")
    hub_private_repo: bool = flag(False, "Make a new repository private.")
    hub_token: str | None = flag(None, "Token of the Hub [that of `hf auth login` or HF_TOKEN]; never saved.")
    hub_base_model: str | None = flag(None, "Hub name of the base model, where model_name_or_path is a local folder.")
    hub_dtype: str = flag("float32", "Data type of the weights pushed: float32, float16 or bfloat16.")
    hub_pictures: bool = flag(False, "Push overlay and example slices of real scans too; those of the phantom always.")
    with_handler: bool = flag(False, "Push handler.py and requirements.txt for Inference Endpoints.")

    def __post_init__(self) -> None:
        """Name every bad value at once."""
        self.asks_for_epochs = self.num_train_epochs is not None
        self.saved_run: dict[str, Any] = {}  # of the run whose settings these are, what its file says besides
        problems = range_problems(self, _LEAST, _CHOICES) + self.data_problems()
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            problems.append(f"ema_decay is {self.ema_decay}: expected a number between 0 and 1, e.g. 0.999")
        if self.image_size is not None and (self.image_size <= 0 or self.image_size % 16):
            problems.append(f"image_size is {self.image_size}: expected a positive multiple of 16, e.g. 256 or 512")
        if Path(self.output_dir).is_file():
            problems.append(f"output_dir {self.output_dir!r} is a file: expected a folder")
        if self.push_every is not None and not self.push_to_hub:
            problems.append(f"push_every is {self.push_every} without push_to_hub: give --push_to_hub too")
        if self.model_name_or_path and Path(self.model_name_or_path).resolve() == Path(self.output_dir).resolve():
            problems.append(f"output_dir {self.output_dir!r} is the base model's folder: expected another")
        if problems:
            raise ValueError("; ".join(problems) + ".")

    @property
    def uses_random_sam(self) -> bool:
        """Whether there is no pretrained model, so that a small one of random weights is made."""
        return self.model_name_or_path is None

    @property
    def uses_phantom(self) -> bool:
        """Whether there is no data, so that synthetic patients are made."""
        return self.data_dir is None and self.dataset_name is None

    def fill_defaults(self, num_processes: int = 1, slice_side: int | None = None) -> None:
        """Give the settings that depend on others, or come from the preset, their values.

        Args:
            num_processes: how many share a step.
            slice_side: the longer side of the data's slices in pixels, where it is known.

        Raises:
            ValueError: the processes can't share the preset's batch equally.
        """
        if self.preset is not None:
            self._take_preset(num_processes)
        small = self.uses_random_sam
        tiny = slice_side is not None and slice_side <= 96
        self.image_size = self.image_size or ((128 if tiny else 256) if small else 512)
        if self.per_device_train_batch_size is None:
            self.per_device_train_batch_size = (16 if self.image_size <= 128 else 4) if small else 12
        if self.learning_rate is None:
            self.learning_rate = 0.003 if small else 0.005
        if self.max_grad_norm is None and small:
            self.max_grad_norm = 0.5
        if self.stop_after_epochs is None and self.num_train_epochs is None and not small:
            self.stop_after_epochs = 160.0
        if self.num_train_epochs is None:
            self.num_train_epochs = (10.0 if self.uses_phantom else 14.0) if small else 200.0
        self.stop_after_epochs = self.stop_after_epochs or self.num_train_epochs
        for name, default in _DEFAULTS.items():
            if getattr(self, name) is None:
                setattr(self, name, default)
        self.report_to = self.report_to or ("tensorboard" if find_spec("tensorboard") else "none")

    def _take_preset(self, num_processes: int) -> None:
        preset = PRESETS[self.preset]
        if self.per_device_train_batch_size is None:
            share, rest = divmod(preset["effective_batch_size"], num_processes * self.gradient_accumulation_steps)
            if rest:
                raise ValueError(
                    f"{num_processes} processes with {self.gradient_accumulation_steps} batches a step can't share the "
                    f"preset's {preset['effective_batch_size']} slices equally: give --per_device_train_batch_size."
                )
            self.per_device_train_batch_size = share
        for name, value in preset.items():
            if getattr(self, name, value) is None:
                setattr(self, name, value)

    def deviations(self, num_processes: int, **settings: Any) -> list[str]:
        """Where the run leaves its preset; none without one.

        Args:
            num_processes: how many share a step.
            **settings: of the run that are no flag, e.g. `input_size`.
        """
        if self.preset is None:
            return []
        batch = self.per_device_train_batch_size * num_processes * self.gradient_accumulation_steps
        run = self.to_dict() | {"effective_batch_size": batch} | settings
        if Path(str(self.model_name_or_path)).exists():
            run["model_name_or_path"] = "a local folder"  # its place is nobody's business, and this goes onto the card
        return deviations(self.preset, run)

    def to_dict(self) -> dict:
        """The settings by name, for the run's files; the token isn't among them."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "hub_token"}


_DEFAULTS = {
    "variant": "samed",
    "augmentation": "default",
    "lr_power": 0.9,
    "protocol": "strict",
    "frozen_dtype": "float32",
}
_LEAST = {
    "rank": 1,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "weight_decay": 0,
    "lr_warmup_steps": 0,
    "max_grad_norm": 0,
    "lr_power": 0,
    "num_train_epochs": 0.01,
    "stop_after_epochs": 0.01,
    "max_train_steps": 1,
    "checkpointing_steps": 0,
    "checkpoints_total_limit": 1,
    "num_validation_cases": 0,
    "eval_steps": 1,
    "early_stopping_patience": 1,
    "max_skipped_steps": 0,
    "watched_slices": 0,
    "dataloader_num_workers": 0,
    "seed": 0,
    "push_every": 1,
}
_CHOICES = {
    "preset": tuple(PRESETS),
    "variant": tuple(VARIANTS),
    "augmentation": ("default", "samed", "none"),
    "mixed_precision": ("no", "fp16", "bf16"),
    "frozen_dtype": ("float32", "bfloat16"),
    "optimizer": ("adamw", "adamw_8bit"),
    "protocol": ("strict", "samed"),
    "hub_dtype": ("float32", "float16", "bfloat16"),
}
