"""Adapters side by side on one model, also with different labels."""

import shutil

import pytest
import torch

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor, samed_lora_config

from ..conftest import TINY_SIZE, randomize_lora

LABELS = {"few": {0: "background", 1: "spleen"}, "many": {0: "background", 1: "liver", 2: "aorta", 3: "stomach"}}


def save_adapter(base, directory, labels, seed, variant="samed", image_size=TINY_SIZE):
    torch.manual_seed(seed)
    model = SamedForSemanticSegmentation.from_pretrained(base, image_size=image_size, id2label=labels)
    model.add_adapter(samed_lora_config(rank=2, variant=variant))
    randomize_lora(model)
    model.save_pretrained(directory, image_processor=SamedImageProcessor(image_size, (-10, seed)))
    return directory


@pytest.fixture(scope="module", params=["samed", "samed_s"])
def saved(request, tiny_sam, tmp_path_factory):
    """The directories of two adapters with different labels, and the logits of each loaded alone."""
    root = tmp_path_factory.mktemp("adapters")
    directories, expected = {}, {}
    for seed, (name, labels) in enumerate(LABELS.items(), start=1):
        directories[name] = save_adapter(tiny_sam, root / name, labels, seed, request.param)
        expected[name] = logits(SamedForSemanticSegmentation.from_pretrained(directories[name]))
    return directories, expected


@torch.no_grad()
def logits(model):
    pixels = torch.rand(2, 3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(0))
    return model.eval()(pixels).logits


def check(model, name, expected):
    assert torch.equal(logits(model), expected[name])
    assert model.config.id2label == LABELS[name]
    assert model.config.num_labels == len(LABELS[name])
    assert model.image_processor.intensity_window == [-10, 1 + list(LABELS).index(name)]


@pytest.mark.slow
@pytest.mark.parametrize("order", [("few", "many"), ("many", "few")])
def test_each_adapter_gives_the_outputs_that_it_gives_alone(saved, order):
    directories, expected = saved
    first, second = order
    model = SamedForSemanticSegmentation.from_pretrained(directories[first], adapter_name=first)
    model.load_adapter(directories[second], second)
    check(model, second, expected)
    for name in (first, second, first):
        model.set_adapter(name)
        check(model, name, expected)
    assert not any(parameter.requires_grad for name, parameter in model.named_parameters() if "iou_prediction" in name)


@pytest.mark.slow
def test_the_active_adapter_is_saved_and_merged(saved, tmp_path):
    directories, expected = saved
    model = SamedForSemanticSegmentation.from_pretrained(directories["few"])
    model.load_adapter(directories["many"], "b")  # a name that is part of many others
    model.save_pretrained(tmp_path / "again")
    check(SamedForSemanticSegmentation.from_pretrained(tmp_path / "again"), "many", expected)
    model.delete_adapter("default")
    check(model, "many", expected)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected["many"], rtol=0, atol=1e-5)


def test_a_plain_sam_loads_an_adapter_of_any_labels(saved, tiny_sam):
    directories, expected = saved
    model = SamedForSemanticSegmentation.from_pretrained(tiny_sam, image_size=TINY_SIZE, num_labels=7)
    model.load_adapter(directories["many"])
    check(model, "many", expected)


def test_a_failed_load_leaves_the_model_unchanged(saved, tiny_sam, tmp_path):
    directories, expected = saved
    model = SamedForSemanticSegmentation.from_pretrained(directories["few"])
    damaged = shutil.copytree(directories["many"], tmp_path / "damaged")
    weights = (damaged / "adapter_model.safetensors").read_bytes()
    (damaged / "adapter_model.safetensors").write_bytes(weights[:2000])
    # The labels of the config are not those of the weights.
    other = shutil.copytree(directories["many"], tmp_path / "other")
    shutil.copyfile(directories["few"] / "config.json", other / "config.json")
    larger = save_adapter(tiny_sam, tmp_path / "larger", LABELS["few"], 3, image_size=128)
    for directory, message in (
        (damaged, "can't be loaded"),
        (other, "predicts 4 labels, but its config.json.* has 2"),
        (larger, "trained at 128 pixels, the model is built for 64"),
    ):
        with pytest.raises(ValueError, match=message):
            model.load_adapter(directory, "new")
        check(model, "few", expected)
        assert set(model.peft_config) == {"default"}
    with pytest.raises(ValueError, match="adapter_name 'default'"):
        model.load_adapter(directories["many"])
    with pytest.raises(FileNotFoundError, match="holds no adapter"):
        model.load_adapter(tiny_sam, "new")
    model.load_adapter(directories["many"], "new")
    check(model, "many", expected)


def test_adapters_of_two_variants_are_refused(tiny_sam, tmp_path):
    samed = save_adapter(tiny_sam, tmp_path / "samed", LABELS["few"], 1)
    samed_s = save_adapter(tiny_sam, tmp_path / "samed_s", LABELS["few"], 1, "samed_s")
    model = SamedForSemanticSegmentation.from_pretrained(samed)
    with pytest.raises(ValueError, match="another variant"):
        model.load_adapter(samed_s, "other")


def test_a_relative_base_is_not_searched_in_the_working_directory(tmp_path, tiny_sam, monkeypatch):
    shutil.copytree(tiny_sam, tmp_path / "run" / "base_model")
    save_adapter(tmp_path / "run" / "base_model", tmp_path / "run", LABELS["few"], 1)
    shutil.copytree(tiny_sam, tmp_path / "elsewhere" / "base_model")
    shutil.rmtree(tmp_path / "run" / "base_model")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"needs the base model '\./base_model'"):
        SamedForSemanticSegmentation.from_pretrained(tmp_path / "run")


@pytest.mark.parametrize("loaded", [False, True])
def test_only_the_adapter_that_was_added_last_is_trainable(tiny_sam, tmp_path, loaded):
    labels = {0: "background", 1: "spleen"}
    model = SamedForSemanticSegmentation.from_pretrained(tiny_sam, image_size=TINY_SIZE, id2label=labels)
    model.add_adapter(samed_lora_config(rank=2), "one")
    if loaded:
        model.load_adapter(save_adapter(tiny_sam, tmp_path / "two", labels, 1), "two", is_trainable=True)
    else:
        model.add_adapter(samed_lora_config(rank=2), "two")
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable
    assert all("two" in name.split(".") for name in trainable)
    model.set_adapter("one")
    assert {name.replace(".two.", ".one.") for name in trainable} == {
        name for name, parameter in model.named_parameters() if parameter.requires_grad
    }
