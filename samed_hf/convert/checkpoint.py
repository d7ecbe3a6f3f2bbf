"""Reading and checking checkpoints of the original code."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["check_output_dir", "check_tensors", "count_decoder", "count_indexes", "is_samed", "most_common"]
__all__ += ["read_checkpoint"]


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read the floating-point tensors of a `.pth` by name, without executing anything in it.

    A surrounding `{"model": …}` or `{"state_dict": …}` and the prefix "module." of every name are removed.
    """
    if Path(path).is_dir() or not Path(path).exists():
        raise FileNotFoundError(f"checkpoint {str(path)!r}: this .pth file does not exist.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the errors below cover torch's remarks
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"checkpoint {str(path)!r} cannot be read: it {_why_unreadable(path, error)}.") from error
    for wrapping in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapping), Mapping):
            content = content[wrapping]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"checkpoint {str(path)!r} holds a {type(content).__name__}, expected tensors by name.")
    if others := [str(key) for key, value in content.items() if not (isinstance(key, str) and _is_weight(value))]:
        raise ValueError(
            f"checkpoint {str(path)!r} holds entries other than floating-point tensors: {', '.join(others)}."
        )
    prefix = "module." if all(key.startswith("module.") for key in content) else ""
    tensors = {key[len(prefix) :]: tensor.detach() for key, tensor in content.items()}
    # Some versions saved these constants of the preprocessing too.
    return {key: tensor for key, tensor in tensors.items() if key not in ("pixel_mean", "pixel_std")}


def _why_unreadable(path: str | os.PathLike[str], error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "is not readable; change its permissions"
    if isinstance(error, pickle.UnpicklingError):
        refused = re.search(r"GLOBAL (\S+)", str(error))
        with open(path, "rb") as file:
            is_pickle = file.read(1) == pickle.PROTO
        if refused or is_pickle:
            name = f" ({refused[1]})" if refused else ""
            return f"holds pickled code or objects{name}, which is not loaded for safety; save its state_dict alone"
    return "is truncated or not a PyTorch checkpoint; download or copy it again"


def _is_weight(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.is_floating_point()


def check_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[int, ...] | str | None],
    hint: str = "",
) -> None:
    """Raise a `ValueError` that names the missing and unknown tensors and those of another shape.

    In `shapes`, by name, `None` accepts any shape, and a string says what is expected of a shape that is wrong.
    """
    missing = [key for key in shapes if key not in tensors]
    unknown = [key for key in tensors if key not in shapes]
    misshapen = [
        f"{key} is {tuple(tensors[key].shape)} instead of {shape}"
        for key, shape in shapes.items()
        if key in tensors and shape is not None and tuple(tensors[key].shape) != shape
    ]
    problems = {"missing": missing, "unknown": unknown, "misshapen": misshapen}
    if found := [f"{len(keys)} {problem}: {', '.join(keys)}" for problem, keys in problems.items() if keys]:
        raise ValueError(f"checkpoint {str(path)!r} does not fit; tensors {'; '.join(found)}.{hint}")


def is_samed(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether the tensors include a LoRA matrix of SAMed's image encoder."""
    return any(re.fullmatch(r"w_[ab]_\d+", key) for key in tensors)


def count_indexes(tensors: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Count the different indexes that follow a prefix such as "image_encoder.blocks." in the names."""
    return len({key[len(prefix) :].split(".")[0] for key in tensors if key.startswith(prefix)})


def most_common(values: Iterable[int], default: int = 1) -> int:
    """The size on which most tensors agree, at least 1; [`check_tensors`] then reports the other tensors."""
    counted = Counter(values).most_common(1)
    return max(1, counted[0][0]) if counted else default


def count_decoder(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The sizes `decoder_layers`, `num_masks` and `iou_depth` of the mask decoder; see [`sam_keys`]."""
    iou_depth = max(2, count_indexes(tensors, "mask_decoder.iou_prediction_head.layers."))
    last = f"mask_decoder.iou_prediction_head.layers.{iou_depth - 1}"
    rows = [f"{last}.weight", f"{last}.bias", "mask_decoder.mask_tokens.weight"]
    masks = [tensors[key].shape[0] for key in rows if key in tensors and tensors[key].ndim]
    return {
        "decoder_layers": count_indexes(tensors, "mask_decoder.transformer.layers."),
        "num_masks": most_common([*masks, count_indexes(tensors, "mask_decoder.output_hypernetworks_mlps.")]),
        "iou_depth": iou_depth,
    }


def check_output_dir(output_dir: str | os.PathLike[str], conflicting: str) -> Path:
    """The absolute path of a directory without files that match `conflicting`, the pattern of another kind of model."""
    directory = Path(output_dir).resolve()
    if directory.is_file():
        raise ValueError(f"output_dir is the file {str(output_dir)!r}, expected a directory.")
    if found := next(directory.glob(conflicting), None):
        raise ValueError(
            f"output_dir {str(output_dir)!r} holds a model of another kind ({found.name}), expected another directory."
        )
    return directory
