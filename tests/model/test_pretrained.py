import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, SamModel

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor
from samed_hf.model.random_sam import make_random_sam

from ..conftest import TINY_LABELS, TINY_SIZE

PIXELS = torch.rand(2, 3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(5))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(PIXELS).logits


def test_a_plain_sam_is_split_and_interpolated(tiny_sam, tiny_model):
    plain = SamModel.from_pretrained(tiny_sam)
    attention, split = plain.vision_encoder.layers[1].attn, tiny_model.sam.vision_encoder.layers[1].attn
    fused = torch.cat([split.q_proj.weight, split.k_proj.weight, split.v_proj.weight])
    assert torch.equal(fused, attention.qkv.weight)
    resized = torch.nn.functional.interpolate(
        plain.vision_encoder.pos_embed.permute(0, 3, 1, 2), (4, 4), mode="bilinear", align_corners=False
    )
    assert torch.equal(tiny_model.sam.vision_encoder.pos_embed, resized.permute(0, 2, 3, 1))
    assert split.rel_pos_h.shape == (7, 8)  # global: 2 · 4 - 1
    windowed = tiny_model.sam.vision_encoder.layers[0].attn.rel_pos_h
    assert torch.equal(windowed, plain.vision_encoder.layers[0].attn.rel_pos_h)


def test_label_heads_are_fresh_even_if_the_checkpoints_fit(tiny_sam):
    model = SamedForSemanticSegmentation.from_pretrained(tiny_sam, num_labels=4)
    plain = SamModel.from_pretrained(tiny_sam)
    assert model.sam.mask_decoder.mask_tokens.weight.shape == plain.mask_decoder.mask_tokens.weight.shape
    assert not torch.equal(model.sam.mask_decoder.mask_tokens.weight, plain.mask_decoder.mask_tokens.weight)
    assert torch.equal(model.sam.mask_decoder.iou_token.weight, plain.mask_decoder.iou_token.weight)


def test_files_of_an_adapter(tiny_adapter):
    assert {path.name for path in tiny_adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "preprocessor_config.json",
    }
    assert json.loads((tiny_adapter / "config.json").read_text())["architectures"] == ["SamedForSemanticSegmentation"]
    assert not any("base_layer" in key for key in load_file(tiny_adapter / "adapter_model.safetensors"))


def test_saving_and_loading_an_adapter_is_exact(tiny_adapter, tmp_path):
    model = SamedForSemanticSegmentation.from_pretrained(tiny_adapter)
    assert model.config.id2label == TINY_LABELS
    assert model.image_processor.input_size == 48
    model.save_pretrained(tmp_path / "again")
    again = SamedForSemanticSegmentation.from_pretrained(tmp_path / "again")
    assert torch.equal(logits(again), logits(model))
    assert again.image_processor.input_size == 48
    first, second = (
        load_file(directory / "adapter_model.safetensors") for directory in (tiny_adapter, tmp_path / "again")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_merged_model_is_saved_whole_and_loaded_exactly(tiny_adapter, tmp_path):
    merged = SamedForSemanticSegmentation.from_pretrained(tiny_adapter).merge_and_unload()
    merged.save_pretrained(tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    assert "sam.vision_encoder.layers.0.attn.qkv.weight" in load_file(tmp_path / "model.safetensors")
    loaded = SamedForSemanticSegmentation.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded), logits(merged), rtol=0, atol=1e-6)
    for layer in merged.sam.vision_encoder.layers:
        layer.attn.split_projections()
    assert merged.state_dict().keys() == loaded.state_dict().keys()
    for name, tensor in merged.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_auto_classes(tiny_adapter):
    model = AutoModelForSemanticSegmentation.from_pretrained(tiny_adapter)
    assert isinstance(model, SamedForSemanticSegmentation)
    assert torch.equal(logits(model), logits(SamedForSemanticSegmentation.from_pretrained(tiny_adapter)))
    assert isinstance(AutoImageProcessor.from_pretrained(tiny_adapter), SamedImageProcessor)


def test_dtype_and_device_map(tiny_adapter):
    model = SamedForSemanticSegmentation.from_pretrained(tiny_adapter, dtype=torch.bfloat16, device_map="cpu")
    assert model.dtype == torch.bfloat16
    torch.testing.assert_close(
        logits(model).float(), logits(SamedForSemanticSegmentation.from_pretrained(tiny_adapter)), rtol=0.1, atol=0.1
    )


def test_a_base_inside_the_adapters_directory_moves_with_it(tmp_path):
    make_random_sam(tmp_path / "run" / "base_model", image_size=64, hidden_size=16, num_heads=2, embedding_size=16)
    from samed_hf import samed_lora_config

    model = SamedForSemanticSegmentation.from_pretrained(tmp_path / "run" / "base_model", num_labels=3)
    model.add_adapter(samed_lora_config(rank=2))
    model.save_pretrained(tmp_path / "run")
    assert (
        json.loads((tmp_path / "run" / "adapter_config.json").read_text())["base_model_name_or_path"] == "./base_model"
    )
    expected = logits(model)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert torch.equal(logits(SamedForSemanticSegmentation.from_pretrained(tmp_path / "moved")), expected)


@pytest.fixture
def copied(tiny_adapter, tmp_path):
    return shutil.copytree(tiny_adapter, tmp_path / "copy")


def set_base(directory, base: str) -> None:
    content = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(content | {"base_model_name_or_path": base}))


def test_a_base_that_cannot_be_found(copied, tiny_sam):
    set_base(copied, "/nowhere/sam")
    with pytest.raises(FileNotFoundError, match="needs the base model '/nowhere/sam', which can't be found"):
        SamedForSemanticSegmentation.from_pretrained(copied)
    model = SamedForSemanticSegmentation.from_pretrained(copied, base_model_name_or_path=tiny_sam)
    assert model.config.id2label == TINY_LABELS


def test_a_base_of_another_geometry(copied, tmp_path):
    make_random_sam(tmp_path / "other", image_size=64, hidden_size=48, num_heads=4, embedding_size=32)
    set_base(copied, str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"isn't the one of the adapter .*vision_config.hidden_size 48 instead of 32"):
        SamedForSemanticSegmentation.from_pretrained(copied)


def test_a_truncated_adapter(copied):
    path = copied / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="can't be loaded"):
        SamedForSemanticSegmentation.from_pretrained(copied)


@pytest.mark.parametrize("part", ["lora_A", "mask_decoder.upscale_conv1.bias", "no_mask_embed"])
def test_an_adapter_with_a_tensor_missing(copied, part):
    tensors = load_file(copied / "adapter_model.safetensors")
    del tensors[next(key for key in tensors if part in key)]
    save_file(tensors, copied / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"doesn't fit: \S*{part}\S* is missing\."):
        SamedForSemanticSegmentation.from_pretrained(copied)


def test_a_failed_save_leaves_the_old_adapter(copied, monkeypatch):
    model = SamedForSemanticSegmentation.from_pretrained(copied)
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    monkeypatch.setattr(SamedImageProcessor, "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(copied)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_saving_over_a_file(tiny_model, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="save_directory is the file"):
        tiny_model.save_pretrained(tmp_path / "file")


def test_what_transformers_takes(tiny_sam, tiny_adapter, tmp_path):
    load = SamedForSemanticSegmentation.from_pretrained
    for source in (tiny_sam, tiny_adapter):
        model, info = load(source, output_loading_info=True, output_hidden_states=True, dice_weight=0.5)
        assert info["missing_keys"] == info["unexpected_keys"] == set()
        assert (model.config.output_hidden_states, model.config.dice_weight) == (True, 0.5)
        pixels = torch.zeros(1, 3, model.config.image_size, model.config.image_size)
        assert len(model(pixels).hidden_states) == 5
    model = load(tiny_sam, vision_config={"image_size": 64, "window_size": 3})
    assert (model.config.image_size, model.sam.vision_encoder.layers[0].attn.window_size) == (64, 3)
    assert model.sam.mask_decoder.config.num_multimask_outputs == 1
    again = load(None, config=model.config, state_dict=model.state_dict())
    assert torch.equal(logits(again), logits(model))
    model.half().save_pretrained(tmp_path)
    assert load(tmp_path, dtype="auto").dtype == load(tmp_path).dtype == torch.float16
    assert load(tiny_adapter, id2label={0: "background", 1: "x", 2: "y"}).config.label2id["y"] == 2


def test_another_number_of_labels(tiny_model, tiny_adapter, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    load = SamedForSemanticSegmentation.from_pretrained
    with pytest.raises(ValueError, match="predicts 3 labels, but id2label or num_labels asks for 5"):
        load(tmp_path, num_labels=5)
    model, info = load(tmp_path, num_labels=5, ignore_mismatched_sizes=True, output_loading_info=True)
    assert logits(model).shape[1] == 5
    assert any("mask_tokens" in key for key, *_ in info["mismatched_keys"])
    with pytest.raises(ValueError, match=r"predicts 3 labels, but its config\.json, or .*, has 5"):
        load(tiny_adapter, num_labels=5)
    # An adapter brings its own label heads: those of its base may be others.
    base = load(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    base.save_pretrained(tmp_path / "base")
    torch.testing.assert_close(
        logits(load(tiny_adapter, base_model_name_or_path=tmp_path / "base")),
        logits(load(tiny_adapter)),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("not enough memory")])
def test_memory_is_not_told_as_damage(tiny_adapter, tiny_sam, error, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(SamedForSemanticSegmentation, "_load_pretrained_model", fail)
    for source in (tiny_sam, tiny_adapter):
        with pytest.raises(type(error), match=str(error)):
            SamedForSemanticSegmentation.from_pretrained(source)


def test_the_meta_device_is_refused_by_transformers(tiny_adapter):
    with torch.device("meta"), pytest.raises(RuntimeError, match="meta device context manager"):
        SamedForSemanticSegmentation.from_pretrained(tiny_adapter)
