"""Several data sets as one."""

import numpy as np
import pytest

from samed_hf.data import DataArguments, read_data
from samed_hf.hub.repository import public_settings
from samed_hf.training.arguments import SamedTrainingArguments
from samed_hf.training.data import read_training_data
from samed_hf.training.settings_file import parse_arguments

from ..data_folders import make_scans, write_decathlon, write_folders, write_nnunet
from .test_patients import counts

SCANS = make_scans(3)


def test_data_sets_of_the_same_labels_are_one(tmp_path):
    one = write_folders(tmp_path / "clinic_a", SCANS)
    two = write_decathlon(tmp_path / "clinic_b", SCANS, validation_cases=["case_01"], modality={"0": "image"})
    data = read_data([one, str(two)])
    assert data.train == [*(f"clinic_a-{name}" for name in SCANS), "clinic_b-case_00", "clinic_b-case_02"]
    assert data.validation == ["clinic_b-case_01"]
    found = counts(data)
    for name, (_, label) in SCANS.items():
        assert found[f"clinic_a-{name}"] == found[f"clinic_b-{name}"] == np.bincount(label.ravel()).tolist()
    assert read_data([one]).train == list(SCANS)


def test_directories_of_one_name_and_one_directory_twice(tmp_path):
    roots = [write_folders(tmp_path / name / "data", SCANS) for name in "ab"]
    assert read_data(roots).train == [f"{name}-data-{case}" for name in "ab" for case in SCANS]
    with pytest.raises(ValueError, match=r"a/data twice"):
        read_data([roots[0], roots[0]])


def test_other_labels_or_channels_are_refused(tmp_path):
    one = write_folders(tmp_path / "a", SCANS)
    two = write_nnunet(tmp_path / "b", SCANS, channel_names={"0": "image"}, labels={"background": 0, "x": 1, "bar": 2})
    with pytest.raises(ValueError, match=r"/a has the id2label .*'disc'.*/b .*'x'"):
        read_data([one, two])
    three = write_nnunet(tmp_path / "c", SCANS)
    with pytest.raises(ValueError, match=r"/a has the channel_names .*image.*/c .*T1"):
        read_data([one, three])


def test_settings_have_one_or_several(tmp_path):
    assert DataArguments(data_dir=["a"]).data_dir == "a"
    assert parse_arguments(["--data_dir", "a"]).data_dir == "a"
    assert parse_arguments(["--data_dir", "a", "b", "--rank", "2"]).read_options()["data_dir"] == ["a", "b"]
    for text, value in (("a", "a"), ("[a, b]", ["a", "b"])):
        (tmp_path / "run.yaml").write_text(f"data_dir: {text}\n")
        assert parse_arguments(["--config", str(tmp_path / "run.yaml")]).data_dir == value


def test_training_divides_several_data_sets(tmp_path):
    roots = [str(write_folders(tmp_path / name, SCANS)) for name in ("clinic_a", "clinic_b")]
    data = read_training_data(SamedTrainingArguments(data_dir=roots, num_validation_cases=2))
    assert (len(data.train), len(data.validation)) == (4, 2)
    assert data.explanation.startswith("clinic_a: ")


@pytest.mark.parametrize(
    ("data_dir", "name"), [(["x/oncology7", "x/b"], "oncology7 and b"), ("x/ward3/cases.csv", "ward3")]
)
def test_names_of_directories_are_not_published(data_dir, name):
    settings = {"data_dir": data_dir, "run": {"data": name, "layout": "listing"}}
    assert public_settings(settings, {}, None)["run"] == {"layout": "listing"}


def test_another_number_of_channels_than_the_model_has(tmp_path):
    data = read_data(write_folders(tmp_path / "a", SCANS))
    data.expect_channels(1)
    with pytest.raises(ValueError, match="has the channels image, the model 3"):
        data.expect_channels(3)
