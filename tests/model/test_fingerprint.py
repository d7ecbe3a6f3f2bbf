"""The hash of a base model's weights: the same for every form of one base, another for every other."""

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import SamModel

from samed_hf import SamedForSemanticSegmentation, samed_lora_config
from samed_hf.model.fingerprint import base_fingerprint
from samed_hf.model.random_sam import make_random_sam
from samed_hf.model.vision_encoder import SamedVisionAttention

from ..conftest import TINY_LABELS, TINY_SIZE, randomize_lora


@pytest.fixture
def expected(tiny_model):
    return base_fingerprint(tiny_model)


def fuse(model):
    for module in model.modules():
        if isinstance(module, SamedVisionAttention):
            module.fuse_projections()
    return model


def test_every_form_of_a_base_has_one_fingerprint(tiny_sam, tiny_adapter, tiny_model, expected):
    load = SamedForSemanticSegmentation.from_pretrained
    assert expected.startswith("sha256:")
    assert base_fingerprint(SamModel.from_pretrained(tiny_sam)) == expected
    assert base_fingerprint(load(tiny_sam, image_size=128, num_labels=5)) == expected
    assert base_fingerprint(load(tiny_adapter)) == expected
    assert base_fingerprint(load(tiny_adapter, dtype="bfloat16")) == expected
    assert base_fingerprint(fuse(tiny_model)) == expected


@pytest.mark.parametrize("variant", ["samed", "samed_s"])
def test_an_adapter_changes_nothing_unless_it_is_merged(tiny_model, expected, variant):
    tiny_model.add_adapter(samed_lora_config(rank=2, variant=variant))
    randomize_lora(tiny_model)
    assert base_fingerprint(tiny_model) == expected
    merged = tiny_model.merge_and_unload()
    assert base_fingerprint(merged) not in (expected, None)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(target_modules=["q_proj"], modules_to_save=["mask_decoder"], lora_bias=True, bias="none"),
        LoraConfig(target_modules=["q_proj", "neck.conv1"], use_dora=True),
        IA3Config(target_modules=["k_proj", "lin2"], feedforward_modules=["lin2"]),
    ],
)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # which PEFT reads
def test_adapters_of_peft_change_nothing(tiny_model, expected, config):
    model = get_peft_model(tiny_model, config)
    assert base_fingerprint(model) == expected
    model.base_model.merge_adapter()
    assert base_fingerprint(model) is None


def test_other_weights_have_another_fingerprint(tmp_path, tiny_sam, tiny_model, expected):
    sizes = {"image_size": 128, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "embedding_size": 32}
    other = make_random_sam(tmp_path / "other", seed=1, **sizes)
    load = SamedForSemanticSegmentation.from_pretrained
    assert base_fingerprint(load(other, image_size=TINY_SIZE, id2label=TINY_LABELS)) not in (expected, None)
    for part in ("vision_encoder.neck", "mask_decoder.transformer", "prompt_encoder"):
        model = load(tiny_sam, image_size=TINY_SIZE, id2label=TINY_LABELS)
        with torch.no_grad():
            for weight in model.sam.get_submodule(part).parameters():
                weight.mul_(1.01)
        assert base_fingerprint(model) != expected


def test_weights_that_cannot_be_compared_have_none(tiny_model):
    assert base_fingerprint(tiny_model.half()) is None
    assert base_fingerprint(tiny_model.to("meta")) is None
