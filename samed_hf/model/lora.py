"""The modules that LoRA targets, those trained whole, and merging an adapter into its model."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn
from tqdm import tqdm

from ..utils.text import split_names
from .channel_projection import CHANNEL_PROJECTION
from .configuration_samed import SamedConfig

__all__ = ["ENCODERS", "LORA_TARGETS", "VARIANTS", "active_adapters", "cast_frozen", "freeze_unused", "is_unused"]
__all__ += ["merge_adapter", "prepare_encoder", "remove_adapter", "remove_wrappers", "samed_lora_config"]
__all__ += ["with_projection", "wrapped_modules"]

# Regular expressions on full module names: a bare "q_proj" would match the mask decoder too.
LORA_TARGETS = {"q": "attn.q_proj", "k": "attn.k_proj", "v": "attn.v_proj", "o": "attn.proj", "mlp": "mlp.(lin1|lin2)"}
"""Layers of the image encoder's blocks by their names in `targets` of [`samed_lora_config`]."""
ENCODERS = ("lora", "frozen", "full")
_ENCODER = r"(.*\.)?vision_encoder\.layers\.\d+\."
_DECODER = (
    r"(.*\.)?mask_decoder\.transformer\.(layers\.\d+\.)?"
    r"(self_attn|cross_attn_token_to_image|cross_attn_image_to_token|final_attn_token_to_image)\.(q_proj|v_proj)"
)
_DECODER_HEADS = ["iou_token", "mask_tokens", "upscale_conv1", "upscale_conv2", "upscale_layer_norm"]
_DECODER_HEADS += ["output_hypernetworks_mlps", "iou_prediction_head"]
# Without a prompt, only the no-mask embedding is used. The rest is saved too, since original checkpoints contain it.
# PEFT can't wrap a list of modules, so the four point embeddings are listed one by one.
_PROMPT_ENCODER = [f"prompt_encoder.{name}_embed" for name in ("no_mask", "not_a_point", "mask")]
_PROMPT_ENCODER += [f"prompt_encoder.point_embed.{index}" for index in range(4)]
_UNUSED = re.compile(r"iou_prediction_head\.|prompt_encoder\.(?!no_mask_embed\.)")

# variant: (LoRA's targets in the mask decoder, modules trained whole and saved with the adapter)
VARIANTS: dict[str, tuple[list[str], list[str]]] = {
    "samed": ([], ["mask_decoder", *_PROMPT_ENCODER]),
    "samed_s": ([_DECODER], [*(f"mask_decoder.{name}" for name in _DECODER_HEADS), *_PROMPT_ENCODER]),
}


def samed_lora_config(
    rank: int = 4,
    variant: str = "samed",
    targets: str | Sequence[str] | None = None,
    encoder: str = "lora",
    **lora_options: Any,
) -> LoraConfig:
    """The configuration of a SAMed adapter (arXiv 2304.13785, sections 3.2 and 3.3; LoRA: arXiv 2106.09685).

    LoRA `W + (lora_alpha / rank) · B A` on the q and v projections of every block of the image encoder, with scaling 1;
    the mask decoder and the no-mask prompt embedding train whole. The IoU head, which the loss doesn't use, and the
    rest of the prompt encoder are saved but never trained.

    [`add_adapter`] adds a model's channel projection; for PEFT's own `get_peft_model`, append "channel_projection" to
    `modules_to_save`.

    Args:
        rank: of the LoRA matrices, at least 1; the paper's is 4.
        variant: "samed", or "samed_s", where the mask decoder's transformer is frozen too, with LoRA on the q and v of
            its attentions.
        targets: layers of the image encoder's blocks that LoRA adapts: some of "q", "k", "v", "o" (the attention's
            output projection) and "mlp" (its two layers), as a list or "q,k"; defaults to the paper's, q and v.
        encoder: "lora"; "frozen", an image encoder without LoRA that never changes; or "full", one that trains whole
            and is saved with the adapter, which is then as large as the encoder. Without any LoRA, as with
            `variant="samed"`, `target_modules` is PEFT's placeholder for none.
        **lora_options: of [`~peft.LoraConfig`], e.g. `use_dora=True`, `use_rslora=True`, `lora_dropout=0.1`,
            `lora_alpha`.

    Raises:
        ValueError: an unknown variant, target or encoder, a rank below 1, or targets without LoRA in the encoder.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}: expected one of {', '.join(map(repr, VARIANTS))}.")
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank is {rank!r}: expected a whole number of at least 1; the paper's is 4.")
    if encoder not in ENCODERS:
        raise ValueError(f"encoder is {encoder!r}: expected one of {', '.join(map(repr, ENCODERS))}.")
    if encoder != "lora" and targets is not None:
        raise ValueError(f"targets is {targets!r} with encoder {encoder!r}: expected None, as only 'lora' has targets.")
    decoder, whole = VARIANTS[variant]
    patterns = [*([_encoder_pattern("q,v" if targets is None else targets)] if encoder == "lora" else []), *decoder]
    whole = [*whole, *(["vision_encoder"] if encoder == "full" else [])]
    options: dict[str, Any] = {"lora_alpha": rank, "target_modules": "|".join(patterns) or DUMMY_TARGET_MODULES}
    options["modules_to_save"] = whole
    return LoraConfig(r=rank, task_type=None, **({"bias": "none"} | options | lora_options))


def _encoder_pattern(targets: str | Sequence[str]) -> str:
    """A regular expression of the full names of the encoder's layers with LoRA; q and v must give the one of old."""
    layers = [LORA_TARGETS[name].split(".") for name in split_names("targets", targets, list(LORA_TARGETS))]
    attention = "|".join(layer for part, layer in layers if part == "attn")
    parts = [rf"attn\.({attention})"] if attention else []
    parts += [rf"mlp\.{layer}" for part, layer in layers if part == "mlp"]
    return _ENCODER + (parts[0] if len(parts) == 1 else f"({'|'.join(parts)})")


def with_projection(adapter_config: Any, config: SamedConfig) -> Any:
    """PEFT's config with the model's channel projection, if it has one, among the modules trained whole."""
    if config.channel_projection is None or not hasattr(adapter_config, "modules_to_save"):
        return adapter_config
    adapter_config = copy.copy(adapter_config)
    others = [name for name in adapter_config.modules_to_save or () if name != CHANNEL_PROJECTION]
    adapter_config.modules_to_save = [*others, CHANNEL_PROJECTION]
    return adapter_config


def is_unused(name: str) -> bool:
    """Whether a parameter of this name never gets a gradient: one of the IoU head or of an absent prompt."""
    return _UNUSED.search(name) is not None


def freeze_unused(model: nn.Module, inactive: Collection[str] = ()) -> None:
    """Freeze inactive adapters, the parameters that never get a gradient, and the positional matrix, SAM's constant.

    PEFT makes everything in `modules_to_save` trainable, and leaves it so when another adapter is added.
    """
    for name, parameter in model.named_parameters():
        if is_unused(name) or name.endswith("positional_embedding") or not {*name.split(".")}.isdisjoint(inactive):
            parameter.requires_grad_(False)


def cast_frozen(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert the frozen linear and convolutional weights of the image encoder to another data type, in place.

    In mixed precision of the same type the results are unchanged: the weights are not cast in every step, and use half
    the memory. Normalisations and positions keep their type.
    """
    for name, module in model.named_modules():
        inside = "vision_encoder." in name and isinstance(module, nn.Linear | nn.Conv2d)
        if inside and not any(parameter.requires_grad for parameter in module.parameters()):
            module.to(dtype)


def prepare_encoder(model: nn.Module, *, bfloat16: bool, checkpointing: bool) -> None:
    """Save memory in training: frozen weights of the encoder in bfloat16, its activations computed twice.

    Without a gradient in the encoder no activation is kept; checkpointing would only make it compute one.
    """
    if bfloat16:
        cast_frozen(model, torch.bfloat16)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if checkpointing and any("vision_encoder." in name or CHANNEL_PROJECTION in name for name in trained):
        model.activation_checkpointing_enable()  # type: ignore[operator]  # of transformers


def merge_adapter(
    model: nn.Module, adapter_names: list[str], *, safe_merge: bool = True, progressbar: bool = False
) -> None:
    """Merge adapters into the base layers, keep the modules trained whole, and remove PEFT's wrappers, in place."""
    wrapped = wrapped_modules(model)
    if not wrapped:
        raise ValueError("The model has no adapter to merge: call add_adapter or load_adapter first.")
    if len(adapter_names) != 1 and any(isinstance(module, AuxiliaryTrainingWrapper) for _, module in wrapped):
        raise ValueError(
            f"{len(adapter_names)} adapters are to be merged ({adapter_names}), but modules trained whole can't be "
            "added: call set_adapter with one name first, or give one as adapter_names."
        )
    if safe_merge:  # before anything is changed
        for name, parameter in model.named_parameters():
            if set(adapter_names) & set(name.split(".")) and not parameter.isfinite().all():
                raise ValueError(f"{name} has values that are NaN or infinite: the adapter can't be merged.")
    for name, module in tqdm(wrapped, desc="Merging", disable=not progressbar):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=safe_merge, adapter_names=adapter_names)
            _replace(model, name, module.get_base_layer())
        else:
            _replace(model, name, module.modules_to_save[adapter_names[0]])


def remove_wrappers(model: nn.Module, keep: Collection[nn.Module] = ()) -> None:
    """Replace PEFT's wrappers, except those of `keep`, by the base model's own layers, in place."""
    for name, module in wrapped_modules(model):
        if not any(module is one for one in keep):
            is_layer = isinstance(module, BaseTunerLayer)
            _replace(model, name, module.get_base_layer() if is_layer else module.original_module)


def remove_adapter(wrappers: Iterable[Any], name: str, active: list[str]) -> None:
    """Remove an adapter, which may be incomplete, from PEFT's wrappers, where `active` are to be active."""
    for module in wrappers:
        # PEFT removes it only where an adapter is active.
        if isinstance(module, BaseTunerLayer):
            module.set_adapter(active)
            module.delete_adapter(name)
        elif set(active) <= module._adapters:
            module.set_adapter(active)
            module.delete_adapter(name, new_active_adapters=active)


def active_adapters(model: nn.Module) -> list[str]:
    """The names of the active adapters; transformers' own function needs a layer with LoRA."""
    modules = [module for _, module in wrapped_modules(model)]
    names = next((one for one in modules if isinstance(one, BaseTunerLayer)), modules[0]).active_adapter
    return [names] if isinstance(names, str) else list(names)


def wrapped_modules(model: nn.Module) -> list[tuple[str, Any]]:
    """PEFT's wrappers in a model and their names."""
    wrappers = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    return [(name, module) for name, module in model.named_modules() if isinstance(module, wrappers)]


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
