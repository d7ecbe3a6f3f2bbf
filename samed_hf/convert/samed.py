"""Checkpoints of the original code and of this package, converted both ways.

Segment Anything or MedSAM `.pth` → `SamModel` folder, SAMed or SAMed_s `.pth` → adapter, adapter → SAMed `.pth`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftType
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from transformers import SamModel

from ..data.layouts.synapse import SYNAPSE_LABELS
from ..model.image_processing_samed import SamedImageProcessor
from ..model.lora import samed_lora_config
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..utils.atomic import atomic_update, write_bytes
from .checkpoint import check_tensors, count_decoder, is_samed, most_common, read_checkpoint, read_sam_geometry
from .keys import LORA_PREFIXES, POSITIONAL_MATRIX, samed_keys

__all__ = ["convert_original", "convert_sam", "convert_samed"]

_Path = str | os.PathLike


def convert_sam(
    checkpoint: _Path,
    output_dir: _Path,
    *,
    decoder_heads: int = 8,
    global_attn_indexes: Sequence[int] | None = None,
) -> Path:
    """Convert an original Segment Anything or MedSAM checkpoint to a folder that `SamModel.from_pretrained` loads.

    The sizes are read from the tensors. A block whose relative position tables have the length of the whole image's
    grid attends globally, the others in windows.

    Args:
        checkpoint: the `.pth` file.
        output_dir: folder for `config.json` and `model.safetensors`, made where it is missing.
        decoder_heads: number of heads of the mask decoder's attentions, which leaves no trace in the tensors.
        global_attn_indexes: the image encoder's blocks with global attention. Needed only where the window is as large
            as the grid (224 pixels with windows of 14), since all tables have one length then.

    Returns:
        `output_dir`.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: the file is no checkpoint or holds pickled code; tensors are missing, unknown or misshapen, each
            named; or an option doesn't fit.
    """
    folder = _output_folder(output_dir, other_kind="adapter_config.json")
    tensors = read_checkpoint(checkpoint)
    if not any(key.startswith("image_encoder.") for key in tensors):
        kind = "a SAMed checkpoint, which convert_samed converts" if is_samed(tensors) else "of another model"
        raise ValueError(f"checkpoint {str(checkpoint)!r} holds no image_encoder tensor: it seems to be {kind}.")
    names, config = read_sam_geometry(checkpoint, tensors, decoder_heads, global_attn_indexes)
    with torch.device("meta"):
        model = SamModel(config)
    check_tensors(checkpoint, tensors, {key: tuple(model.get_parameter(name).shape) for key, name in names.items()})
    # Each tensor gets memory of its own: safetensors refuses views.
    state = {name: tensors.pop(key).float().clone(memory_format=torch.contiguous_format) for key, name in names.items()}
    state["prompt_encoder.shared_embedding.positional_embedding"] = state[names[POSITIONAL_MATRIX]]
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    with atomic_update(folder) as temporary:
        model.save_pretrained(temporary)
    return Path(output_dir)


def convert_samed(
    checkpoint: _Path,
    base: _Path,
    output_dir: _Path,
    *,
    image_size: int = 512,
    labels: Sequence[str] | None = None,
    input_size: int | None = 224,
    orientation: str | None = None,
) -> Path:
    """Convert a checkpoint of the original SAMed or SAMed_s to an adapter folder.

    Variant, rank and number of labels are read from the checkpoint.

    Args:
        checkpoint: the `.pth` file.
        base: folder or Hub id of the SAM that it was trained on, as [`convert_sam`] writes it.
        output_dir: folder for the adapter, made where it is missing.
        image_size: side of the model's input in pixels at training, which leaves no trace in the checkpoint.
        labels: names of the organs 1, 2, …, without the background. Defaults to those of Synapse where there are eight
            and to "class_1", … otherwise.
        input_size: side of the slices it was trained on in pixels, for the image processor; `None` for no such step.
        orientation: where the axes of the scans ran to from which those slices were cut, e.g. "LPS", so that scans are
            brought into it. It leaves no trace in the checkpoint; `None`: scans are cut as they lie.

    Returns:
        `output_dir`.

    Raises:
        FileNotFoundError: no such checkpoint, or no such base.
        ValueError: the file is no checkpoint or holds pickled code; tensors are missing, unknown or misshapen, each
            named; the base is another than that of the checkpoint; or the number of labels differs.
    """
    folder = _output_folder(output_dir, other_kind="model*.safetensors")
    if Path(base).is_file():
        raise ValueError(f"base is the file {str(base)!r}: expected a folder or Hub id; convert_sam makes the folder.")
    tensors = read_checkpoint(checkpoint)
    if not is_samed(tensors):
        whole = any(key.startswith("image_encoder.") for key in tensors)
        kind = "a whole SAM, which convert_sam converts" if whole else "of another model"
        raise ValueError(f"checkpoint {str(checkpoint)!r} holds no LoRA tensor w_a_000, …: it seems to be {kind}.")
    decoder_lora = tuple(f"{prefix}_" for prefix in (*LORA_PREFIXES, "fati"))
    variant = "samed_s" if any(key.startswith(decoder_lora) for key in tensors) else "samed"
    rank = most_common(t.shape[0] for key, t in tensors.items() if key.startswith("w_a_") and t.ndim)
    counts = count_decoder(tensors)
    id2label = {0: "background"} | dict(enumerate(_organs(labels, counts["num_masks"] - 1), start=1))
    processor = SamedImageProcessor(image_size=image_size, input_size=input_size, orientation=orientation)

    # An absolute path keeps working wherever the adapter is loaded from.
    place = str(Path(base).resolve()) if Path(base).is_dir() else str(base)
    model = _load("base", place, image_size=image_size, id2label=id2label)
    if model._hf_peft_config_loaded:
        raise ValueError(f"base is the adapter {str(base)!r}: expected the plain SAM that it was trained on.")
    model.add_adapter(samed_lora_config(rank, variant))
    names = samed_keys(variant, **_counts_of(model))
    hint = f" Is {str(base)!r} the SAM it was trained on?"
    check_tensors(
        checkpoint, tensors, {key: tuple(model.get_parameter(name).shape) for key, name in names.items()}, hint
    )
    if not torch.equal(tensors[POSITIONAL_MATRIX].float(), model.get_parameter(names[POSITIONAL_MATRIX])):
        raise ValueError(
            f"base is {str(base)!r}, but {str(checkpoint)!r} was trained on another SAM: their {POSITIONAL_MATRIX} "
            "differ. Give the SAM that it was trained on (ViT-B, L and H each have their own)."
        )
    with torch.no_grad():
        for key, name in names.items():
            model.get_parameter(name).copy_(tensors[key])
    model.save_pretrained(folder, image_processor=processor)
    return Path(output_dir)


def convert_original(adapter: _Path, output: _Path, *, base: _Path | None = None) -> Path:
    """Convert an adapter to the `.pth` that the original SAMed code loads.

    A scaling (`lora_alpha`, rsLoRA) other than 1, which the original code doesn't know, is multiplied into the B
    matrices. The adapter made by [`convert_samed`] gives every tensor of its checkpoint back bit by bit.

    Args:
        adapter: folder or Hub id.
        output: the `.pth` file to write.
        base: the base model, where it isn't where the adapter says. Its positional matrix is part of the file.

    Returns:
        `output`.

    Raises:
        FileNotFoundError: no such adapter, or its base can't be found.
        ValueError: no adapter, one that the original code can't express, or an `output` not called `.pth`.
    """
    if Path(output).suffix not in (".pth", ".pt") or Path(output).is_dir():
        raise ValueError(
            f"output is {str(output)!r}: expected a file name that ends in .pth; the original loads no other."
        )
    model = _load("adapter", adapter, base_model_name_or_path=base)
    variant = _variant_of(model, adapter)
    tensors = {}
    for key, name in samed_keys(variant, **_counts_of(model)).items():
        tensors[key] = model.get_parameter(name).detach().cpu().contiguous().clone()
        if ".lora_B." in name:
            tensors[key] *= model.get_submodule(name.partition(".lora_B.")[0]).scaling["default"]
    content = io.BytesIO()
    torch.save(tensors, content)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(output, content.getvalue())
    return Path(output)


def _counts_of(model: SamedForSemanticSegmentation) -> dict[str, int]:
    decoder = model.config.mask_decoder_config
    return {
        "depth": model.config.vision_config.num_hidden_layers,
        "decoder_layers": decoder.num_hidden_layers,
        "num_masks": model.config.num_labels,
        "iou_depth": decoder.iou_head_depth,
    }


def _organs(labels: Sequence[str] | None, count: int) -> list[str]:
    if labels is None:
        # SAMed's released checkpoints are of Synapse's eight organs.
        synapse = [name for label, name in sorted(SYNAPSE_LABELS.items()) if label]
        return synapse if count == len(synapse) else [f"class_{label}" for label in range(1, count + 1)]
    if isinstance(labels, str) or len(labels) != count:
        raise ValueError(
            f"labels is {labels!r}: expected a list of {count} names, one for each organ of the checkpoint, without "
            "the background."
        )
    return list(labels)


def _load(argument: str, place: _Path, **options: Any) -> SamedForSemanticSegmentation:
    try:
        return SamedForSemanticSegmentation.from_pretrained(place, dtype=torch.float32, **options)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileNotFoundError(
            f"{argument} is {str(place)!r}, which can't be found as a folder or on the Hub. "
            f"({str(error).splitlines()[0]})"
        ) from error


def _variant_of(model: SamedForSemanticSegmentation, adapter: _Path) -> str:
    """The variant of the loaded adapter. One that the original code can't express is refused with all reasons."""
    if not model._hf_peft_config_loaded:
        raise ValueError(f"adapter {str(adapter)!r} is a whole model: expected the folder or Hub id of an adapter.")
    config = model.peft_config["default"]
    if config.peft_type != PeftType.LORA:
        raise ValueError(
            f"adapter {str(adapter)!r} is of the type {config.peft_type.value}: the original has LoRA only."
        )
    modules = {name.removeprefix("sam."): module for name, module in model.named_modules()}
    lora = {name: module for name, module in modules.items() if isinstance(module, LoraLayer)}
    variant = "samed_s" if any(name.startswith("mask_decoder.") for name in lora) else "samed"
    keys = {name.removeprefix("sam.") for name in samed_keys(variant, **_counts_of(model)).values()}
    targets = {name.partition(".lora_")[0] for name in keys if ".lora_" in name}
    whole = {
        f"{name}.{leaf}"
        for name, module in modules.items()
        if isinstance(module, ModulesToSaveWrapper)
        for leaf, _ in module.modules_to_save["default"].named_parameters()
    }
    reasons = {
        "its LoRA isn't the plain one (but DoRA or another)": any(module.lora_variant for module in lora.values()),
        "its LoRA changes the base's weights at the start": config.init_lora_weights not in (True, False, "gaussian"),
        "it trains biases": config.bias != "none" or config.lora_bias,
        "its LoRA isn't on q and v of every block": set(lora) != targets,
        "its LoRA has more than one rank": len({module.r["default"] for module in lora.values()}) > 1,
        f"it holds tensors unknown to the original ({', '.join(sorted(whole - keys))})": not whole <= keys,
    }
    found = [reason for reason, applies in reasons.items() if applies]
    if found:
        raise ValueError(
            f"adapter {str(adapter)!r} can't be written for the original code: {'; '.join(found)}. It knows what "
            "samed_lora_config makes without further options."
        )
    return variant


def _output_folder(output_dir: _Path, other_kind: str) -> Path:
    folder = Path(output_dir).resolve()
    if folder.is_file():
        raise ValueError(f"output_dir is the file {str(output_dir)!r}: expected a folder.")
    others = [file.name for file in folder.glob(other_kind)]
    if others:
        raise ValueError(
            f"output_dir {str(output_dir)!r} holds a model of another kind ({others[0]}): expected a folder of its own."
        )
    return folder
