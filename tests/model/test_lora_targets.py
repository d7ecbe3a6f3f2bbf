"""Which layers of the image encoder an adapter changes: LoRA on chosen layers, none at all, or the whole encoder."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from samed_hf import SamedConfig, SamedForSemanticSegmentation, samed_lora_config
from samed_hf.model.lora import prepare_encoder

from ..conftest import TINY_LABELS, TINY_SIZE

LAYERS = {
    "q": {"attn.q_proj"},
    "k": {"attn.k_proj"},
    "v": {"attn.v_proj"},
    "o": {"attn.proj"},
    "mlp": {"mlp.lin1", "mlp.lin2"},
}
RECIPES = [{"targets": "q,k,v,o"}, {"targets": "k,o"}, {"targets": "mlp"}, {"targets": "o,mlp", "variant": "samed_s"}]
RECIPES += [{"encoder": mode, "variant": variant} for mode in ("frozen", "full") for variant in ("samed", "samed_s")]


def change(model, adapter="default"):
    """Move all trained weights, as a training would."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and f".{adapter}." in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(torch.linspace(0, 1, 2 * 3 * TINY_SIZE**2).reshape(2, 3, TINY_SIZE, TINY_SIZE).sin()).logits


def test_the_papers_targets_are_the_string_of_earlier_adapters():
    encoder = r"(.*\.)?vision_encoder\.layers\.\d+\.attn\.(q_proj|v_proj)"
    assert samed_lora_config().target_modules == encoder
    assert samed_lora_config(targets=["v", "q"]).target_modules == encoder
    assert samed_lora_config(variant="samed_s").target_modules.startswith(f"{encoder}|(.*\\.)?mask_decoder")


@pytest.mark.parametrize("targets", ["q", "k,o", "mlp", "q,k,v,o", "v,mlp"])
def test_lora_is_on_the_named_layers_of_every_block_alone(tiny_model, targets):
    tiny_model.add_adapter(samed_lora_config(rank=3, targets=targets))
    found = {name.partition(".lora_A")[0] for name, _ in tiny_model.named_parameters() if ".lora_A" in name}
    layers = set().union(*(LAYERS[name] for name in targets.split(",")))
    assert found == {f"sam.vision_encoder.layers.{block}.{layer}" for block in range(4) for layer in layers}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT 0.21 asks for it
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_saved_loaded_and_merged_adapters_have_the_same_logits(tiny_model, tiny_sam, tmp_path, recipe):
    tiny_model.add_adapter(samed_lora_config(2, **recipe))
    change(tiny_model)
    expected = logits(tiny_model.requires_grad_(False))
    tiny_model.save_pretrained(tmp_path / "adapter")
    loaded = SamedForSemanticSegmentation.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(loaded), expected)
    base = SamedForSemanticSegmentation.from_pretrained(
        tiny_sam, config=SamedConfig.from_pretrained(tmp_path / "adapter")
    )
    peft_model = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.equal(logits(peft_model), expected)
    for merged in (loaded.merge_and_unload(), peft_model.merge_and_unload(), tiny_model.merge_and_unload()):
        torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-4)
    loaded.save_pretrained(tmp_path / "whole")
    whole = SamedForSemanticSegmentation.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(logits(whole), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_everything_trainable_gets_a_gradient(tiny_model, recipe):
    tiny_model.add_adapter(samed_lora_config(2, **recipe))
    change(tiny_model)
    tiny_model.train()
    prepare_encoder(tiny_model, bfloat16=False, checkpointing=True)
    labels = torch.randint(0, len(TINY_LABELS), (2, TINY_SIZE, TINY_SIZE))
    tiny_model(torch.rand(2, 3, TINY_SIZE, TINY_SIZE), labels=labels).loss.backward()
    for name, parameter in tiny_model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize("variant", ["samed", "samed_s"])
def test_a_frozen_encoder_has_no_tensor_in_the_file_and_a_full_one_all_of_them(tiny_model, tmp_path, variant):
    encoder = {name: one.numel() for name, one in tiny_model.sam.vision_encoder.named_parameters()}
    for mode, expected in (("frozen", {}), ("full", encoder)):
        tiny_model.add_adapter(samed_lora_config(2, variant, encoder=mode))
        trained = [name for name, one in tiny_model.named_parameters() if one.requires_grad]
        assert any("vision_encoder" in name for name in trained) == (mode == "full")
        assert any("lora_" in name for name in trained) == (variant == "samed_s")
        tiny_model.save_pretrained(tmp_path / mode)
        saved = load_file(tmp_path / mode / "adapter_model.safetensors")
        inside = {name.partition("vision_encoder.")[2]: one.numel() for name, one in saved.items() if "vision" in name}
        assert inside == expected
        tiny_model.delete_adapter("default")
        assert not any("lora_" in name or "modules_to_save" in name for name in tiny_model.state_dict())


def test_adapters_of_other_targets_on_one_model(tiny_model):
    recipes = {"paper": {}, "frozen": {"encoder": "frozen"}, "other": {"targets": "mlp"}}
    expected = {}
    for name, recipe in recipes.items():
        tiny_model.add_adapter(samed_lora_config(2, **recipe), name)
        change(tiny_model, name)
        assert tiny_model.active_adapters() == [name]
        expected[name] = logits(tiny_model)
    for name in recipes:
        tiny_model.set_adapter(name)
        torch.testing.assert_close(logits(tiny_model), expected[name], rtol=0, atol=1e-5)


def test_a_full_encoder_does_not_go_beside_another_adapter(tiny_model, tiny_adapter, tmp_path):
    tiny_model.add_adapter(samed_lora_config(2, encoder="full"))
    tiny_model.save_pretrained(tmp_path)
    model = SamedForSemanticSegmentation.from_pretrained(tiny_adapter)
    with pytest.raises(ValueError, match="trains the whole image encoder"):
        model.load_adapter(tmp_path, "full")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "q,x"}, "targets is 'q,x': expected some of q, k, v, o, mlp"),
        ({"targets": ["q", "q"]}, "targets is 'q,q'"),
        ({"targets": []}, "targets is ''"),
        ({"encoder": "half"}, "encoder is 'half'"),
        ({"encoder": "full", "targets": "q"}, "targets is 'q' with encoder 'full'"),
    ],
)
def test_bad_recipes(options, message):
    with pytest.raises(ValueError, match=message):
        samed_lora_config(**options)
