"""The whole chain against the reference implementation's own numbers, from its checkpoints to its training steps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from samed_hf import SamedConfig, SamedForSemanticSegmentation, SamedImageProcessor, samed_lora_config
from samed_hf.convert import convert_original, convert_sam, convert_samed
from samed_hf.convert.keys import samed_keys
from samed_hf.inference.slices import predict_slices
from samed_hf.model.post_processing import upsample_logits
from samed_hf.scoring.metrics import score_case
from samed_hf.training.schedules import warmup_polynomial
from samed_hf.transforms import nearest_zoom
from samed_hf.transforms.augmentation import SAMED_AUGMENTATION, rotate, rotate_flip

GOLDEN = Path(__file__).parents[1] / "golden"
VARIANTS = ("samed", "samed_s")


def pixel_values(grey):
    """`(..., height, width)` uint8 as the reference's input: [0, 1], three equal channels."""
    return (grey.float() / 255).unsqueeze(-3).repeat_interleave(3, dim=-3)


@pytest.fixture(scope="module", params=VARIANTS)
def reference(request):
    """The directory of one variant's reference vectors."""
    return GOLDEN / request.param


@pytest.fixture(scope="module")
def adapter(reference, tmp_path_factory):
    """Its adapter, converted from its checkpoint on its converted base."""
    directory = tmp_path_factory.mktemp(reference.name)
    geometry = json.loads((reference / "geometry.json").read_text())
    base = convert_sam(reference / "sam_tiny.pth", directory / "base", decoder_heads=geometry["decoder_heads"])
    checkpoint = reference / "samed_tiny_lora.pth"
    return convert_samed(checkpoint, base, directory / "adapter", image_size=geometry["image_size"])


def test_forward_pass(reference, adapter):
    model = SamedForSemanticSegmentation.from_pretrained(adapter)
    expected = load_file(reference / "forward.safetensors")
    images = pixel_values(expected["grey_uint8"])
    with torch.no_grad():
        output = model(images, labels=expected["low_res_labels"])
        computed = {
            "image_embeddings": model.get_image_embeddings(images),
            "low_res_logits": output.logits,
            "masks": upsample_logits(output.logits, model.config.image_size),
            "iou_predictions": output.iou_scores,
        }
    for name, tensor in computed.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for name, tensor in {"loss": output.loss, "loss_ce": output.cross_entropy, "loss_dice": output.dice}.items():
        assert tensor.item() == pytest.approx(expected[name].item(), abs=1e-6), name


def test_twelve_optimizer_steps(reference, adapter, tmp_path):
    model = SamedForSemanticSegmentation.from_pretrained(adapter).train()
    model.set_adapter("default")  # an adapter loads frozen
    run = json.loads((reference / "training.json").read_text())
    batches = load_file(reference / "training.safetensors")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=run["base_lr"], betas=(0.9, 0.999), weight_decay=run["weight_decay"])
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: warmup_polynomial(step, warmup_steps=run["warmup_period"], horizon=run["max_iterations"]),
    )
    for step, expected in enumerate(run["steps"]):
        assert schedule.get_last_lr()[0] == pytest.approx(expected["lr_used"], rel=1e-12)
        output = model(pixel_values(batches["grey_uint8"][step]), labels=batches["low_res_labels"][step])
        for name, loss in {"loss": output.loss, "loss_ce": output.cross_entropy, "loss_dice": output.dice}.items():
            assert loss.item() == pytest.approx(expected[name], abs=1e-4), f"{name} of step {step}"
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        schedule.step()
    model.save_pretrained(tmp_path / "trained")
    trained = torch.load(convert_original(tmp_path / "trained", tmp_path / "trained.pth"), weights_only=True)
    expected = torch.load(reference / "samed_tiny_lora_after_12_steps.pth", weights_only=True)
    assert list(trained) == list(expected)
    for name, tensor in expected.items():
        # The bias of k shifts all scores of a query alike, which softmax ignores: its gradient is rounding noise, and
        # AdamW makes steps of it.
        atol = 1e-3 if name.endswith("k_proj.bias") else 1e-5
        torch.testing.assert_close(trained[name], tensor, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def test_volume_evaluation(reference, adapter):
    model = SamedForSemanticSegmentation.from_pretrained(adapter)
    volume = load_file(reference / "volume.safetensors")
    expected = json.loads((reference / "volume.json").read_text())
    image, label = (volume[name].numpy() for name in ("volume", "label"))
    for batch_size in (1, 4):
        prediction = predict_slices(
            model,
            image,
            model.image_processor,
            input_size=expected["input_size"],
            reference_zoom=True,
            batch_size=batch_size,
        )
        assert np.array_equal(prediction, volume["prediction"].numpy())
    scores = score_case(prediction, label.astype(np.int64), model.config.num_labels, "samed").values()
    for score, (dice, hd95) in zip(scores, expected["dice_hd95_per_class"], strict=True):
        assert score["dice"] == pytest.approx(dice, abs=1e-6)
        assert score["hd95"] == pytest.approx(hd95, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "vary"),
    [
        ("plain", lambda image, order: image),
        ("rot90_1_flip_0", lambda image, order: rotate_flip(image, 1, 0)),
        ("rot90_3_flip_1", lambda image, order: rotate_flip(image, 3, 1)),
        ("rotate_12", lambda image, order: rotate(image, 12, order)),
        ("rotate_-17", lambda image, order: rotate(image, -17, order)),
    ],
)
def test_training_transform(reference, name, vary):
    expected = load_file(reference / "augmentation.safetensors")
    size = json.loads((reference / "geometry.json").read_text())["image_size"]
    image, label = (expected[key].numpy() for key in ("image", "label"))
    pixels = SamedImageProcessor(size).resize_slices(vary(image, SAMED_AUGMENTATION.order))
    np.testing.assert_allclose(pixels, expected[f"{name}.pixel_values"].numpy(), rtol=0, atol=1e-5)
    labels = nearest_zoom(vary(label, 0), (size, size))
    assert np.array_equal(labels, expected[f"{name}.labels"].numpy())
    assert np.array_equal(nearest_zoom(labels, (size // 4, size // 4)), expected[f"{name}.low_res_labels"].numpy())


# hidden size, blocks, heads, blocks with global attention; parameters of the reference at 512 pixels and 9 outputs with
# LoRA of rank 4; parameters of Segment Anything itself (1024 pixels, 4 outputs), as published.
GEOMETRIES = {
    "vit_b": (768, 12, 12, [2, 5, 8, 11], 92_192_469, 93_735_472),
    "vit_l": (1024, 24, 16, [5, 11, 17, 23], 310_259_157, 312_342_832),
    "vit_h": (1280, 32, 16, [7, 15, 23, 31], 638_474_453, 641_090_608),
}
# SAM's matrix of the positional encoding, (2, 128): a buffer in the original, a parameter in transformers (there under
# two names, tied, and so counted once).
POSITIONAL_MATRIX = 256


def build(geometry, image_size, num_labels):
    hidden_size, blocks, heads, global_attn_indexes = geometry
    vision = {
        "hidden_size": hidden_size,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "global_attn_indexes": global_attn_indexes,
    }
    id2label = {label: str(label) for label in range(num_labels)}
    with torch.device("meta"):
        return SamedForSemanticSegmentation(SamedConfig(vision_config=vision, image_size=image_size, id2label=id2label))


def count(parameters):
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_parameter_counts(name):
    *geometry, with_lora, published = GEOMETRIES[name]
    assert count(build(geometry, 1024, 4).parameters()) == published + POSITIONAL_MATRIX

    model = build(geometry, 512, 9)
    whole = count(model.parameters()) - POSITIONAL_MATRIX
    with torch.device("meta"):
        model.add_adapter(samed_lora_config(rank=4))
    keys = samed_keys("samed", depth=geometry[1], decoder_layers=2, num_masks=9, iou_depth=3)
    saved = {key: model.get_parameter(parameter) for key, parameter in keys.items()}
    lora = count(parameter for key, parameter in saved.items() if key.startswith("w_"))
    decoder = count(parameter for key, parameter in saved.items() if key.startswith("mask_decoder."))
    prompt_encoder = count(p for key, p in saved.items() if key.startswith("prompt_encoder.")) - POSITIONAL_MATRIX
    # q and v have 2 · rank · hidden size each in every block. PEFT also keeps untrained copies of what it saves whole,
    # which are in no count.
    assert lora == {"vit_b": 147_456, "vit_l": 393_216, "vit_h": 655_360}[name]
    assert (decoder, prompt_encoder) == (4_759_945, 6_220)
    assert whole + lora == with_lora

    # The reference lets everything saved train. Here what never gets a gradient doesn't: the IoU head (133,897) and the
    # prompt encoder but for its no-mask embedding (5,964).
    trained = count(parameter for parameter in model.parameters() if parameter.requires_grad)
    assert trained == lora + decoder + prompt_encoder - 133_897 - 5_964
