"""Reading Segment Anything's and SAMed's own checkpoints: their tensors, and the sizes that these tell."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import SamConfig

from .keys import sam_keys

__all__ = ["check_tensors", "count_decoder", "is_samed", "most_common", "read_checkpoint", "read_sam_geometry"]

_Tensors = dict[str, torch.Tensor]


def read_checkpoint(path: str | os.PathLike) -> _Tensors:
    """The tensors of a `.pth` by name, without the wrappings {"model": …} and "module."."""
    if Path(path).is_dir() or not Path(path).exists():
        raise FileNotFoundError(f"checkpoint {str(path)!r}: expected a .pth file, and there is none of this name.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch remarks about such files is said below
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"checkpoint {str(path)!r} can't be read: it {_why_unreadable(path, error)}.") from error
    for wrapping in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapping), Mapping):
            content = content[wrapping]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"checkpoint {str(path)!r} holds a {type(content).__name__}: expected named tensors.")
    others = [str(key) for key, value in content.items() if not (isinstance(key, str) and _is_weight(value))]
    if others:
        raise ValueError(
            f"checkpoint {str(path)!r} holds entries that are no floating-point tensors: {', '.join(others)}."
        )
    prefix = "module." if all(key.startswith("module.") for key in content) else ""
    tensors = {key[len(prefix) :]: tensor.detach() for key, tensor in content.items()}
    # Constants of the preprocessing, which some versions saved too.
    return {key: tensor for key, tensor in tensors.items() if key not in ("pixel_mean", "pixel_std")}


def _why_unreadable(path: str | os.PathLike, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "may not be opened; mend its permissions"
    if isinstance(error, pickle.UnpicklingError):
        refused = re.search(r"GLOBAL (\S+)", str(error))
        with open(path, "rb") as file:
            is_pickle = file.read(1) == pickle.PROTO
        if refused or is_pickle:
            name = f" ({refused[1]})" if refused else ""
            return f"holds pickled code or objects{name}, which are never executed; save its state_dict alone"
    return "is truncated, or no PyTorch checkpoint at all; fetch or copy it again"


def _is_weight(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.is_floating_point()


def check_tensors(
    path: str | os.PathLike,
    tensors: _Tensors,
    shapes: Mapping[str, tuple[int, ...] | str | None],
    hint: str = "",
) -> None:
    """Refuse missing, unknown and misshapen tensors, all named in one error. A shape `None` isn't compared."""
    missing = [key for key in shapes if key not in tensors]
    unknown = [key for key in tensors if key not in shapes]
    misshapen = [
        f"{key} is {tuple(tensors[key].shape)} instead of {shape}"
        for key, shape in shapes.items()
        if key in tensors and shape is not None and tuple(tensors[key].shape) != shape
    ]
    problems = {"missing": missing, "unknown": unknown, "misshapen": misshapen}
    found = [f"{len(keys)} {problem}: {', '.join(keys)}" for problem, keys in problems.items() if keys]
    if found:
        raise ValueError(f"checkpoint {str(path)!r} doesn't fit; tensors {'; '.join(found)}.{hint}")


def is_samed(tensors: _Tensors) -> bool:
    """Whether there is a LoRA matrix of SAMed's image encoder among them."""
    return any(re.fullmatch(r"w_[ab]_\d+", key) for key in tensors)


def _numbers(tensors: _Tensors, stem: str) -> int:
    """How many different numbers follow `stem` in the tensors' names."""
    return len({key[len(stem) :].split(".")[0] for key in tensors if key.startswith(stem)})


def most_common(values: Iterable[int], default: int = 1) -> int:
    """The value that most tensors agree on, so that a misshapen one is found out by the others; at least 1."""
    counted = Counter(values).most_common(1)
    return max(1, counted[0][0]) if counted else default


def count_decoder(tensors: _Tensors) -> dict[str, int]:
    """How many parts the mask decoder has: `decoder_layers`, `num_masks` and `iou_depth`."""
    iou_depth = max(2, _numbers(tensors, "mask_decoder.iou_prediction_head.layers."))
    last = f"mask_decoder.iou_prediction_head.layers.{iou_depth - 1}"
    rows = [f"{last}.weight", f"{last}.bias", "mask_decoder.mask_tokens.weight"]
    masks = [tensors[key].shape[0] for key in rows if key in tensors and tensors[key].ndim]
    return {
        "decoder_layers": _numbers(tensors, "mask_decoder.transformer.layers."),
        "num_masks": most_common([*masks, _numbers(tensors, "mask_decoder.output_hypernetworks_mlps.")]),
        "iou_depth": iou_depth,
    }


def _geometry_tensors(depth: int) -> dict[str, int]:
    """The tensors that [`_sam_config`] reads sizes from, and how many dimensions each has."""
    return {
        "image_encoder.patch_embed.proj.weight": 4,
        "image_encoder.pos_embed": 4,
        **{f"image_encoder.blocks.{index}.attn.rel_pos_{side}": 2 for index in range(depth) for side in "hw"},
        "image_encoder.blocks.0.mlp.lin1.weight": 2,
        "image_encoder.neck.0.weight": 4,
        "prompt_encoder.mask_downscaling.3.weight": 4,
        "mask_decoder.transformer.layers.0.mlp.lin1.weight": 2,
        "mask_decoder.transformer.final_attn_token_to_image.q_proj.weight": 2,
        "mask_decoder.iou_prediction_head.layers.0.weight": 2,
    }


def read_sam_geometry(
    path: str | os.PathLike, tensors: _Tensors, decoder_heads: int, global_attn_indexes: Sequence[int] | None
) -> tuple[dict[str, str], SamConfig]:
    """The names of a SAM checkpoint's tensors, original → in `SamModel`, and the config that their shapes tell.

    Raises:
        ValueError: the tensors that tell it are missing or have too few dimensions (all tensors are checked by name
            then), or an option doesn't fit. The other shapes are left to be compared with those of a model.
    """
    counts = {"depth": _numbers(tensors, "image_encoder.blocks.")} | count_decoder(tensors)
    names = sam_keys(**counts)
    unreadable = {
        key: f"{dims} dimensions"
        for key, dims in _geometry_tensors(counts["depth"]).items()
        if key not in tensors or tensors[key].ndim != dims or not tensors[key].numel()
    }
    if unreadable:
        check_tensors(path, tensors, dict.fromkeys(names) | unreadable)
    return names, _sam_config(tensors, counts, decoder_heads, global_attn_indexes)


def _sam_config(
    tensors: _Tensors, counts: dict[str, int], decoder_heads: int, global_attn_indexes: Sequence[int] | None
) -> SamConfig:
    sizes = [tensors[key].shape for key in _geometry_tensors(0)]
    (hidden_size, num_channels, patch_size, _), (_, grid, _, _), mlp, neck, mask, decoder_mlp, attention, iou = sizes
    blocks = [f"image_encoder.blocks.{index}.attn.rel_pos_" for index in range(counts["depth"])]
    windows = [[(tensors[f"{block}{side}"].shape[0] + 1) // 2 for side in "hw"] for block in blocks]
    indexes = _global_blocks(windows, grid, global_attn_indexes)
    window_size = most_common((w for i, pair in enumerate(windows) if i not in indexes for w in pair), default=grid)
    head_dim = most_common(tensors[f"{block}{side}"].shape[1] for block in blocks for side in "hw")
    downsample_rate = max(1, neck[0] // attention[0])
    if decoder_heads < 1 or (neck[0] // downsample_rate) % decoder_heads:
        raise ValueError(
            f"decoder_heads is {decoder_heads}: expected a divisor of {neck[0] // downsample_rate}, the width of the "
            "mask decoder's cross-attentions; Segment Anything has 8 heads."
        )
    image_size = grid * patch_size
    return SamConfig(
        vision_config={
            "hidden_size": hidden_size,
            "output_channels": neck[0],
            "num_hidden_layers": counts["depth"],
            "num_attention_heads": max(1, hidden_size // head_dim),
            "num_channels": num_channels,
            "image_size": image_size,
            "patch_size": patch_size,
            "window_size": window_size,
            "global_attn_indexes": indexes,
            "num_pos_feats": neck[0] // 2,
            "mlp_ratio": mlp[0] / hidden_size,
            "mlp_dim": mlp[0],
        },
        prompt_encoder_config={
            "hidden_size": neck[0],
            "image_size": image_size,
            "patch_size": patch_size,
            "mask_input_channels": mask[0],
        },
        mask_decoder_config={
            "hidden_size": neck[0],
            "mlp_dim": decoder_mlp[0],
            "num_hidden_layers": counts["decoder_layers"],
            "num_attention_heads": decoder_heads,
            "attention_downsample_rate": downsample_rate,
            "num_multimask_outputs": counts["num_masks"] - 1,
            "iou_head_depth": counts["iou_depth"],
            "iou_head_hidden_dim": iou[0],
            # Segment Anything's, where transformers' default is 1e-6.
            "layer_norm_eps": 1e-5,
        },
    )


def _global_blocks(windows: list[list[int]], grid: int, given: Sequence[int] | None) -> list[int]:
    if given is not None:
        if not set(given) <= set(range(len(windows))):
            raise ValueError(
                f"global_attn_indexes is {list(given)}: expected numbers of blocks, 0 to {len(windows) - 1}."
            )
        return sorted(set(given))
    if all(pair == [grid, grid] for pair in windows):
        raise ValueError(
            f"All relative position tables have the length {2 * grid - 1}, that of the whole grid, so the blocks with "
            "global attention can't be told from those with windows: name them in global_attn_indexes "
            "(Segment Anything's ViT-B: 2, 5, 8, 11; ViT-L: 5, 11, 17, 23; ViT-H: 7, 15, 23, 31)."
        )
    return [index for index, pair in enumerate(windows) if grid in pair]
