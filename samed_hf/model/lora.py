"""The modules that LoRA targets, those trained whole, and merging an adapter into its model."""

from __future__ import annotations

import re
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

__all__ = ["VARIANTS", "cast_frozen", "freeze_unused", "is_unused", "merge_adapter", "samed_lora_config"]

# Regular expressions on full module names: a bare "q_proj" would match the mask decoder too.
_ENCODER = r"(.*\.)?vision_encoder\.layers\.\d+\.attn\.(q_proj|v_proj)"
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

# variant: (LoRA's targets, modules trained whole and saved with the adapter)
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "samed": (_ENCODER, ["mask_decoder", *_PROMPT_ENCODER]),
    "samed_s": (f"{_ENCODER}|{_DECODER}", [*(f"mask_decoder.{name}" for name in _DECODER_HEADS), *_PROMPT_ENCODER]),
}


def samed_lora_config(rank: int = 4, variant: str = "samed", **lora_options: Any) -> LoraConfig:
    """The configuration of a SAMed adapter (arXiv 2304.13785, sections 3.2 and 3.3; LoRA: arXiv 2106.09685).

    LoRA `W + (lora_alpha / rank) · B A` on the q and v projections of every block of the image encoder, with scaling 1;
    the mask decoder and the no-mask prompt embedding train whole. The IoU head, which the loss doesn't use, and the
    rest of the prompt encoder are saved but never trained.

    Args:
        rank: of the LoRA matrices, at least 1; the paper's is 4.
        variant: "samed", or "samed_s", where the mask decoder's transformer is frozen too, with LoRA on the q and v of
            its attentions.
        **lora_options: of [`~peft.LoraConfig`], e.g. `use_dora=True`, `use_rslora=True`, `lora_dropout=0.1`,
            `lora_alpha`.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}: expected one of {', '.join(map(repr, VARIANTS))}.")
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank is {rank!r}: expected a whole number of at least 1; the paper's is 4.")
    targets, whole = VARIANTS[variant]
    options: dict[str, Any] = {"lora_alpha": rank, "target_modules": targets, "modules_to_save": list(whole)}
    return LoraConfig(r=rank, task_type=None, **({"bias": "none"} | options | lora_options))


def is_unused(name: str) -> bool:
    """Whether a parameter of this name never gets a gradient: one of the IoU head or of an absent prompt."""
    return _UNUSED.search(name) is not None


def freeze_unused(model: nn.Module) -> None:
    """Freeze the parameters that never get a gradient, and the positional matrix, which is a constant of SAM.

    PEFT makes everything in `modules_to_save` trainable.
    """
    for name, parameter in model.named_parameters():
        if is_unused(name) or name.endswith("positional_embedding"):
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


def merge_adapter(model: nn.Module) -> None:
    """Merge the one active adapter of every layer into its base layer and remove PEFT's wrappers, in place."""
    wrappers = (BaseTunerLayer, ModulesToSaveWrapper)
    wrapped = [(name, module) for name, module in model.named_modules() if isinstance(module, wrappers)]
    if not wrapped:
        raise ValueError("The model has no adapter to merge: call add_adapter or load_adapter first.")
    for name, module in wrapped:
        parent_name, _, child = name.rpartition(".")
        parent, active = model.get_submodule(parent_name), module.active_adapters
        if len(active) != 1:
            raise ValueError(f"{len(active)} adapters are active ({active}): call set_adapter with one name first.")
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            setattr(parent, child, module.get_base_layer())
        else:
            setattr(parent, child, module.modules_to_save[active[0]])
