"""Names of the tensors in the checkpoints of the original code, in the order of their files.

Each function returns original name → name in transformers' `SamModel`, or → parameter of a SAMed model with an adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["LORA_PREFIXES", "POSITIONAL_MATRIX", "sam_keys", "samed_keys"]

POSITIONAL_MATRIX = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"

# SAMed_s: prefix of the LoRA matrices → attention in each layer of the mask decoder's transformer.
LORA_PREFIXES = {"sa": "self_attn", "cti": "cross_attn_token_to_image", "cit": "cross_attn_image_to_token"}

_MLP = ("mlp.lin1", "mlp.lin2")


def sam_keys(depth: int, decoder_layers: int, num_masks: int, iou_depth: int) -> dict[str, str]:
    """Every tensor of a Segment Anything checkpoint → name in `SamModel`.

    `depth` is the number of blocks of the image encoder, `iou_depth` that of layers of the IoU head.
    """
    return _encoder_keys(depth) | _prompt_encoder_keys() | _decoder_keys(decoder_layers, num_masks, iou_depth)


def samed_keys(variant: str, depth: int, decoder_layers: int, num_masks: int, iou_depth: int) -> dict[str, str]:
    """Every tensor of a SAMed checkpoint → parameter of the model with adapter "default"; see [`sam_keys`]."""
    decoder = _decoder_keys(decoder_layers, num_masks, iou_depth)
    keys = _lora_keys("w", [f"vision_encoder.layers.{i}.attn" for i in range(depth)])
    final: dict[str, str] = {}
    if variant == "samed_s":
        for prefix, attention in LORA_PREFIXES.items():
            layers = range(decoder_layers)
            keys |= _lora_keys(prefix, [f"mask_decoder.transformer.layers.{i}.{attention}" for i in layers])
        for projection in "qv":
            attention = f"mask_decoder.transformer.final_attn_token_to_image.{projection}_proj"
            final |= {f"fati_{projection}{m}": f"{attention}.lora_{m.upper()}.default.weight" for m in "ab"}
        decoder = {key: name for key, name in decoder.items() if ".transformer." not in key}
    keys |= _prompt_encoder_keys() | decoder | final
    return {key: f"sam.{name}" for key, name in keys.items()}


def _lora_keys(prefix: str, attentions: list[str]) -> dict[str, str]:
    """The names of all A matrices, then of all B matrices; q before v in each attention."""
    projections = [f"{attention}.{name}" for attention in attentions for name in ("q_proj", "v_proj")]
    return {
        f"{prefix}_{matrix}_{index:03d}": f"{projection}.lora_{matrix.upper()}.default.weight"
        for matrix in "ab"
        for index, projection in enumerate(projections)
    }


def _both(original: str, name: str, parts: Mapping[str, str]) -> dict[str, str]:
    """Weight and bias of each part, original name → name in transformers."""
    return {f"{original}.{k}.{leaf}": f"{name}.{v}.{leaf}" for k, v in parts.items() for leaf in ("weight", "bias")}


def _layer(parts: Iterable[str]) -> dict[str, str]:
    """Parts of a transformer layer, of which only the normalisations have another name."""
    return {part: part.replace("norm", "layer_norm") for part in parts}


def _attention(name: str) -> list[str]:
    return [f"{name}.{projection}_proj" for projection in ("q", "k", "v", "out")]


def _encoder_keys(depth: int) -> dict[str, str]:
    keys = {"image_encoder.pos_embed": "vision_encoder.pos_embed"}
    keys |= _both("image_encoder", "vision_encoder", {"patch_embed.proj": "patch_embed.projection"})
    for index in range(depth):
        block, layer = f"image_encoder.blocks.{index}", f"vision_encoder.layers.{index}"
        keys |= _both(block, layer, _layer(["norm1"]))
        keys |= {f"{block}.attn.{table}": f"{layer}.attn.{table}" for table in ("rel_pos_h", "rel_pos_w")}
        keys |= _both(block, layer, _layer(["attn.qkv", "attn.proj", "norm2", *_MLP]))
    neck = ("image_encoder.neck", "vision_encoder.neck")
    keys["image_encoder.neck.0.weight"] = "vision_encoder.neck.conv1.weight"
    keys |= _both(*neck, {"1": "layer_norm1"})
    keys["image_encoder.neck.2.weight"] = "vision_encoder.neck.conv2.weight"
    return keys | _both(*neck, {"3": "layer_norm2"})


def _prompt_encoder_keys() -> dict[str, str]:
    keys = {POSITIONAL_MATRIX: "shared_image_embedding.positional_embedding"}
    for index in range(4):
        keys[f"prompt_encoder.point_embeddings.{index}.weight"] = f"prompt_encoder.point_embed.{index}.weight"
    keys["prompt_encoder.not_a_point_embed.weight"] = "prompt_encoder.not_a_point_embed.weight"
    parts = {"0": "conv1", "1": "layer_norm1", "3": "conv2", "4": "layer_norm2", "6": "conv3"}
    keys |= _both("prompt_encoder.mask_downscaling", "prompt_encoder.mask_embed", parts)
    return keys | {"prompt_encoder.no_mask_embed.weight": "prompt_encoder.no_mask_embed.weight"}


def _decoder_keys(layers: int, num_masks: int, iou_depth: int) -> dict[str, str]:
    parts = [*_attention("self_attn"), "norm1", *_attention("cross_attn_token_to_image"), "norm2", *_MLP]
    parts += ["norm3", "norm4", *_attention("cross_attn_image_to_token")]
    names = [f"layers.{index}.{part}" for index in range(layers) for part in parts]
    names += [*_attention("final_attn_token_to_image"), "norm_final_attn"]
    keys = _both("mask_decoder.transformer", "mask_decoder.transformer", _layer(names))
    for token in ("iou_token", "mask_tokens"):
        keys[f"mask_decoder.{token}.weight"] = f"mask_decoder.{token}.weight"
    upscaling = {"0": "upscale_conv1", "1": "upscale_layer_norm", "3": "upscale_conv2"}
    keys |= _both("mask_decoder.output_upscaling", "mask_decoder", upscaling)
    networks = {f"mask_decoder.output_hypernetworks_mlps.{index}": 3 for index in range(num_masks)}
    for network, depth in (networks | {"mask_decoder.iou_prediction_head": iou_depth}).items():
        names = ["proj_in", *(f"layers.{index}" for index in range(depth - 2)), "proj_out"]
        keys |= _both(network, network, {f"layers.{index}": name for index, name in enumerate(names)})
    return keys
