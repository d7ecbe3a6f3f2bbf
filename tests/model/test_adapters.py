"""The life of adapters: loading with PEFT's arguments, PEFT's own directories, deleting, merging, and failures."""

import json
import logging
import shutil

import pytest
import torch
from peft import PeftConfig, get_peft_model
from safetensors.torch import load_file, save_file

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor, samed_lora_config
from samed_hf.model.random_sam import make_random_sam

from ..conftest import TINY_LABELS, TINY_SIZE, randomize_lora


@torch.no_grad()
def logits(model):
    return model(torch.rand(1, 3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(0))).logits


def load(directory, **options):
    return SamedForSemanticSegmentation.from_pretrained(directory, **options)


@pytest.fixture(scope="module")
def expected(tiny_adapter):
    return logits(load(tiny_adapter))


@pytest.fixture
def copied(tiny_adapter, tmp_path):
    return shutil.copytree(tiny_adapter, tmp_path / "copy")


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture
def warnings_of(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "options",
    [
        {"low_cpu_mem_usage": True},
        {"torch_device": "cpu", "ephemeral_gpu_offload": True, "autocast_adapter_dtype": True},
        {"device_map": "auto", "max_memory": {"cpu": "1GB"}, "offload_folder": "x", "hotswap": "auto"},
        {"device_map": {"": "cpu"}, "adapter_kwargs": {"local_files_only": True}},
    ],
)
def test_arguments_of_peft(tiny_adapter, tiny_model, expected, options):
    result = tiny_model.load_adapter(tiny_adapter, **options)
    assert not result.unexpected_keys
    assert torch.equal(logits(tiny_model), expected)


def test_the_data_type_of_a_loaded_adapter(tiny_adapter, tiny_sam):
    for autocast, dtype in ((False, torch.bfloat16), (True, torch.float32)):
        model = load(tiny_sam, image_size=TINY_SIZE, id2label=TINY_LABELS, dtype=torch.bfloat16)
        model.load_adapter(tiny_adapter, autocast_adapter_dtype=autocast)
        assert {p.dtype for name, p in model.named_parameters() if "lora_" in name} == {dtype}


def test_an_adapter_from_memory(tiny_adapter, tiny_model, expected):
    weights = load_file(tiny_adapter / "adapter_model.safetensors")
    tiny_model.load_adapter(peft_config=PeftConfig.from_pretrained(tiny_adapter), adapter_state_dict=weights)
    assert torch.equal(logits(tiny_model), expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hotswap": True}, ValueError, "hotswap is True"),
        ({"device_map": {"": "cuda:1"}}, ValueError, "device_map asks for 'cuda:1', but the model is on cpu"),
        ({"device_map": {"": 0}}, ValueError, "device_map asks for 0"),
        ({"offload": 1}, TypeError, "load_adapter got offload"),
        ({"peft_model_id": None}, ValueError, "Give peft_model_id, or both"),
    ],
)
def test_what_cannot_be_done_changes_nothing(tiny_adapter, tiny_model, options, error, message):
    before = logits(tiny_model)
    with pytest.raises(error, match=message):
        tiny_model.load_adapter(**({"peft_model_id": tiny_adapter} | options))
    assert torch.equal(logits(tiny_model), before)
    assert not hasattr(tiny_model, "peft_config")


@pytest.mark.slow
@pytest.mark.parametrize("has_other", [True, False])
@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("adapter_config.json", {"r": "2"}),
        ("adapter_config.json", {"target_modules": 3.5}),
        ("adapter_config.json", {"modules_to_save": 3.5}),
        ("adapter_config.json", {"lora_alpha": None}),
        ("adapter_config.json", {"bias": "x"}),
        ("adapter_config.json", {"peft_type": ["LORA"]}),
        ("adapter_config.json", {"base_model_name_or_path": {}}),
        ("config.json", {"id2label": ["background"]}),
        ("config.json", {"image_size": "64"}),
        ("config.json", {"vision_config": [1]}),
        ("config.json", {"dice_weight": None}),
        ("preprocessor_config.json", {"image_size": [64]}),
        ("preprocessor_config.json", {"intensity_window": 3.5}),
    ],
)
def test_wrong_types_in_a_file_are_named_and_change_nothing(copied, tiny_adapter, tiny_sam, file, values, has_other):
    edit(copied / file, **values)
    model = load(tiny_adapter) if has_other else load(tiny_sam, image_size=TINY_SIZE, id2label=TINY_LABELS)
    before, keys = logits(model), model.state_dict().keys()
    with pytest.raises(ValueError, match=f"{file}|{next(iter(values))} "):
        model.load_adapter(copied, "other")
    assert torch.equal(logits(model), before)
    assert model.state_dict().keys() == keys
    assert not any(parameter.requires_grad for parameter in model.parameters()) or not has_other


@pytest.mark.parametrize("content", [[1], "text", 3, None])
@pytest.mark.parametrize("file", ["adapter_config.json", "config.json", "preprocessor_config.json"])
def test_a_file_that_holds_no_dictionary(copied, file, content):
    (copied / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=file):
        load(copied)


@pytest.mark.parametrize("part", ["extra", "lora_A", "no_mask_embed"])
def test_a_damaged_adapter_leaves_a_model_without_adapters_unchanged(copied, tiny_model, part):
    weights = load_file(copied / "adapter_model.safetensors")
    key = next((key for key in weights if part in key), part)
    weights[key] = torch.zeros(1, 2)
    save_file(weights, copied / "adapter_model.safetensors", metadata={"format": "pt"})
    before, keys = logits(tiny_model), tiny_model.state_dict().keys()
    with pytest.raises(ValueError, match=rf"doesn't fit: \S*{part}"):
        tiny_model.load_adapter(copied)
    assert torch.equal(logits(tiny_model), before)
    assert tiny_model.state_dict().keys() == keys


def test_deleting_the_only_adapter_gives_the_base_model_back(tiny_adapter, tiny_sam, tmp_path):
    model = load(tiny_sam, image_size=TINY_SIZE, num_labels=5)
    before, keys = logits(model), model.state_dict().keys()
    model.load_adapter(tiny_adapter)
    assert model.config.num_labels == 3
    model.delete_adapter("default")
    assert model.config.num_labels == 5
    assert model.state_dict().keys() == keys
    assert torch.equal(logits(model), before)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path)), before)


def test_deleting_the_active_adapter_activates_the_labels_of_another(tiny_adapter, tiny_sam, tmp_path):
    other = load(tiny_sam, image_size=TINY_SIZE, num_labels=2)
    other.add_adapter(samed_lora_config(rank=2))
    other.save_pretrained(tmp_path)
    model = load(tiny_adapter)
    model.load_adapter(tmp_path, "other")
    assert model.config.num_labels == 2
    with pytest.warns(UserWarning, match="was active"):
        model.delete_adapter("other")
    assert model.config.id2label == TINY_LABELS
    assert logits(model).shape[1] == 3


def test_merging_by_name(tiny_adapter, expected, tiny_sam, tmp_path):
    other = load(tiny_sam, image_size=TINY_SIZE, num_labels=2)
    other.add_adapter(samed_lora_config(rank=2))
    randomize_lora(other)
    other.save_pretrained(tmp_path)
    model = load(tiny_adapter, adapter_name="first")
    model.load_adapter(tmp_path, "second")
    second = logits(model)
    for names, message in ((["first", "second"], "2 adapters are to be merged"), (["third"], "adapter_names has")):
        with pytest.raises(ValueError, match=message):
            model.merge_and_unload(adapter_names=names)
    assert torch.equal(logits(model), second)
    merged = model.merge_and_unload(progressbar=False, safe_merge=True, adapter_names=["first"])
    assert merged.config.id2label == TINY_LABELS
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-5)


def test_values_that_are_not_finite_are_not_merged(tiny_adapter):
    model = load(tiny_adapter)
    weight = model.sam.vision_encoder.layers[2].attn.q_proj.lora_A["default"].weight
    first = model.sam.vision_encoder.layers[0].attn.q_proj
    before = first.base_layer.weight.clone()
    weight.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"layers\.2\.attn\.q_proj\.lora_A\.default\.weight has values"):
        model.merge_and_unload()
    assert torch.equal(first.base_layer.weight, before)
    assert not first.merged
    model.merge_and_unload(safe_merge=False)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT 0.21 asks for it
def test_directories_of_get_peft_model(tiny_sam, tiny_model, tmp_path, warnings_of):
    peft_model = get_peft_model(tiny_model, samed_lora_config(rank=2)).eval()
    randomize_lora(peft_model)
    peft_model.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()
    loaded = load(tmp_path, image_size=TINY_SIZE, id2label=TINY_LABELS)
    assert torch.equal(logits(loaded), logits(peft_model))
    assert loaded.config.id2label == TINY_LABELS
    assert not warnings_of()
    # As many labels as the weights have, and the base's image size.
    assumed = load(tmp_path).config
    assert (assumed.num_labels, assumed.image_size) == (3, 128)
    assert "128 pixels" in warnings_of()[0]
    SamedImageProcessor(TINY_SIZE).save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path)), logits(peft_model))
    base = load(tiny_sam, image_size=TINY_SIZE, num_labels=7)
    base.load_adapter(tmp_path)
    assert torch.equal(logits(base), logits(peft_model))


def test_dropout_is_off_until_training(tiny_sam, tmp_path):
    model = load(tiny_sam, image_size=TINY_SIZE, id2label=TINY_LABELS)
    model.add_adapter(samed_lora_config(rank=2, lora_dropout=0.5))
    randomize_lora(model)
    assert torch.equal(logits(model), logits(model))
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(logits(loaded), logits(model))
    model.train().load_adapter(tmp_path, "other", is_trainable=True)
    assert model.sam.vision_encoder.layers[0].attn.q_proj.lora_dropout["other"].training


def test_a_base_of_other_weights_is_noticed(tiny_adapter, tiny_sam, tmp_path, warnings_of):
    trained = json.loads((tiny_adapter / "config.json").read_text())["base_fingerprint"]
    shape = {"image_size": 128, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "embedding_size": 32}
    other = make_random_sam(tmp_path / "other", seed=5, **shape)
    load(tiny_adapter, dtype=torch.bfloat16)
    assert not warnings_of()
    model = load(tiny_adapter, base_model_name_or_path=other)
    (warning,) = warnings_of()
    assert str(other) in warning
    assert str(tiny_sam.name) in warning
    assert trained[:19] in warning
    model.save_pretrained(tmp_path / "again")
    content = json.loads((tmp_path / "again" / "config.json").read_text())
    assert content["base_fingerprint"] not in (None, trained)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["base_fingerprint"] is None


@pytest.mark.parametrize("part", ["mask_decoder", "vision_encoder"])
def test_an_adapter_on_an_offloaded_model(tiny_adapter, expected, tmp_path, part):
    parts = ("shared_image_embedding", "prompt_encoder", "mask_decoder", "vision_encoder")
    devices = {f"sam.{name}": "disk" if name == part else "cpu" for name in parts}
    with pytest.raises(ValueError, match="A model that device_map offloads"):
        load(tiny_adapter, device_map=devices, offload_folder=tmp_path / "a")
    load(tiny_adapter).merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = load(tmp_path / "merged", device_map=devices, offload_folder=tmp_path / "b")
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="A model that device_map offloads"):
        merged.add_adapter(samed_lora_config(rank=2))
