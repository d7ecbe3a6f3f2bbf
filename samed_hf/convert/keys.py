"""Names of the tensors in the checkpoints of the original code, in the order of their files.

Each function returns original name → name in transformers' `SamModel`, or → parameter of a SAMed model with an adapter.
"""

from __future__ import annotations

__all__ = ["LORA_PREFIXES", "POSITIONAL_MATRIX", "sam_keys", "samed_keys"]

POSITIONAL_MATRIX = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"

# SAMed_s: prefix of the LoRA matrices → attention in each layer of the mask decoder's transformer.
LORA_PREFIXES = {
    "sa": "self_attn",
    "cti": "cross_attn_token_to_image",
    "cit": "cross_attn_image_to_token",
}


def sam_keys(depth: int, decoder_layers: int, num_masks: int, iou_depth: int) -> dict[str, str]:
    """Return original name → name in `SamModel` for every tensor of a Segment Anything checkpoint.

    Args:
        depth: number of blocks of the image encoder.
        decoder_layers: number of layers of the mask decoder's transformer.
        num_masks: number of mask tokens.
        iou_depth: number of layers of the IoU head.
    """
    return _encoder_keys(depth) | _prompt_encoder_keys() | _decoder_keys(decoder_layers, num_masks, iou_depth)


def samed_keys(variant: str, depth: int, decoder_layers: int, num_masks: int, iou_depth: int) -> dict[str, str]:
    """Return original name → parameter of the model with adapter "default" for every tensor of a SAMed checkpoint.

    Args:
        variant: "samed" or "samed_s".
        depth: number of blocks of the image encoder.
        decoder_layers: number of layers of the mask decoder's transformer.
        num_masks: number of mask tokens.
        iou_depth: number of layers of the IoU head.
    """
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
    """Return the names of all A matrices, then of all B matrices; q before v in each attention."""
    projections = [f"{attention}.{name}" for attention in attentions for name in ("q_proj", "v_proj")]
    return {
        f"{prefix}_{matrix}_{index:03d}": f"{projection}.lora_{matrix.upper()}.default.weight"
        for matrix in "ab"
        for index, projection in enumerate(projections)
    }


def _both(original: str, name: str) -> dict[str, str]:
    return {f"{original}.{leaf}": f"{name}.{leaf}" for leaf in ("weight", "bias")}


def _encoder_keys(depth: int) -> dict[str, str]:
    keys = {"image_encoder.pos_embed": "vision_encoder.pos_embed"}
    keys |= _both("image_encoder.patch_embed.proj", "vision_encoder.patch_embed.projection")
    for index in range(depth):
        block, layer = f"image_encoder.blocks.{index}", f"vision_encoder.layers.{index}"
        keys |= _both(f"{block}.norm1", f"{layer}.layer_norm1")
        keys |= {f"{block}.attn.{table}": f"{layer}.attn.{table}" for table in ("rel_pos_h", "rel_pos_w")}
        keys |= _both(f"{block}.attn.qkv", f"{layer}.attn.qkv") | _both(f"{block}.attn.proj", f"{layer}.attn.proj")
        keys |= _both(f"{block}.norm2", f"{layer}.layer_norm2")
        keys |= _both(f"{block}.mlp.lin1", f"{layer}.mlp.lin1") | _both(f"{block}.mlp.lin2", f"{layer}.mlp.lin2")
    keys["image_encoder.neck.0.weight"] = "vision_encoder.neck.conv1.weight"
    keys |= _both("image_encoder.neck.1", "vision_encoder.neck.layer_norm1")
    keys["image_encoder.neck.2.weight"] = "vision_encoder.neck.conv2.weight"
    return keys | _both("image_encoder.neck.3", "vision_encoder.neck.layer_norm2")


def _prompt_encoder_keys() -> dict[str, str]:
    keys = {POSITIONAL_MATRIX: "shared_image_embedding.positional_embedding"}
    for index in range(4):
        keys[f"prompt_encoder.point_embeddings.{index}.weight"] = f"prompt_encoder.point_embed.{index}.weight"
    keys["prompt_encoder.not_a_point_embed.weight"] = "prompt_encoder.not_a_point_embed.weight"
    parts = {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"}
    for index, part in parts.items():
        keys |= _both(f"prompt_encoder.mask_downscaling.{index}", f"prompt_encoder.mask_embed.{part}")
    return keys | {"prompt_encoder.no_mask_embed.weight": "prompt_encoder.no_mask_embed.weight"}


def _decoder_keys(layers: int, num_masks: int, iou_depth: int) -> dict[str, str]:
    keys: dict[str, str] = {}
    transformer = "mask_decoder.transformer"
    for index in range(layers):
        layer = f"{transformer}.layers.{index}"
        keys |= _attention_keys(f"{layer}.self_attn") | _both(f"{layer}.norm1", f"{layer}.layer_norm1")
        keys |= _attention_keys(f"{layer}.cross_attn_token_to_image") | _both(f"{layer}.norm2", f"{layer}.layer_norm2")
        keys |= _both(f"{layer}.mlp.lin1", f"{layer}.mlp.lin1") | _both(f"{layer}.mlp.lin2", f"{layer}.mlp.lin2")
        keys |= _both(f"{layer}.norm3", f"{layer}.layer_norm3") | _both(f"{layer}.norm4", f"{layer}.layer_norm4")
        keys |= _attention_keys(f"{layer}.cross_attn_image_to_token")
    keys |= _attention_keys(f"{transformer}.final_attn_token_to_image")
    keys |= _both(f"{transformer}.norm_final_attn", f"{transformer}.layer_norm_final_attn")
    for token in ("iou_token", "mask_tokens"):
        keys[f"mask_decoder.{token}.weight"] = f"mask_decoder.{token}.weight"
    for index, part in {0: "upscale_conv1", 1: "upscale_layer_norm", 3: "upscale_conv2"}.items():
        keys |= _both(f"mask_decoder.output_upscaling.{index}", f"mask_decoder.{part}")
    for index in range(num_masks):
        keys |= _perceptron_keys(f"mask_decoder.output_hypernetworks_mlps.{index}", 3)
    return keys | _perceptron_keys("mask_decoder.iou_prediction_head", iou_depth)


def _attention_keys(attention: str) -> dict[str, str]:
    keys: dict[str, str] = {}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        keys |= _both(f"{attention}.{name}", f"{attention}.{name}")
    return keys


def _perceptron_keys(network: str, depth: int) -> dict[str, str]:
    names = ["proj_in", *(f"layers.{index}" for index in range(depth - 2)), "proj_out"]
    keys: dict[str, str] = {}
    for index, name in enumerate(names):
        keys |= _both(f"{network}.layers.{index}", f"{network}.{name}")
    return keys
