"""The memory of training and prediction: the one estimator of doctor, validate, `--dry_run` and docs/memory.md.

A training step is run on fake tensors, which have sizes and no content, and the bytes alive at the worst moment are
counted; nothing is computed and no weight is allocated.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ..inference.batching import slice_bytes
from ..model.configuration_samed import SamedConfig
from ..model.lora import prepare_encoder, samed_lora_config
from ..model.losses import segmentation_loss
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..utils.packaged import SMALL_SAM
from .fake_step import LiveBytes, make_fake, use_fused_attention

__all__ = [
    "MODELS",
    "SMALLER_BASES",
    "MemoryEstimate",
    "StepSettings",
    "TrainingMemory",
    "base_config",
    "estimate_training",
    "fitting_batches",
    "make_meta_model",
    "read_base_config",
    "suggest_base",
]

_FLOAT = 4
_SMALL, _BLOCK = 4096, 256  # bitsandbytes: smaller tensors keep moments of 32 bits; a scale for each block of the rest
_BATCH_SIZES = (12, 4, 1)

MODELS: dict[str, dict[str, Any]] = {
    "SlimSAM-77": {"hidden_size": 168, "mlp_dim": 696},
    "SlimSAM-50": {"hidden_size": 384, "mlp_dim": 1536},
    "ViT-B": {},  # transformers' default, and MedSAM's
    "ViT-L": {"hidden_size": 1024, "mlp_dim": 4096, "num_attention_heads": 16}
    | {"num_hidden_layers": 24, "global_attn_indexes": [5, 11, 17, 23]},
    "ViT-H": {"hidden_size": 1280, "mlp_dim": 5120, "num_attention_heads": 16}
    | {"num_hidden_layers": 32, "global_attn_indexes": [7, 15, 23, 31]},
}
"""What the image encoders of the published SAMs change in transformers' default, from the smallest to the largest."""

SMALLER_BASES = {
    "facebook/sam-vit-base": "ViT-B",
    "nielsr/slimsam-50-uniform": "SlimSAM-50",
    "nielsr/slimsam-77-uniform": "SlimSAM-77",
}
"""Hub ids to suggest where a base model doesn't fit, and what they are of `MODELS`, from the largest."""


@dataclass(frozen=True)
class StepSettings:
    """Settings on which the memory of a training step depends, besides the base model."""

    image_size: int = 512  # side of the model's input in pixels
    num_labels: int = 9
    rank: int = 4
    variant: str = "samed"
    lora_targets: str | None = None  # as `targets` of samed_lora_config
    encoder: str = "lora"  # or "frozen", "full"
    batch_size: int = 1
    mixed_precision: bool = False  # activations of 16 bits, bf16 or fp16 alike
    frozen_bfloat16: bool = False  # of the encoder's frozen weights
    gradient_checkpointing: bool = False
    optimizer: str = "adamw"  # or "adam", "sgd", "adamw_8bit"
    ema: bool = False
    fused: bool = True  # attention by one fused kernel, as on accelerators; otherwise in tiles, as on a processor
    num_processes: int = 1
    full_loss: bool = False  # the loss at the resolution of the input
    projected: int | None = None  # channels of a model with a channel projection


# The flags that save most of what a device can do.
_PLAIN = ("", StepSettings())
_ON_PROCESSOR = ("--gradient_checkpointing", StepSettings(gradient_checkpointing=True))
_WITHOUT_BFLOAT16 = (
    "--mixed_precision fp16 --gradient_checkpointing",
    StepSettings(gradient_checkpointing=True, mixed_precision=True),
)
_WITH_BFLOAT16 = (
    "--mixed_precision bf16 --frozen_dtype bfloat16 --gradient_checkpointing",
    StepSettings(gradient_checkpointing=True, mixed_precision=True, frozen_bfloat16=True),
)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of the tensors in a training step, each part at its peak.

    Not counted are the libraries and the accelerator's context (about half a gigabyte each), the reserves of allocators
    and the work spaces of kernels.
    """

    parameters: int  # number of the model's weights
    trained: int  # number of those that are trained
    weights: int  # bytes of all weights, each in its own data type
    optimizer: int  # bytes of the optimizer's moments, AdamW's two, and of the average, if there is one
    step: int  # bytes of activations and gradients at the moment when they are most

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return self.weights + self.optimizer + self.step

    def describe(self, batch_size: int) -> str:
        """The total and its parts in words, in GB (10⁹ bytes)."""
        return (
            f"about {self.total / 1e9:.2f} GB: {self.weights / 1e9:.2f} of weights, {self.optimizer / 1e9:.2f} of the "
            f"optimizer, {self.step / 1e9:.2f} of activations and gradients of {batch_size} slices; computed, not "
            "measured: libraries and reserves come on top"
        )


@dataclass(frozen=True)
class MemoryEstimate:
    """The memory of one base model (see [`read_base_config`]) for batches of any size."""

    base: Mapping[str, Any]
    settings: StepSettings

    def training(self, batch_size: int, *, gradient_checkpointing: bool = False) -> TrainingMemory:
        """The memory of a training step with the settings, except for these two."""
        settings = replace(self.settings, batch_size=batch_size, gradient_checkpointing=gradient_checkpointing)
        return estimate_training(self.base, settings)

    def prediction(self, batch_size: int) -> int:
        """The bytes of predicting a batch, in float32 and without the scan, as `samed-hf predict` estimates them."""
        side, num_labels = self.settings.image_size, self.settings.num_labels
        config = SamedConfig.from_dict(dict(self.base), image_size=side, num_labels=num_labels)
        weights = _FLOAT * self.training(1).parameters
        return weights + batch_size * slice_bytes(config, (side, side), torch.float32)


def read_base_config(model_name_or_path: str | None, **options: Any) -> dict[str, Any]:
    """Read the config.json of a plain SAM; `None` gives that of facebook/sam-vit-base, SAM's default.

    `options` are `revision` and `token`, as for transformers' loading.
    """
    if model_name_or_path is None:
        return {"model_type": "sam"}
    try:
        content, _ = SamedConfig.get_config_dict(model_name_or_path, **options)
        SamedConfig.from_dict(dict(content), id2label={0: "background", 1: "label"})
    except OSError as error:
        raise FileNotFoundError(
            f"model_name_or_path {model_name_or_path!r} can't be loaded: expected a directory or Hub id of a plain "
            f"SAM, e.g. facebook/sam-vit-base. ({str(error).splitlines()[0]})"
        ) from error
    return content


def base_config(model: str) -> dict[str, Any]:
    """The config.json of one of `MODELS`, as far as it differs from the default."""
    return {"model_type": "sam", "vision_config": dict(MODELS[model])}


def fitting_batches(
    free: Mapping[str, float], bfloat16: Collection[str]
) -> dict[str, dict[str, dict[str, Any] | None]]:
    """The largest usual batch that fits into the `free` bytes of each device, for each model, with the fewest flags.

    Attention counts as on accelerators, an upper bound for a processor. `bfloat16`: devices that compute it natively.
    """
    largest: dict[str, dict[str, dict[str, Any] | None]] = {}
    for device, available in free.items():
        slim = _WITH_BFLOAT16 if device in bfloat16 else _ON_PROCESSOR if device == "cpu" else _WITHOUT_BFLOAT16
        largest[device] = dict.fromkeys(MODELS)
        for model in MODELS:
            for size, (flags, settings) in itertools.product(_BATCH_SIZES, (_PLAIN, slim)):
                total = estimate_training(base_config(model), replace(settings, batch_size=size)).total
                if total <= available:
                    largest[device][model] = {"batch_size": size, "flags": flags, "bytes": total}
                    break
    return largest


def suggest_base(
    base: Mapping[str, Any], alternatives: Sequence[StepSettings], available: float
) -> tuple[str, StepSettings, int] | None:
    """The largest of `SMALLER_BASES` with fewer weights than `base` whose training fits into the `available` bytes.

    If none fits, it is samed_hf/small. Returns the base's name, the first of the alternative settings with which one
    fits, and its bytes; or `None`.
    """
    published = {name: base_config(model) for name, model in SMALLER_BASES.items()}
    for models in (published, {SMALL_SAM: read_base_config(SMALL_SAM)}):
        smaller = {name: config for name, config in models.items() if _count_weights(config) < _count_weights(base)}
        for settings, name in itertools.product(alternatives, smaller):
            total = estimate_training(smaller[name], settings).total
            if total <= available:
                return name, settings, total
    return None


def _count_weights(base: Mapping[str, Any]) -> int:
    with torch.device("meta"):
        return SamedForSemanticSegmentation(SamedConfig.from_dict(dict(base))).num_parameters()


def estimate_training(base: Mapping[str, Any], settings: StepSettings) -> TrainingMemory:
    """Estimate the memory of a training step by running one on fake tensors; takes seconds, once for each settings.

    Args:
        base: content of the base model's config.json; see [`read_base_config`].
        settings: of the training.
    """
    # A separate thread: attention on a CPU keeps a buffer for each thread, which must not hold fake tensors later.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_estimate, json.dumps(base, sort_keys=True), settings).result()


def make_meta_model(base: Mapping[str, Any], settings: StepSettings) -> SamedForSemanticSegmentation:
    """Build the model and its adapter for these settings on the meta device."""
    values = {"image_size": settings.image_size, "num_labels": settings.num_labels}
    config = SamedConfig.from_dict(dict(base), channel_projection=settings.projected, **values)
    with torch.device("meta"):
        model = SamedForSemanticSegmentation(config)
        model.add_adapter(samed_lora_config(settings.rank, settings.variant, settings.lora_targets, settings.encoder))
    prepare_encoder(model, bfloat16=settings.frozen_bfloat16, checkpointing=settings.gradient_checkpointing)
    return model


@lru_cache(maxsize=256)
def _estimate(base: str, settings: StepSettings) -> TrainingMemory:
    model = make_meta_model(json.loads(base), settings)
    # PEFT keeps two copies of fully trained modules: the original and the trained one.
    parameters = list(model.parameters())
    trained = [parameter.numel() for parameter in parameters if parameter.requires_grad]
    optimizer, moments = 0, 1 if settings.optimizer == "sgd" else 2
    for count in trained:
        is_small = settings.optimizer != "adamw_8bit" or count < _SMALL
        optimizer += moments * (_FLOAT * count if is_small else count + _FLOAT * -(-count // _BLOCK))
    step = _step_bytes(model, settings)
    if settings.num_processes > 1:
        step += _FLOAT * sum(trained)  # DistributedDataParallel's buckets of gradients
    return TrainingMemory(
        parameters=sum(parameter.numel() for parameter in parameters),
        trained=sum(trained),
        weights=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        optimizer=optimizer + (_FLOAT * sum(trained) if settings.ema else 0),
        step=step,
    )


def _step_bytes(model: SamedForSemanticSegmentation, settings: StepSettings) -> int:
    """Bytes of activations and gradients at the peak of a step."""
    side, batch_size = settings.image_size, settings.batch_size
    with FakeTensorMode():
        make_fake(model)
        model.train()
        if settings.fused:
            use_fused_attention(model)
        with LiveBytes() as live:
            pixels = torch.empty(batch_size, settings.projected or 3, side, side)
            label_side = side if settings.full_loss else side // 4
            labels = torch.empty(batch_size, label_side, label_side, dtype=torch.long)
            # The CPU's autocast replaces an accelerator's: the casts differ little, and fp16 is as large as bf16.
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.mixed_precision):
                logits = model(pixels).logits
            segmentation_loss(logits.float(), labels, model.config.dice_weight).loss.backward()
    return live.peak
