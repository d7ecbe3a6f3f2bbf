import re
import shlex

import nibabel as nib
import numpy as np
import pytest
from huggingface_hub import ModelCard

from samed_hf.card import write_card
from samed_hf.cli import main

METRICS = {
    "protocol": "strict",
    "distance_unit": "mm",
    "mean": {"dice": 0.45, "hd95": 1.5},
    "per_class": {"disc": {"dice": 0.9, "hd95": 1.504}, "bar": {"dice": 0.0, "hd95": None}},
    "per_case": {"case0006": {}, "case0007": {}},
}


@pytest.fixture
def card(tmp_path):
    """Writes a card with some things changed and reads it."""

    def write(**changes):
        options = {
            "name": "ward/discs",
            "base_model": "facebook/sam-vit-base",
            "random_base": False,
            "id2label": {2: "bar", 0: "background", 1: "disc"},
            "image_size": 64,
            "settings": {"rank": 4, "learning_rate": 0.005, "gradient_checkpointing": False, "max_train_steps": None},
            "deviations": None,
            "metrics": METRICS,
            "data": "18 cases",
        }
        write_card(tmp_path, **(options | changes))
        return ModelCard.load(tmp_path / "README.md")

    return write


def tables(text):
    """The tables of a page, each a list of rows, each a list of cells."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in block.splitlines()] for block in blocks]


def test_the_hub_can_file_it(card):
    data = card().data.to_dict()
    assert data["base_model"] == "facebook/sam-vit-base"
    assert data["base_model_relation"] == "adapter"
    assert data["library_name"] == "samed_hf"
    assert data["pipeline_tag"] == "image-segmentation"
    assert data["license"] == "apache-2.0"
    assert {"medical", "lora"} <= set(data["tags"])


def test_a_base_that_is_not_on_the_hub_is_not_named(card):
    assert not {"base_model", "base_model_relation"} & set(card(base_model=None).data.to_dict())


def test_it_says_what_the_adapter_is(card):
    text = card().text
    assert "\n# ward/discs\n" in text
    assert "It segments disc, bar, in axial slices at 64×64 pixels." in text
    assert "background," not in text
    assert "Trained on 18 cases." in text
    assert "not a medical device" in text


def test_the_scores_are_those_of_the_run(card):
    page = card()
    assert "Protocol `strict`, 2 cases, none of them trained on; HD95 in mm." in page.text
    assert [
        ["label", "DSC", "HD95"],
        ["---", "---", "---"],
        ["disc", "0.9000", "1.50"],
        ["bar", "0.0000", "–"],
        ["**mean**", "0.4500", "1.50"],
    ] in tables(page.text)


def test_means_that_are_not_defined(card):
    metrics = METRICS | {"mean": {"dice": None, "hd95": None}, "distance_unit": "voxel"}
    text = card(metrics=metrics).text
    assert "| **mean** | – | – |" in text
    assert "HD95 in voxel." in text


def test_an_adapter_that_was_not_scored(card):
    text = card(metrics=None).text
    assert "This adapter has not been scored." in text
    assert "Protocol" not in text
    assert "not been scored" not in card().text


def test_random_weights_are_confessed(card):
    assert "**random weights**" in card(random_base=True).text
    assert "random weights" not in card(random_base=False).text


def test_the_settings_without_those_left_open(card):
    assert [
        ["setting", "value"],
        ["---", "---"],
        ["rank", "4"],
        ["learning_rate", "0.005"],
        ["gradient_checkpointing", "False"],
    ] in tables(card().text)


def test_it_says_how_far_it_is_the_papers_run(card):
    settings = {"preset": "samed_h"}
    text = card(settings=settings, deviations=["rank 8 instead of 4", "no warmup"]).text
    assert "Settings of the paper's run `samed_h`, but for: rank 8 instead of 4; no warmup." in text
    assert "Settings of the paper's run `samed_h`, without exception." in card(settings=settings, deviations=[]).text
    assert "paper's run" not in card(deviations=None).text


def test_no_placeholder_is_left(card):
    for changes in ({}, {"metrics": None, "base_model": None, "random_base": True, "settings": {}}):
        assert not re.search(r"{[{%]|[%}]}|\bNone\b|\bUndefined\b", card(**changes).text)


def test_a_new_card_replaces_the_old_one_and_nothing_else_is_left(card, tmp_path):
    card()
    assert "# other" in card(name="other").text
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_card(
            tmp_path / "missing",
            name="a",
            base_model=None,
            random_base=False,
            id2label={0: "background"},
            image_size=64,
            settings={},
            deviations=None,
            metrics=None,
            data="nothing",
        )
    assert list(tmp_path.iterdir()) == []


def test_the_snippets_work(card, tiny_adapter, tmp_path, monkeypatch):
    text = card(name=str(tiny_adapter)).text
    monkeypatch.chdir(tmp_path)
    scan = np.random.default_rng(0).normal(50, 90, (20, 24, 2)).astype(np.int16)
    nib.save(nib.Nifti1Image(scan, np.diag([2, 2, 5, 1.0])), "scan.nii.gz")
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], {})
    command = shlex.split(re.search(r"`(samed-hf predict .*?)`", text)[1])
    assert main(command[1:]) == 0
    ours, theirs = nib.load("segmentation.nii.gz"), nib.load("segmentations/scan.nii.gz")
    assert ours.shape == scan.shape
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
