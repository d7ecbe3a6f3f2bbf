import pytest
import torch

from samed_hf import SamedForSemanticSegmentation, samed_lora_config

from ..conftest import TINY_LABELS, TINY_SIZE, randomize_lora


def trained_names(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_lora_reaches_q_and_v_of_the_encoder_alone(tiny_model):
    tiny_model.add_adapter(samed_lora_config(rank=3))
    lora = {name for name in trained_names(tiny_model) if "lora_" in name}
    assert len(lora) == 4 * 2 * 2  # blocks, q and v, A and B
    assert all("vision_encoder.layers" in name and ("q_proj" in name or "v_proj" in name) for name in lora)
    shapes = {tuple(p.shape) for name, p in tiny_model.named_parameters() if "lora_" in name}
    assert shapes == {(3, 32), (32, 3)}


def test_samed_s_freezes_the_decoders_transformer(tiny_model):
    tiny_model.add_adapter(samed_lora_config(variant="samed_s"))
    names = trained_names(tiny_model)
    inside = {name for name in names if "mask_decoder.transformer" in name}
    assert inside
    assert all("lora_" in name for name in inside)
    assert len(inside) == (2 * 3 + 1) * 2 * 2  # three attentions in each of two layers and the last one
    assert any("output_hypernetworks_mlps" in name for name in names)


@pytest.mark.parametrize("variant", ["samed", "samed_s"])
def test_trainable_parameters_get_a_gradient_and_no_others_change(tiny_model, variant):
    tiny_model.add_adapter(samed_lora_config(variant=variant))
    randomize_lora(tiny_model)
    tiny_model.train()
    labels = torch.randint(0, 3, (2, TINY_SIZE, TINY_SIZE))
    tiny_model(torch.rand(2, 3, TINY_SIZE, TINY_SIZE), labels=labels).loss.backward()
    for name, parameter in tiny_model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not any("iou_prediction_head" in name or "positional" in name for name in trained_names(tiny_model))
    assert any("no_mask_embed" in name for name in trained_names(tiny_model))


def test_a_fresh_adapter_changes_nothing(tiny_model):
    pixels = torch.rand(1, 3, TINY_SIZE, TINY_SIZE)
    with torch.no_grad():
        before = tiny_model(pixels).logits
        tiny_model.add_adapter(samed_lora_config())
        torch.testing.assert_close(tiny_model(pixels).logits, before, rtol=0, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}, {"lora_alpha": 16}])
@pytest.mark.parametrize("variant", ["samed", "samed_s"])
def test_merging_keeps_the_outputs(tiny_model, options, variant):
    tiny_model.add_adapter(samed_lora_config(rank=2, variant=variant, **options))
    randomize_lora(tiny_model)
    pixels = torch.rand(2, 3, TINY_SIZE, TINY_SIZE)
    with torch.no_grad():
        before = tiny_model(pixels)
        merged = tiny_model.merge_and_unload()
        after = merged(pixels)
    assert merged is tiny_model
    assert not any("lora" in name or "modules_to_save" in name for name in merged.state_dict())
    torch.testing.assert_close(after.logits, before.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(after.iou_scores, before.iou_scores, rtol=0, atol=1e-5)


def test_options_are_passed_to_peft():
    config = samed_lora_config(rank=8, lora_dropout=0.1, use_dora=True)
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_dora) == (8, 8, 0.1, True)
    assert config.task_type is None


def test_bad_arguments():
    with pytest.raises(ValueError, match="variant is 'samed_x': expected one of 'samed', 'samed_s'"):
        samed_lora_config(variant="samed_x")
    with pytest.raises(ValueError, match="rank is 0"):
        samed_lora_config(rank=0)


def test_merging_without_an_adapter(tiny_model):
    with pytest.raises(ValueError, match="no adapter to merge"):
        tiny_model.merge_and_unload()


def test_two_adapters_on_one_model(tiny_adapter, tiny_model):
    model = SamedForSemanticSegmentation.from_pretrained(tiny_adapter)
    pixels = torch.rand(1, 3, TINY_SIZE, TINY_SIZE)
    with torch.no_grad():
        first = model(pixels).logits
        model.add_adapter(samed_lora_config(rank=5), "second")
        randomize_lora(model, std=0.3)
        assert not torch.equal(model(pixels).logits, first)
    assert model.config.id2label == TINY_LABELS
    assert model.active_adapters() == ["second"]
