"""The settings of a training run, as command-line flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..data.arguments import DataArguments
from ..scoring.arguments import ScoringArguments
from ..utils.packaged import SMALL_SAM, is_directory
from ..utils.settings import setting
from ..utils.source import package_source
from ..utils.text import split_names
from .presets import PRESETS

__all__ = ["LORA_TARGETS", "ResolvedTrainingArguments", "SamedTrainingArguments"]

LORA_TARGETS = ("q", "k", "v", "o", "mlp")
"""The names in `lora_targets`, those of [`samed_lora_config`]: this module imports no model."""


@dataclass
class SamedTrainingArguments(ScoringArguments, DataArguments):
    """Settings of a SAMed training run; with a pretrained SAM, the defaults are the paper's.

    [`DataArguments`] has the settings of the data, [`ScoringArguments`] those of the final scores, and [`setting`]
    explains the metadata of the fields.

    Raises:
        ValueError: values out of range; all of them are named.
    """

    model_name_or_path: str | None = setting(
        None,
        "Directory or Hub id of a plain SAM, e.g. facebook/sam-vit-base, or samed_hf/small [random: a small SAM].",
        private=True,
    )
    model_revision: str | None = setting(None, "Branch, tag or commit of model_name_or_path on the Hub.")
    preset: str | None = setting(None, "A run of the paper; other flags win.", choices=tuple(PRESETS))
    output_dir: str = setting("outputs/samed", "Directory of adapter, scores, images and checkpoints.", private=True)
    image_size: int | None = setting(
        None, "Model input in pixels, a multiple of 16 [512; small SAM: 256, or 128 for slices up to 96].", resume=True
    )
    rank: int = setting(4, "Rank of the LoRA matrices.", minimum=1, resume=True)
    variant: str | None = setting(
        None, "samed_s: LoRA in the mask decoder too.", choices=("samed", "samed_s"), filled="samed", resume=True
    )
    lora_targets: str | None = setting(
        None, "Layers of the image encoder with LoRA: some of q,k,v,o,mlp [q,v].", resume=True
    )
    encoder: str = setting(
        "lora", "Image encoder; full: all of it is trained and saved.", choices=("lora", "frozen", "full"), resume=True
    )
    augmentation: str | None = setting(
        None,
        "default: rotation, and left-right mirroring if no label has a side; samed: the paper's, which mirrors always.",
        choices=("default", "samed", "none"),
        filled="default",
        resume=True,
    )
    per_device_train_batch_size: int | None = setting(
        None, "Slices per process [12; small SAM: 4, small slices 16; preset: 24 in total].", minimum=1, resume=True
    )
    gradient_accumulation_steps: int = setting(1, "Batches per optimizer step.", minimum=1, resume=True)
    learning_rate: float | None = setting(None, "Learning rate [0.005; small SAM: 0.003].", minimum=0, resume=True)
    optimizer: str = setting(
        "adamw", "adamw_8bit: by bitsandbytes, on a GPU.", choices=("adamw", "adam", "sgd", "adamw_8bit"), resume=True
    )
    weight_decay: float | None = setting(
        None, "Weight decay; for adam and sgd an L2 penalty of 0.0001.", minimum=0, filled=0.1, resume=True
    )
    dice_weight: float = setting(0.8, "Weight of the Dice loss; cross-entropy has the rest of 1.", resume=True)
    loss_resolution: str | None = setting(
        None,
        "low: loss of the logits, SAMed's; full: interpolated to the input's size [low; samed_hf/small: full].",
        choices=("low", "full"),
        resume=True,
    )
    lr_warmup_steps: int | None = setting(None, "Optimizer steps of warmup [250, at most 1/40 of the run].", minimum=0)
    lr_power: float | None = setting(None, "Exponent of the learning rate's decay.", minimum=0, filled=0.9, resume=True)
    num_train_epochs: float | None = setting(
        None, "Epochs of the learning rate's decay [200; small SAM: 14, on the phantom 10].", minimum=0.01
    )
    stop_after_epochs: float | None = setting(None, "Epochs trained [160 of 200, else num_train_epochs].", minimum=0.01)
    max_train_steps: int | None = setting(
        None, "Optimizer steps, instead of epochs; the rate decays over them without num_train_epochs.", minimum=1
    )
    max_grad_norm: float | None = setting(None, "Largest gradient norm; 0: no limit [0; small SAM: 0.5].", minimum=0)
    max_skipped_steps: int = setting(10, "Non-finite losses or gradients in a row to skip.", minimum=0, on_card=False)
    ema_decay: float | None = setting(None, "Save and score weights averaged with this decay [none].", resume=True)
    mixed_precision: str | None = setting(
        None, "no, fp16 or bf16 [Accelerate's configuration].", choices=("no", "fp16", "bf16"), resume=True
    )
    frozen_dtype: str | None = setting(
        None, "Data type of the frozen encoder; bfloat16 with bf16.", choices=("float32", "bfloat16"), filled="float32"
    )
    gradient_checkpointing: bool = setting(False, "Recompute the encoder's activations: less memory, slower.")
    resume_from_checkpoint: str | None = setting(
        None, "A checkpoint's directory, or latest: the last complete one, if there is one.", private=True
    )
    checkpointing_steps: int | None = setting(
        None, "Optimizer steps between checkpoints; 0: none [one epoch].", minimum=0, on_card=False
    )
    checkpoints_total_limit: int | None = setting(2, "Checkpoints to keep.", minimum=1, on_card=False)
    num_validation_cases: int | str | None = setting(
        None, "Cases to hold out if none are declared [a tenth]; or how many of those to score in the training [all]."
    )
    eval_steps: int | None = setting(None, "Steps between validations [a quarter of all].", minimum=1, on_card=False)
    early_stopping_patience: int | None = setting(
        None, "Stop after so many validations without a better score, and save the best adapter [never].", minimum=1
    )
    save_best: bool = setting(True, "Keep the adapter of the best validation in OUTPUT_DIR/best.", on_card=False)
    watched_slices: int = setting(4, "Slices drawn at every validation; 0: none.", minimum=0, on_card=False)
    protocol: str | None = setting(None, "Protocol of the final scores.", choices=("strict", "samed"), filled="strict")
    dataloader_num_workers: int = setting(0, "Worker processes that prepare samples.", minimum=0, on_card=False)
    report_to: str | None = setting(None, "Accelerate's tracker, or none [tensorboard if installed].", on_card=False)
    seed: int = setting(0, "Seed of weights, order and augmentation.", minimum=0, resume=True)
    push_to_hub: bool = setting(False, "Upload the adapter at the end of the training.", on_card=False)
    push_every: int | None = setting(None, "Steps between uploads [only at the end].", minimum=1, on_card=False)
    hub_model_id: str | None = setting(None, "Repository to push to [the name of output_dir].", on_card=False)
    hub_private_repo: bool = setting(False, "Make a new repository private.", on_card=False)
    hub_token: str | None = setting(None, "Hub token [`hf auth login` or HF_TOKEN]; never saved.", private=True)
    hub_base_model: str | None = setting(None, "Hub name of the base model, if given by a directory.", on_card=False)
    hub_dtype: str = setting(
        "float32", "Data type of the pushed weights.", choices=("float32", "float16", "bfloat16"), on_card=False
    )
    hub_pictures: bool = setting(False, "Push images of real scans too; those of the phantom always.", on_card=False)
    hub_source: str | None = setting(
        None, "git+https://…@COMMIT to install samed_hf from [where it was installed from].", on_card=False
    )
    license: str | None = setting(None, "Licence of the adapter's weights, e.g. apache-2.0 [unknown].", on_card=False)
    base_license: str | None = setting(None, "Licence of the base model [if known, else unknown].", on_card=False)
    data_license: str | None = setting(None, "Licence of the data [unknown].", on_card=False)
    with_handler: bool = setting(False, "Push handler.py and requirements.txt for Inference Endpoints.", on_card=False)

    def __post_init__(self) -> None:
        """Check the values."""
        if str(self.num_validation_cases).isdecimal():
            self.num_validation_cases = int(str(self.num_validation_cases))
        super().__post_init__()
        self.asks_for_epochs = self.num_train_epochs is not None
        # Other keys of the settings file: "run", "cases", "num_processes" and "deviations".
        self.saved_run: dict[str, Any] = {}

    def find_problems(self) -> list[str]:
        """Return one phrase for each bad value."""
        problems, output = super().find_problems(), Path(self.output_dir)
        count = self.num_validation_cases
        if count not in (None, "all") and (isinstance(count, str) or count < 0):
            problems.append(f"num_validation_cases is {count!r}: expected a number of cases, at least 0, or all")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            problems.append(f"ema_decay is {self.ema_decay}: expected a number between 0 and 1, e.g. 0.999")
        if not 0 <= self.dice_weight <= 1:
            problems.append(f"dice_weight is {self.dice_weight}: expected a number in [0, 1]")
        problems += self._encoder_problems()
        if self.image_size is not None and (self.image_size <= 0 or self.image_size % 16):
            problems.append(f"image_size is {self.image_size}: expected a positive multiple of 16, e.g. 256 or 512")
        try:
            self.measures.check(self.scored_protocol)
        except ValueError as error:
            problems.append(str(error).rstrip("."))
        if output.is_file():
            problems.append(f"output_dir {self.output_dir!r} is a file: expected a directory")
        if self.push_every is not None and not self.push_to_hub:
            problems.append(f"push_every is {self.push_every} without push_to_hub: give --push_to_hub too")
        if self.with_handler and not (self.hub_source or package_source()):
            problems.append("with_handler needs hub_source: where others install samed_hf from is unknown")
        if self.model_name_or_path and Path(self.model_name_or_path).resolve() == output.resolve():
            problems.append(f"output_dir {self.output_dir!r} is the base model's directory: expected another")
        return problems

    def _encoder_problems(self) -> list[str]:
        problems = []
        if self.lora_targets is not None:
            try:
                split_names("lora_targets", self.lora_targets, LORA_TARGETS)
            except ValueError as error:
                problems.append(str(error).removesuffix("."))
            if self.encoder != "lora":
                problems.append(
                    f"lora_targets is {self.lora_targets} with encoder {self.encoder}: leave it out or give lora"
                )
        if self.encoder == "full" and self.frozen_dtype == "bfloat16":
            problems.append("frozen_dtype is bfloat16 with encoder full: expected float32, as it isn't frozen")
        return problems

    @property
    def scored_protocol(self) -> str:
        """The protocol of the final scores."""
        return self.protocol or PRESETS.get(self.preset or "", {}).get("protocol", "strict")

    @property
    def uses_random_sam(self) -> bool:
        """Whether a small SAM of random weights is trained."""
        return self.model_name_or_path in (None, "random")

    @property
    def uses_small_sam(self) -> bool:
        """Whether the packaged SAM or a random one is trained, which have defaults of their own."""
        return self.uses_random_sam or self.model_name_or_path == SMALL_SAM

    def fill_defaults(self, num_processes: int = 1, slice_side: int | None = None) -> ResolvedTrainingArguments:
        """Return a copy in which unset settings have values from the preset, other settings or the data.

        Args:
            num_processes: number of processes of the run.
            slice_side: longer side of the data's slices in pixels, if known.

        Raises:
            ValueError: the preset's batch is not divisible by the processes.
        """
        args = ResolvedTrainingArguments(**{item.name: getattr(self, item.name) for item in fields(self)})
        args.saved_run = self.saved_run
        if args.optimizer in ("adam", "sgd"):  # as in TransUNet's SGD; the preset's value is for AdamW
            args._fill(weight_decay=0.0001)
        if args.preset is not None:
            args._apply_preset(PRESETS[args.preset], num_processes)
        args._fill(model_name_or_path="random")
        if args.uses_small_sam:
            args._fill(image_size=128 if slice_side is not None and slice_side <= 96 else 256)
            args._fill(per_device_train_batch_size=16 if args.image_size <= 128 else 4, learning_rate=0.003)
            args._fill(num_train_epochs=10.0 if args.uses_phantom else 14.0, max_grad_norm=0.5)
        elif args.stop_after_epochs is None and args.num_train_epochs is None and args.preset is None:
            args.stop_after_epochs = 160.0
        args._fill(image_size=512, per_device_train_batch_size=12, learning_rate=0.005, num_train_epochs=200.0)
        args._fill(loss_resolution="full" if args.model_name_or_path == SMALL_SAM else "low")
        targets = split_names("lora_targets", args.lora_targets or "q,v", LORA_TARGETS)  # in one order, for resuming
        args.lora_targets = ",".join(targets) if args.encoder == "lora" else None
        args._fill(stop_after_epochs=args.num_train_epochs)
        args._fill(report_to="tensorboard" if find_spec("tensorboard") else "none")
        args._fill(**{item.name: item.metadata["filled"] for item in fields(self)})
        return args

    def _fill(self, **values: Any) -> None:
        for name, value in values.items():
            if getattr(self, name) is None:
                setattr(self, name, value)

    def _apply_preset(self, preset: Mapping[str, Any], num_processes: int) -> None:
        if self.per_device_train_batch_size is None:
            share, rest = divmod(preset["effective_batch_size"], num_processes * self.gradient_accumulation_steps)
            if rest:
                raise ValueError(
                    f"{num_processes} processes with {self.gradient_accumulation_steps} batches a step can't share the "
                    f"preset's {preset['effective_batch_size']} slices equally: give --per_device_train_batch_size."
                )
            self.per_device_train_batch_size = share
        # Its number of validation cases is of those to hold out; those that there are choose the best adapter.
        known = {item.name for item in fields(self)} - {"num_validation_cases"}
        self._fill(**{key: value for key, value in preset.items() if key in known})

    def deviations(self, num_processes: int, **settings: Any) -> list[str]:
        """Return the differences from the preset, e.g. "rank 8 instead of 4"; `settings` are those without a flag."""
        if self.preset is None:
            return []
        batch = (self.per_device_train_batch_size or 0) * num_processes * self.gradient_accumulation_steps
        run = self.to_dict() | {"effective_batch_size": batch} | settings
        if is_directory(str(self.model_name_or_path)):
            run["model_name_or_path"] = "a local directory"  # paths are private, and the model card lists deviations
        if self.num_validation_cases is None:
            run["num_validation_cases"] = PRESETS[self.preset]["num_validation_cases"]
        return [
            f"{name} {'none' if run[name] is None else run[name]} instead of {'none' if value is None else value}"
            for name, value in PRESETS[self.preset].items()
            if name in run and run[name] != value
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name, without the token."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "hub_token"}


class ResolvedTrainingArguments(SamedTrainingArguments):
    """Settings returned by [`SamedTrainingArguments.fill_defaults`]: those with a derived default are not `None`."""

    model_name_or_path: str
    image_size: int
    variant: str
    augmentation: str
    per_device_train_batch_size: int
    learning_rate: float
    weight_decay: float
    loss_resolution: str
    lr_power: float
    num_train_epochs: float
    stop_after_epochs: float
    frozen_dtype: str
    protocol: str
    report_to: str
