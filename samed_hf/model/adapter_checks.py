"""Whether an adapter fits a model; checked before the model is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from .configuration_samed import SamedConfig

if TYPE_CHECKING:
    from .adapter_files import LoadedAdapter

__all__ = ["check_device_map", "check_fits", "check_not_offloaded", "check_same_base"]

_AUTOMATIC = (None, "auto", "balanced", "balanced_low_0", "sequential")
# Settings of SAM's sub-configs that determine the shapes and the structure of its layers.
_STRUCTURE = frozenset(
    {"hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "output_channels", "window_size"}
    | {"global_attn_indexes", "mlp_dim", "attention_downsample_rate"}
)


def check_fits(
    adapter: LoadedAdapter, name: str, config: SamedConfig, present: dict[str, Any], model: nn.Module
) -> None:
    """Raise a `ValueError` if an adapter can't work in a model with this config and the adapters `present`."""
    source, own = adapter.source, adapter.config
    check_same_base(config, own, "the model's", source)
    if own.image_size != config.image_size:
        raise ValueError(
            f"The adapter {source!r} was trained at {own.image_size} pixels, the model is built for "
            f"{config.image_size}: load it by from_pretrained into a model of its own."
        )
    if own.channel_projection != config.channel_projection:
        raise ValueError(
            f"The adapter {source!r} has the channel_projection {own.channel_projection}, the model "
            f"{config.channel_projection}: load it by from_pretrained into a model of its own, or load the base model "
            f"by from_pretrained with channel_projection={own.channel_projection}."
        )
    if name in present:
        raise ValueError(f"adapter_name {name!r} is in use; the model has {', '.join(present)}: give another name.")
    for other, peft_config in present.items():
        if set(peft_config.modules_to_save or ()) != set(adapter.peft_config.modules_to_save or ()):
            raise ValueError(
                f"The adapter {source!r} is of another variant (samed, samed_s) than {other!r}, or one of them trains "
                "the whole image encoder: load it by from_pretrained into a model of its own."
            )
    if adapter.num_labels not in (None, own.num_labels):
        raise ValueError(
            f"The adapter {source!r} predicts {adapter.num_labels} labels, but its config.json, or the "
            f"id2label or num_labels given, has {own.num_labels}: expected as many."
        )
    check_not_offloaded(model)


def check_not_offloaded(model: nn.Module) -> None:
    """Raise a `ValueError` if weights are offloaded: PEFT would put an adapter's on the meta device too."""
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError(
            "A model that device_map offloads to the CPU or the disk takes no adapter: load both without device_map, "
            "call merge_and_unload and save_pretrained, and load what was saved with device_map."
        )


def check_same_base(base_config: SamedConfig, config: SamedConfig, base: str, adapter: str) -> None:
    """Raise a `ValueError` with the differences if the adapter was trained on a base model with other layers."""
    differences = [
        f"{part}.{key} {theirs[key]} instead of {value}"
        for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
        if (theirs := getattr(base_config, part).to_dict())
        for key, value in getattr(config, part).to_dict().items()
        if key in _STRUCTURE and theirs.get(key) != value
    ]
    if differences:
        raise ValueError(f"The base model {base!r} isn't the one of the adapter {adapter!r}: {', '.join(differences)}.")


def check_device_map(device_map: Any, model: nn.Module) -> None:
    """Raise a `ValueError` if `device_map`, as of PEFT, has devices where the model is not."""
    known = {parameter.device.type for parameter in model.parameters()} | {"disk"}
    wanted = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    for device in wanted:
        # A number is that of an accelerator.
        is_there = known - {"cpu", "disk"} if isinstance(device, int) else str(device).partition(":")[0] in known
        if device not in _AUTOMATIC and not is_there:
            raise ValueError(
                f"device_map asks for {device!r}, but the model is on {', '.join(sorted(known - {'disk'}))}: an "
                "adapter is where the layers that it adapts are. Give device_map to from_pretrained, or move the "
                "model with to()."
            )
