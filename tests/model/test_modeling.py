import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import SamConfig, SamModel

from samed_hf import SamedConfig, SamedForSemanticSegmentation, samed_lora_config
from samed_hf.model.losses import dice_loss, segmentation_loss
from samed_hf.model.modeling_samed import SamedSegmenterOutput
from samed_hf.model.post_processing import upsample_logits
from samed_hf.model.random_sam import make_random_sam

from ..conftest import TINY_LABELS, TINY_SIZE

PIXELS = torch.rand(2, 3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(3))


def test_output_shapes(tiny_model):
    with torch.no_grad():
        output = tiny_model(PIXELS, labels=torch.zeros(2, 16, 16, dtype=torch.long))
    assert isinstance(output, SamedSegmenterOutput)
    assert output.logits.shape == (2, 3, 16, 16)
    assert output.iou_scores.shape == (2, 3)
    assert output.loss.item() == pytest.approx(0.2 * output.cross_entropy.item() + 0.8 * output.dice.item(), rel=1e-6)
    with torch.no_grad():
        logits, iou_scores = tiny_model(PIXELS, return_dict=False)
    assert (logits.shape, iou_scores.shape) == ((2, 3, 16, 16), (2, 3))


@pytest.mark.parametrize("image_size", [128, 64, 80])
def test_the_encoder_is_transformers_own(tiny_sam, image_size):
    """Split projections and windows cut after projecting give what SamModel gives, odd windows included."""
    model = SamedForSemanticSegmentation.from_pretrained(tiny_sam, image_size=image_size, num_labels=2)
    reference = SamModel(
        SamConfig(
            vision_config=model.config.vision_config.to_dict(),
            prompt_encoder_config=model.config.prompt_encoder_config.to_dict(),
            mask_decoder_config=model.config.mask_decoder_config.to_dict(),
        )
    ).eval()
    state = {}
    for name, tensor in model.sam.vision_encoder.state_dict().items():
        if ".q_proj." in name:
            parts = [name.replace("q_proj", part) for part in ("q_proj", "k_proj", "v_proj")]
            state[name.replace("q_proj", "qkv")] = torch.cat([model.sam.vision_encoder.state_dict()[p] for p in parts])
        elif ".k_proj." not in name and ".v_proj." not in name:
            state[name] = tensor
    reference.vision_encoder.load_state_dict(state)
    pixels = torch.rand(2, 3, image_size, image_size)
    with torch.no_grad():
        expected = reference.vision_encoder(pixels).last_hidden_state
        torch.testing.assert_close(model.get_image_embeddings(pixels), expected, rtol=0, atol=2e-5)


def test_eager_and_sdpa_agree(tiny_sam):
    torch.manual_seed(0)
    sdpa = SamedForSemanticSegmentation.from_pretrained(tiny_sam, image_size=TINY_SIZE, num_labels=3)
    eager = SamedForSemanticSegmentation.from_pretrained(
        tiny_sam, image_size=TINY_SIZE, num_labels=3, attn_implementation="eager"
    )
    eager.load_state_dict(sdpa.state_dict())
    with torch.no_grad():
        output = eager(PIXELS, output_attentions=True, output_hidden_states=True)
        torch.testing.assert_close(sdpa(PIXELS).logits, output.logits, rtol=0, atol=1e-5)
    assert len(output.attentions) == 4
    assert output.attentions[0].sum(-1).allclose(torch.ones(1))
    assert len(output.hidden_states) >= 4


def test_labels_at_the_inputs_size_are_sampled_as_an_order_0_zoom(tiny_model):
    from scipy import ndimage

    labels = torch.randint(0, 3, (2, TINY_SIZE, TINY_SIZE))
    expected = [torch.from_numpy(ndimage.zoom(label.numpy(), 0.25, order=0)) for label in labels]
    assert torch.equal(tiny_model.to_low_resolution(labels, 16), torch.stack(expected))
    with torch.no_grad():
        high = tiny_model(PIXELS, labels=labels).loss
        low = tiny_model(PIXELS, labels=torch.stack(expected)).loss
    assert torch.equal(high, low)


def test_the_loss_at_the_inputs_resolution(tiny_model):
    labels = torch.randint(0, 3, (2, TINY_SIZE, TINY_SIZE))
    labels[0, :, :8] = 255
    tiny_model.config.loss_resolution = "full"
    with torch.no_grad():
        output = tiny_model(PIXELS, labels=labels)
        logits = upsample_logits(output.logits, TINY_SIZE)
        low = tiny_model(PIXELS, labels=labels[:, ::4, ::4]).loss
    expected = F.cross_entropy(logits, labels.where(labels != 255, -100))
    assert output.cross_entropy.item() == pytest.approx(expected.item(), rel=1e-6)
    assert output.dice.item() == pytest.approx(dice_loss(logits, labels).item(), rel=1e-6)
    assert low == segmentation_loss(output.logits, labels[:, ::4, ::4]).loss  # labels of the logits' size stay
    with pytest.raises(ValueError, match=r"labels have the shape \(2, 32, 32\)"):
        tiny_model(PIXELS, labels=labels[:, ::2, ::2])


def test_image_embeddings_instead_of_pixels(tiny_model):
    with torch.no_grad():
        embeddings = tiny_model.get_image_embeddings(PIXELS)
        torch.testing.assert_close(tiny_model(image_embeddings=embeddings).logits, tiny_model(PIXELS).logits)


def test_bad_inputs(tiny_model):
    with pytest.raises(ValueError, match="pixel_values or image_embeddings"):
        tiny_model()
    with pytest.raises(ValueError, match="labels have the shape"):
        tiny_model(PIXELS, labels=torch.zeros(2, 20, 20, dtype=torch.long))


def test_gradient_checkpointing_changes_no_gradient(tiny_model):
    tiny_model.add_adapter(samed_lora_config())
    tiny_model.train()
    labels = torch.randint(0, 3, (2, 16, 16))

    def gradients() -> dict[str, torch.Tensor]:
        tiny_model.zero_grad()
        tiny_model(PIXELS, labels=labels).loss.backward()
        return {n: p.grad.clone() for n, p in tiny_model.named_parameters() if p.grad is not None}

    plain = gradients()
    tiny_model.activation_checkpointing_enable()
    layers = tiny_model.sam.vision_encoder.layers
    assert all(layer.gradient_checkpointing for layer in layers)
    checkpointed = gradients()
    assert plain.keys() == checkpointed.keys()
    for name in plain:
        torch.testing.assert_close(checkpointed[name], plain[name], rtol=1e-5, atol=1e-7)


def test_label_heads_have_pytorchs_initialisation():
    config = SamedConfig(
        image_size=64, num_labels=3, vision_config={"num_hidden_layers": 2, "global_attn_indexes": [1]}
    )
    torch.manual_seed(0)
    decoder = SamedForSemanticSegmentation(config).sam.mask_decoder
    assert decoder.mask_tokens.weight.std().item() == pytest.approx(1.0, abs=0.1)
    weight = decoder.iou_prediction_head.proj_in.weight
    assert weight.abs().max().item() == pytest.approx(1 / 16, abs=1e-3)  # kaiming-uniform(a=√5): ±1/√fan_in
    assert weight.std().item() == pytest.approx(1 / 16 / 3**0.5, rel=0.05)


def test_half_precision_keeps_the_positional_matrix_in_float32(tiny_sam):
    model = SamedForSemanticSegmentation.from_pretrained(
        tiny_sam, image_size=TINY_SIZE, id2label=TINY_LABELS, dtype=torch.bfloat16
    )
    assert model.sam.shared_image_embedding.positional_embedding.dtype == torch.float32
    assert model.dtype == torch.bfloat16
    with torch.no_grad():
        assert model(PIXELS).logits.isfinite().all()


@pytest.mark.slow
def test_vit_b_at_512_pixels(tmp_path):
    """The figures of the paper's geometry: parameters, gradients, size on disk, exact reload, merging."""
    make_random_sam(tmp_path / "sam", image_size=1024, hidden_size=768, num_layers=12, num_heads=12, embedding_size=256)
    labels = {index: f"organ {index}" for index in range(9)}
    model = SamedForSemanticSegmentation.from_pretrained(tmp_path / "sam", image_size=512, id2label=labels)
    model.add_adapter(samed_lora_config(rank=4))
    lora = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    assert sum(parameter.numel() for parameter in lora) == 147_456
    with torch.no_grad():
        for parameter in lora:
            parameter.normal_(std=0.02)
    model.train()
    pixels = torch.rand(1, 3, 512, 512)
    model(pixels, labels=torch.randint(0, 9, (1, 128, 128))).loss.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model.eval()
    model.save_pretrained(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size <= 20e6
    with torch.no_grad():
        expected = model(pixels).logits
        del model
        loaded = SamedForSemanticSegmentation.from_pretrained(tmp_path / "adapter")
        assert torch.equal(loaded(pixels).logits, expected)
        torch.testing.assert_close(loaded.merge_and_unload()(pixels).logits, expected, rtol=0, atol=1e-4)


def test_a_tuple_has_the_loss_first(tiny_model):
    pixels, labels = torch.rand(2, 3, 64, 64), torch.randint(0, 3, (2, 16, 16))
    with torch.no_grad():
        output = tiny_model(pixels, labels=labels)
        assert list(output) == ["loss", "logits", "iou_scores", "cross_entropy", "dice"]
        values = tiny_model(pixels, labels=labels, return_dict=False)
        assert torch.equal(values[0], output.loss)
        assert torch.equal(values[1], output.logits)
        assert torch.equal(tiny_model(pixels, return_dict=False)[0], output.logits)
        tiny_model.config.return_dict = False
        assert torch.equal(tiny_model(pixels, labels=labels)[0], output.loss)


def test_the_config_asks_for_hidden_states(tiny_model):
    pixels = torch.rand(1, 3, 64, 64)
    tiny_model.config.output_hidden_states = True
    with torch.no_grad():
        assert len(tiny_model(pixels).hidden_states) == 5
        assert tiny_model(pixels, output_hidden_states=False).hidden_states is None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_ignored_labels_at_full_resolution(tiny_model, dtype):
    pixels, labels = torch.rand(1, 3, 64, 64), torch.randint(0, 3, (1, 64, 64)).to(dtype)
    labels[:, 32:] = 255
    low = tiny_model.to_low_resolution(labels, 16)
    with torch.no_grad():
        output = tiny_model(pixels, labels=labels)
    known = (low != 255)[0]
    expected = F.cross_entropy(output.logits[0, :, known].T, low[0, known].long())
    assert 0 < known.sum() < 256
    assert output.cross_entropy.item() == pytest.approx(expected.item(), rel=1e-5)


def test_what_never_gets_a_gradient_is_frozen(tiny_model):
    """IoU head, absent prompts and the positional matrix; loading makes all parameters trainable in transformers."""
    tiny_model(torch.rand(1, 3, 64, 64), labels=torch.zeros(1, 16, 16, dtype=torch.long)).loss.backward()
    missing = [name for name, one in tiny_model.named_parameters() if one.requires_grad and one.grad is None]
    frozen = [name for name, one in tiny_model.named_parameters() if not one.requires_grad]
    assert missing == []
    assert len(frozen) == 22
    assert "sam.shared_image_embedding.positional_embedding" in frozen
    assert not tiny_model(torch.rand(1, 3, 64, 64)).iou_scores.requires_grad


def test_the_files_of_a_whole_model_load_unconverted(tiny_model, tmp_path):
    """As transformers' Trainer does on resuming."""
    tiny_model.save_pretrained(tmp_path)
    other = SamedForSemanticSegmentation(tiny_model.config)
    result = other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert result.unexpected_keys == []
    assert all("shared_embedding" in name for name in result.missing_keys)  # tied
    with torch.no_grad():
        assert torch.equal(other.eval()(PIXELS).logits, tiny_model(PIXELS).logits)
