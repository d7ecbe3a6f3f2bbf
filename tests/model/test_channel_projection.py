"""More than three channels: a trained projection that is a part of the adapter, by every way of loading."""

import json

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation

from samed_hf import SamedConfig, SamedForSemanticSegmentation, SamedImageProcessor, samed_lora_config
from samed_hf.convert import convert_original

from ..conftest import TINY_LABELS, TINY_SIZE, randomize_lora

NAMES = [f"c{index}" for index in range(5)]


@pytest.fixture
def model(tiny_sam):
    model = SamedForSemanticSegmentation.from_pretrained(
        tiny_sam, id2label=TINY_LABELS, channel_projection=5, image_size=TINY_SIZE
    )
    model.add_adapter(samed_lora_config())
    randomize_lora(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "channel_projection.modules_to_save" in name:
                parameter.add_(torch.linspace(0, 1, parameter.numel()).reshape(parameter.shape))
    model.image_processor = SamedImageProcessor(TINY_SIZE, channel_names=NAMES)
    return model.eval()


@torch.no_grad()
def logits(model):
    return model(torch.rand(1, 5, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(0))).logits


def test_it_starts_as_means_of_three_groups(tiny_sam):
    model = SamedForSemanticSegmentation.from_pretrained(tiny_sam, channel_projection=4, image_size=TINY_SIZE)
    expected = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert torch.equal(model.channel_projection.weight[:, :, 0, 0], expected)
    assert not model.channel_projection.bias.any()
    plain = SamedForSemanticSegmentation.from_pretrained(tiny_sam, image_size=TINY_SIZE)
    pixels = torch.rand(1, 3, TINY_SIZE, TINY_SIZE)
    with torch.no_grad():
        one = model.get_image_embeddings(pixels[:, [0, 0, 1, 2]])
        torch.testing.assert_close(one, plain.get_image_embeddings(pixels), rtol=0, atol=1e-6)


def test_it_is_trained_and_saved_with_the_adapter(model, tmp_path):
    labels = torch.randint(3, (1, TINY_SIZE // 4, TINY_SIZE // 4))
    model(torch.rand(1, 5, TINY_SIZE, TINY_SIZE), labels=labels).loss.backward()
    trained = [name for name, one in model.named_parameters() if "channel_projection" in name and one.requires_grad]
    assert len(trained) == 2
    assert all(model.get_parameter(name).grad.abs().sum() > 0 for name in trained)
    model.save_pretrained(tmp_path / "a")
    assert json.loads((tmp_path / "a" / "config.json").read_text())["channel_projection"] == 5
    shapes = {name: tuple(one.shape) for name, one in load_file(tmp_path / "a" / "adapter_model.safetensors").items()}
    assert shapes["base_model.model.channel_projection.weight"] == (3, 5, 1, 1)


def from_base(directory, tiny_sam):
    base = SamedForSemanticSegmentation.from_pretrained(
        tiny_sam, id2label=TINY_LABELS, channel_projection=5, image_size=TINY_SIZE
    )
    base.load_adapter(directory)
    return base


def from_peft(directory, tiny_sam):
    config = SamedConfig.from_pretrained(directory)
    base = SamedForSemanticSegmentation.from_pretrained(tiny_sam, config=config)
    return PeftModel.from_pretrained(base, directory).eval()


def merged(directory, tiny_sam):
    model = SamedForSemanticSegmentation.from_pretrained(directory).merge_and_unload()
    model.save_pretrained(directory.parent / "merged")
    return SamedForSemanticSegmentation.from_pretrained(directory.parent / "merged")


WAYS = {
    "from_pretrained": lambda directory, _: SamedForSemanticSegmentation.from_pretrained(directory),
    "auto": lambda directory, _: AutoModelForSemanticSegmentation.from_pretrained(directory),
    "load_adapter": from_base,
    "peft": from_peft,
    "merged": merged,
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT 0.21 asks for it
def test_every_way_of_loading_gives_the_same_logits(model, tiny_sam, tmp_path, way):
    model.save_pretrained(tmp_path / "a")
    loaded = WAYS[way](tmp_path / "a", tiny_sam)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_get_peft_model_with_the_module_named(tiny_sam, tmp_path):
    base = SamedForSemanticSegmentation.from_pretrained(
        tiny_sam, id2label=TINY_LABELS, channel_projection=5, image_size=TINY_SIZE
    )
    config = samed_lora_config()
    config.modules_to_save.append("channel_projection")
    peft_model = get_peft_model(base, config).eval()
    peft_model.save_pretrained(tmp_path / "a")
    base.config.save_pretrained(tmp_path / "a")
    loaded = SamedForSemanticSegmentation.from_pretrained(tmp_path / "a")
    torch.testing.assert_close(logits(loaded), logits(peft_model), rtol=0, atol=1e-5)


def test_it_stays_in_float32(model, tmp_path):
    with torch.no_grad():
        model.channel_projection.modules_to_save["default"].weight.fill_(1 / 3)
    model.merge_and_unload().save_pretrained(tmp_path)
    loaded = SamedForSemanticSegmentation.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(loaded.channel_projection.weight, torch.full((3, 5, 1, 1), 1 / 3))
    assert (loaded.dtype, logits(loaded).dtype) == (torch.bfloat16, torch.float32)


def test_other_numbers_of_channels_are_refused(model, tiny_sam, tmp_path):
    with pytest.raises(ValueError, match=r"\(1, 3, 32, 32\): expected \(batch_size, 5, "):
        model(torch.rand(1, 3, 32, 32))
    model.save_pretrained(tmp_path / "a")
    plain = SamedForSemanticSegmentation.from_pretrained(tiny_sam, id2label=TINY_LABELS, image_size=TINY_SIZE)
    with pytest.raises(ValueError, match="has the channel_projection 5, the model None"):
        plain.load_adapter(tmp_path / "a")
    with pytest.raises(ValueError, match="channel_projection is 65: expected 1 to 64"):
        SamedConfig(channel_projection=65)
    with pytest.raises(ValueError, match="channel_projection"):
        convert_original(tmp_path / "a", tmp_path / "a.pth")


def test_a_model_without_it_is_saved_as_before(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    assert not {"channel_projection", "regions"} & json.loads((tmp_path / "config.json").read_text()).keys()


def test_regions_are_those_of_the_active_adapter(tiny_model, tmp_path):
    tiny_model.config.regions = {"whole": [2, 1], "bar": [2]}
    tiny_model.add_adapter(samed_lora_config())
    tiny_model.save_pretrained(tmp_path / "a")
    loaded = SamedForSemanticSegmentation.from_pretrained(tmp_path / "a")
    assert list(loaded.config.regions.items()) == [("bar", [2]), ("whole", [2, 1])]
    loaded.delete_adapter("default")
    with pytest.raises(ValueError, match="regions is"):
        SamedConfig(id2label=TINY_LABELS, regions={"whole": [1, 9]})
