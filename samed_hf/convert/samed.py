"""SAMed or SAMed_s `.pth` → adapter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..data.layouts.synapse import SYNAPSE_LABELS
from ..model.image_processing_samed import SamedImageProcessor
from ..model.lora import samed_lora_config
from ..model.modeling_samed import SamedForSemanticSegmentation
from .checkpoint import check_output_dir, check_tensors, count_decoder, is_samed, most_common, read_checkpoint
from .keys import LORA_PREFIXES, POSITIONAL_MATRIX, samed_keys

__all__ = ["adapter_keys", "convert_samed", "load_model"]


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
    """Convert a checkpoint of the original SAMed or SAMed_s to an adapter directory.

    Variant, rank and number of labels are read from the checkpoint.

    Args:
        checkpoint: the `.pth` file.
        base: directory or Hub id of the SAM on which it was trained, as written by
            [`convert_sam`][samed_hf.convert.convert_sam].
        output_dir: directory for the adapter; created if missing.
        image_size: side of the model's input at training in pixels. The checkpoint does not contain it.
        labels: names of the organs 1, 2, …, without the background. Defaults to the names of Synapse if there are
            eight, otherwise to "class_1", ….
        input_size: side of the training slices in pixels, for the image processor; `None` if they were not resized
            before.
        orientation: axis directions of the volumes from which the training slices were cut, e.g. "LPS"; volumes are
            reoriented to it. The checkpoint does not contain it. `None` cuts volumes as they are stored.

    Returns:
        `output_dir`.

    Raises:
        FileNotFoundError: the checkpoint or the base does not exist.
        ValueError: the file is not a checkpoint or holds pickled code; tensors are missing, unknown or of another shape
            (the message names each of them); the checkpoint was trained on another base; or the number of labels
            differs.
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
    model = load_model("base", source, image_size=image_size, id2label=id2label)
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
    parameters = {key: model.get_parameter(name) for key, name in adapter_keys(model, variant).items()}
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


def adapter_keys(model: SamedForSemanticSegmentation, variant: str) -> dict[str, str]:
    """Return original name → parameter name for every tensor of the model's SAMed checkpoint; see [`samed_keys`]."""
    decoder = model.config.mask_decoder_config
    return samed_keys(
        variant,
        depth=model.config.vision_config.num_hidden_layers,
        decoder_layers=decoder.num_hidden_layers,
        num_masks=model.config.num_labels,
        iou_depth=decoder.iou_head_depth,
    )


def load_model(argument: str, source: str | os.PathLike[str], **options: Any) -> SamedForSemanticSegmentation:
    """Load a model in float32.

    Raises:
        FileNotFoundError: `source` is neither a directory nor on the Hub; the message names `argument`.
    """
    try:
        return SamedForSemanticSegmentation.from_pretrained(source, dtype=torch.float32, **options)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileNotFoundError(
            f"{argument} is {str(source)!r}, neither a directory nor on the Hub. ({str(error).splitlines()[0]})"
        ) from error
