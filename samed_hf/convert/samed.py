"""SAMed or SAMed_s `.pth` → adapter, and back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftType
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper

from ..data.layouts.synapse import SYNAPSE_LABELS
from ..model.image_processing_samed import SamedImageProcessor
from ..model.lora import samed_lora_config
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..utils.atomic import atomic_file
from ..utils.text import name_some
from .checkpoint import check_output_dir, check_tensors, count_decoder, is_samed, most_common, read_checkpoint
from .keys import LORA_PREFIXES, POSITIONAL_MATRIX, samed_keys

__all__ = ["convert_original", "convert_samed"]


def convert_samed(
    checkpoint: str | os.PathLike[str],
    base: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    image_size: int = 512,
    labels: Sequence[str] | None = None,
    input_size: int | None = 224,
    orientation: str | None = None,
) -> Path:
    """Convert a checkpoint of the original SAMed or SAMed_s to an adapter directory, and return it.

    Variant, rank and number of labels are read from the checkpoint.

    Args:
        checkpoint: the `.pth` file.
        base: directory or Hub id of the SAM that it was trained on, from [`convert_sam`][samed_hf.convert.convert_sam].
        output_dir: directory for the adapter; created if missing.
        image_size: side of the model's input at training in pixels, which the checkpoint does not contain.
        labels: names of the organs 1, 2, …, without the background; defaults to Synapse's for eight organs, otherwise
            to "class_1", ….
        input_size: side of the training slices in pixels, for the image processor; `None` if they were not resized.
        orientation: of the volumes from which the training slices were cut, e.g. "LPS", which the checkpoint does not
            contain; volumes are reoriented to it. `None` cuts them as they are stored.

    Raises:
        ValueError: the file is no checkpoint or holds pickled code; tensors are missing, unknown or of another shape
            (the message names each of them); the base is another one; or the number of labels differs.
    """
    directory = check_output_dir(output_dir, conflicting="model*.safetensors")
    if Path(base).is_file():
        raise ValueError(
            f"base is the file {str(base)!r}, expected a directory or Hub id; run convert_sam on it first."
        )
    tensors = read_checkpoint(checkpoint)
    if not is_samed(tensors):
        whole = any(key.startswith("image_encoder.") for key in tensors)
        kind = "a whole SAM, use convert_sam" if whole else "the checkpoint of another model"
        raise ValueError(f"checkpoint {str(checkpoint)!r} holds no LoRA tensor w_a_000, …: it seems to be {kind}.")
    organs = _organ_names(labels, count_decoder(tensors)["num_masks"] - 1)
    id2label = {0: "background"} | dict(enumerate(organs, start=1))
    processor = SamedImageProcessor(image_size=image_size, input_size=input_size, orientation=orientation)

    # An absolute path is valid from wherever the adapter is loaded.
    source = Path(base).resolve() if Path(base).is_dir() else base
    model = _load_model("base", source, image_size=image_size, id2label=id2label)
    if model._hf_peft_config_loaded:
        raise ValueError(f"base is the adapter {str(base)!r}, expected the plain SAM on which it was trained.")
    _load_tensors(model, tensors, checkpoint, base)
    model.save_pretrained(directory, image_processor=processor)
    return Path(output_dir)


def _load_tensors(
    model: SamedForSemanticSegmentation,
    tensors: dict[str, torch.Tensor],
    checkpoint: str | os.PathLike[str],
    base: str | os.PathLike[str],
) -> None:
    """Add the adapter of the checkpoint's variant and rank to a plain model and fill it with the tensors."""
    decoder_lora = tuple(f"{prefix}_" for prefix in (*LORA_PREFIXES, "fati"))
    variant = "samed_s" if any(key.startswith(decoder_lora) for key in tensors) else "samed"
    rank = most_common(t.shape[0] for key, t in tensors.items() if key.startswith("w_a_") and t.ndim)
    model.add_adapter(samed_lora_config(rank, variant))
    parameters = {key: model.get_parameter(name) for key, name in _adapter_keys(model, variant).items()}
    hint = f" Was it trained on {str(base)!r}?"
    check_tensors(checkpoint, tensors, {key: tuple(parameter.shape) for key, parameter in parameters.items()}, hint)
    if not torch.equal(tensors[POSITIONAL_MATRIX].float(), parameters[POSITIONAL_MATRIX]):
        raise ValueError(
            f"base is {str(base)!r}, but {str(checkpoint)!r} was trained on another SAM: their {POSITIONAL_MATRIX} "
            "differ. Give the SAM on which it was trained (ViT-B, ViT-L and ViT-H have different ones)."
        )
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(tensors[key])


def _organ_names(labels: Sequence[str] | None, count: int) -> list[str]:
    if labels is None:
        # SAMed's released checkpoints have Synapse's eight organs.
        synapse = [name for label, name in sorted(SYNAPSE_LABELS.items()) if label]
        return synapse if count == len(synapse) else [f"class_{label}" for label in range(1, count + 1)]
    if isinstance(labels, str) or len(labels) != count:
        raise ValueError(
            f"labels is {labels!r}, expected a list of {count} names, one for each organ of the checkpoint, without "
            "the background."
        )
    return list(labels)


def convert_original(
    adapter: str | os.PathLike[str], output: str | os.PathLike[str], *, base: str | os.PathLike[str] | None = None
) -> Path:
    """Convert an adapter to the `.pth` that the original SAMed code loads, and return its path.

    The original code has a scaling of 1. Another scaling (`lora_alpha`, rsLoRA) is multiplied into the B matrices.
    An adapter of [`convert_samed`][samed_hf.convert.convert_samed] gives every tensor of its checkpoint bit by bit.

    Args:
        adapter: directory or Hub id.
        output: the `.pth` file to write.
        base: directory or Hub id of the base model, whose positional matrix is part of the file; defaults to the one
            named in the adapter.

    Raises:
        ValueError: the original code cannot express the adapter, or `output` does not end in `.pth`.
    """
    if Path(output).suffix not in (".pth", ".pt") or Path(output).is_dir():
        raise ValueError(
            f"output is {str(output)!r}, expected a file name that ends in .pth; the original code loads no other."
        )
    model = _load_model("adapter", adapter, base_model_name_or_path=base)
    tensors = {}
    for key, name in _adapter_keys(model, _check_variant(model, adapter)).items():
        tensors[key] = model.get_parameter(name).detach().cpu().contiguous().clone()
        if ".lora_B." in name:
            layer = cast(LoraLayer, model.get_submodule(name.partition(".lora_B.")[0]))
            tensors[key] *= layer.scaling["default"]
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as temporary, temporary.open("wb") as file:
        torch.save(tensors, file)
    return Path(output)


def _check_variant(model: SamedForSemanticSegmentation, adapter: str | os.PathLike[str]) -> str:
    """The variant of the loaded adapter; all reasons why the original code cannot express it are one `ValueError`."""
    if not model._hf_peft_config_loaded:
        raise ValueError(f"adapter {str(adapter)!r} is a whole model, expected the directory or Hub id of an adapter.")
    config = model.peft_config["default"]
    if config.peft_type != PeftType.LORA:
        raise ValueError(f"adapter {str(adapter)!r} has the type {config.peft_type.value}, expected LORA.")
    modules = {name.removeprefix("sam."): module for name, module in model.named_modules()}
    lora = {name: module for name, module in modules.items() if isinstance(module, LoraLayer)}
    variant = "samed_s" if any(name.startswith("mask_decoder.") for name in lora) else "samed"
    expected = {name.removeprefix("sam.") for name in _adapter_keys(model, variant).values()}
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
        f"it holds tensors unknown to the original ({name_some(sorted(trained - expected))})": not trained <= expected,
    }
    if found := [reason for reason, applies in reasons.items() if applies]:
        raise ValueError(
            f"adapter {str(adapter)!r} cannot be written for the original code: {'; '.join(found)}. Expected an "
            "adapter of samed_lora_config(rank, variant) without further options."
        )
    return variant


def _adapter_keys(model: SamedForSemanticSegmentation, variant: str) -> dict[str, str]:
    """Original name → parameter for every tensor of the model's SAMed checkpoint; see [`samed_keys`]."""
    decoder = model.config.mask_decoder_config
    return samed_keys(
        variant,
        depth=model.config.vision_config.num_hidden_layers,
        decoder_layers=decoder.num_hidden_layers,
        num_masks=model.config.num_labels,
        iou_depth=decoder.iou_head_depth,
    )


def _load_model(argument: str, source: str | os.PathLike[str], **options: Any) -> SamedForSemanticSegmentation:
    """Load a model in float32, with a `FileNotFoundError` that names `argument` if there is none."""
    try:
        return SamedForSemanticSegmentation.from_pretrained(source, dtype=torch.float32, **options)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileNotFoundError(
            f"{argument} is {str(source)!r}, neither a directory nor on the Hub. ({str(error).splitlines()[0]})"
        ) from error
