"""Adapter → `.pth` of the original SAMed code."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import cast

import torch
from peft import PeftType
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper

from ..model.modeling_samed import SamedForSemanticSegmentation
from ..utils.atomic import write_bytes
from .samed import adapter_keys, load_model

__all__ = ["convert_original"]


def convert_original(
    adapter: str | os.PathLike[str], output: str | os.PathLike[str], *, base: str | os.PathLike[str] | None = None
) -> Path:
    """Convert an adapter to the `.pth` that the original SAMed code loads.

    The original code has a scaling of 1. Another scaling (`lora_alpha`, rsLoRA) is multiplied into the B matrices.
    An adapter of [`convert_samed`][samed_hf.convert.convert_samed] gives every tensor of its checkpoint bit by bit.

    Args:
        adapter: directory or Hub id.
        output: the `.pth` file to write.
        base: directory or Hub id of the base model; defaults to the one named in the adapter. Its positional matrix is
            part of the file.

    Returns:
        `output`.

    Raises:
        FileNotFoundError: the adapter or its base does not exist.
        ValueError: `adapter` is a whole model or has parts that the original code cannot express, or `output` does not
            end in `.pth`.
    """
    if Path(output).suffix not in (".pth", ".pt") or Path(output).is_dir():
        raise ValueError(
            f"output is {str(output)!r}, expected a file name that ends in .pth; the original code loads no other."
        )
    model = load_model("adapter", adapter, base_model_name_or_path=base)
    tensors = {}
    for key, name in adapter_keys(model, _check_variant(model, adapter)).items():
        tensors[key] = model.get_parameter(name).detach().cpu().contiguous().clone()
        if ".lora_B." in name:
            layer = cast(LoraLayer, model.get_submodule(name.partition(".lora_B.")[0]))
            tensors[key] *= layer.scaling["default"]
    content = io.BytesIO()
    torch.save(tensors, content)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(output, content.getvalue())
    return Path(output)


def _check_variant(model: SamedForSemanticSegmentation, adapter: str | os.PathLike[str]) -> str:
    """Return the variant of the loaded adapter.

    Raises:
        ValueError: the original code cannot express the adapter; the message lists all reasons.
    """
    if not model._hf_peft_config_loaded:
        raise ValueError(f"adapter {str(adapter)!r} is a whole model, expected the directory or Hub id of an adapter.")
    config = model.peft_config["default"]
    if config.peft_type != PeftType.LORA:
        raise ValueError(f"adapter {str(adapter)!r} has the type {config.peft_type.value}, expected LORA.")
    modules = {name.removeprefix("sam."): module for name, module in model.named_modules()}
    lora = {name: module for name, module in modules.items() if isinstance(module, LoraLayer)}
    variant = "samed_s" if any(name.startswith("mask_decoder.") for name in lora) else "samed"
    expected = {name.removeprefix("sam.") for name in adapter_keys(model, variant).values()}
    targets = {name.partition(".lora_")[0] for name in expected if ".lora_" in name}
    trained = {
        f"{name}.{parameter}"
        for name, module in modules.items()
        if isinstance(module, ModulesToSaveWrapper)
        for parameter, _ in module.modules_to_save["default"].named_parameters()
    }
    reasons = {
        "its LoRA is DoRA or another variant": any(module.lora_variant for module in lora.values()),
        "its LoRA initialisation changes the base weights": config.init_lora_weights not in (True, False, "gaussian"),
        "it trains biases": config.bias != "none" or config.lora_bias,
        "its LoRA isn't on q and v of every block": set(lora) != targets,
        "its LoRA has more than one rank": len({module.r["default"] for module in lora.values()}) > 1,
        f"it holds tensors unknown to the original ({', '.join(sorted(trained - expected))})": not trained <= expected,
    }
    found = [reason for reason, applies in reasons.items() if applies]
    if found:
        raise ValueError(
            f"adapter {str(adapter)!r} cannot be written for the original code: {'; '.join(found)}. Expected an "
            "adapter of samed_lora_config without further options."
        )
    return variant
