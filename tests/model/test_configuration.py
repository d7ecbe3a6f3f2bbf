import json

import pytest
from transformers import AutoConfig, SamConfig

from samed_hf import SamedConfig


def test_a_sam_config_becomes_a_samed_one(tiny_sam):
    config = SamedConfig.from_pretrained(tiny_sam, image_size=96, id2label={0: "background", 1: "liver"})
    assert config.model_type == "samed"
    assert config.vision_config.image_size == config.prompt_encoder_config.image_size == 96
    assert config.prompt_encoder_config.image_embedding_size == 6
    assert config.mask_decoder_config.num_multimask_outputs == 1
    assert config.label2id == {"background": 0, "liver": 1}


def test_the_image_size_defaults_to_the_checkpoints(tiny_sam):
    assert SamedConfig.from_pretrained(tiny_sam).image_size == 128


def test_save_and_load(tmp_path):
    SamedConfig(image_size=64, id2label={0: "background", 1: "a", 2: "b"}, dice_weight=0.5).save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, SamedConfig)
    assert (loaded.image_size, loaded.num_labels, loaded.dice_weight) == (64, 3, 0.5)
    assert loaded.id2label == {0: "background", 1: "a", 2: "b"}
    assert SamedConfig.from_pretrained(tmp_path, num_labels=3).id2label == {0: "background", 1: "a", 2: "b"}


def test_num_labels_without_names(tiny_sam):
    assert SamedConfig.from_pretrained(tiny_sam, num_labels=4).id2label == {
        0: "background",
        1: "label_1",
        2: "label_2",
        3: "label_3",
    }


@pytest.mark.parametrize("size", [100, 0, -16])
def test_an_image_size_that_is_no_multiple_of_16(tiny_sam, size):
    with pytest.raises(ValueError, match=f"image_size is {size}: expected a positive multiple of 16"):
        SamedConfig.from_pretrained(tiny_sam, image_size=size)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({1: "liver", 2: "spleen"}, "expected 0, 1, … without a gap"),
        ({0: "background"}, "at least two"),
        ({0: "background", 1: "liver", 2: "liver"}, "names a label twice"),
    ],
)
def test_bad_labels(tiny_sam, labels, message):
    with pytest.raises(ValueError, match=message):
        SamedConfig.from_pretrained(tiny_sam, id2label=labels)


def test_contradicting_numbers_of_labels(tiny_sam):
    with pytest.raises(ValueError, match="num_labels is 5 but id2label names 2"):
        SamedConfig.from_pretrained(tiny_sam, num_labels=5, id2label={0: "background", 1: "a"})


def test_other_models_are_refused(tmp_path):
    content = SamConfig().to_dict() | {"model_type": "sam_hq"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="model_type is 'sam_hq': expected 'sam'"):
        SamedConfig.from_pretrained(tmp_path)


def test_dice_weight_out_of_range():
    with pytest.raises(ValueError, match=r"dice_weight is 1\.5"):
        SamedConfig(dice_weight=1.5, id2label={0: "background", 1: "a"})


def test_a_loss_resolution_that_there_is_not():
    with pytest.raises(ValueError, match=r"loss_resolution is 'high': expected 'low' or 'full'"):
        SamedConfig(loss_resolution="high")


@pytest.mark.parametrize(
    "values", [{}, {"num_labels": 4}, {"image_size": 64, "dice_weight": 0.5, "loss_resolution": "full"}]
)
def test_a_saved_config_equals_itself(values, tmp_path):
    config = SamedConfig(**values)
    config.save_pretrained(tmp_path)
    assert SamedConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert config.id2label[1] == "label_1"


def test_values_of_sub_configs_and_unused_arguments(tiny_sam):
    values = {"vision_config": {"image_size": 64}, "output_hidden_states": True, "image_size": None, "other": 1}
    config, unused = SamedConfig.from_pretrained(tiny_sam, return_unused_kwargs=True, **values)
    assert config.image_size == config.vision_config.image_size == config.prompt_encoder_config.image_size == 64
    assert config.vision_config.hidden_size == 32
    assert unused == {"other": 1}
