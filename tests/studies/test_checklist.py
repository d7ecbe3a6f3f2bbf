"""The reporting checklist of `samed-hf evaluate --checklist`: what it states, leaves out and calls unknown."""

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest

from samed_hf.cli import main

LABELS = {"background": 0, "disc": 1, "bar": 2}
TRAIN, HELD_OUT = [f"Doe^Jane_{i}" for i in range(4)], ["Roe_0", "Roe_1", "Roe_2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of the Decathlon's layout; the last validation case has no bar."""
    root = tmp_path_factory.mktemp("private") / "Mr_Smith"
    for name in TRAIN + HELD_OUT:
        label = np.zeros((20, 20, 2), np.uint8)
        label[4:12, 4:12], label[16:] = 1, 2 * (name != HELD_OUT[-1])
        for folder, array in (("imagesTr", (label * 100).astype(np.int16)), ("labelsTr", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), root / folder / f"{name}.nii.gz")
    pairs = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in TRAIN + HELD_OUT]
    content = {"name": "Shapes | `two`", "modality": {"0": "CT"}, "labels": {str(v): k for k, v in LABELS.items()}}
    content |= {"training": pairs, "validation_cases": HELD_OUT}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def adapter(tiny_adapter, data, tmp_path):
    """The adapter with settings of its training."""
    shutil.copytree(tiny_adapter, folder := tmp_path / "out" / "adapter")
    settings = {"data_dir": str(data), "optimizer": "adamw", "seed": 7, "learning_rate": 0.003, "max_train_steps": 5}
    settings |= {"per_device_train_batch_size": 3, "num_processes": 2, "gradient_accumulation_steps": 4}
    settings |= {"lr_warmup_steps": 1, "lr_power": 0.9, "weight_decay": 0.1, "augmentation": "none"}
    settings |= {"data_license": "cc-by-4.0", "cases": {"train": TRAIN, "validation": HELD_OUT, "test": []}}
    settings["run"] = {"data": "Shapes", "layout": "Medical Segmentation Decathlon", "data_fingerprint": "sha256:abc"}
    settings["run"] |= {"train_cases": 4, "validation_cases": 3, "test_cases": 0, "optimizer_steps": 5}
    (folder / "training_settings.json").write_text(json.dumps(settings))
    return folder


def checklist(adapter, data, out, *flags):
    """The draft's sections by their headings."""
    assert main(["evaluate", str(adapter), "--data", str(data), "--output", str(out), "--checklist", *flags]) == 0
    text = (out / "checklist.md").read_text()
    for name in (*TRAIN, *HELD_OUT, "Smith", str(data.parent), str(out.parent)):
        assert name not in text
    assert not re.search(r"\bNone\b(?! of)", text)
    return dict(re.findall(r"^##+ (.*?)\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE))


def test_facts_of_run_and_evaluation_are_stated(adapter, data, tmp_path):
    found = checklist(adapter, data, tmp_path / "scores")
    assert "Shapes &#124; &#96;two&#96; (layout" in found["Data"]  # the evaluated one, escaped
    assert all(fact in found["Data"] for fact in ("sha256:abc", "Licence: cc-by-4.0", "all 7 cases"))
    assert "4 cases to train on, 3 for validation, 0 for testing" in found["Partition"]
    assert "as the data set declares it" in found["Partition"]
    assert '3 cases of the split "validation"; none failed' in found["Scored cases"]
    assert "None of them was trained on" in found["Scored cases"]
    assert "All of them are validation cases" in found["Scored cases"]
    assert "| disc | 3 of 3 |\n| bar | 2 of 3 |" in found["Labels"]
    assert "5 optimizer steps of 24 slices" in found["Training"]
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    low, high = scores["intervals"]["per_class"]["bar"]["dice"]
    row = f"| bar | {scores['per_class']['bar']['dice']:.4f} | {low:.4f} to {high:.4f} | "
    assert row in found["Scores"]


@pytest.mark.slow
def test_cases_that_training_used_are_counted(adapter, data, tmp_path):
    assert "4 of them were trained on" in checklist(adapter, data, tmp_path / "a", "--split", "train")["Scored cases"]
    found = checklist(adapter, data, tmp_path / "b", "--num_folds", "2", "--fold", "1")
    assert 'split "validation", fold 1 of 2' in found["Scored cases"]
    chosen = {*json.loads((tmp_path / "b" / "metrics.json").read_text())["per_case"]}
    assert f"{len(chosen & {*TRAIN})} of them were trained on" in found["Scored cases"]
    assert f"{len(chosen & {*HELD_OUT})} of them are validation cases" in found["Scored cases"]


@pytest.mark.slow
def test_what_the_files_do_not_record_is_unknown(tiny_adapter, data, tmp_path):
    found = checklist(tiny_adapter, data, tmp_path / "scores")
    for section in ("Data", "Partition", "Scored cases", "Training", "Model selection", "Software and hardware"):
        assert "nknown" in found[section], section


@pytest.mark.slow
def test_weights_of_the_best_validation_are_named(adapter, data, tmp_path):
    shutil.copytree(adapter, best := adapter / "best")
    (best / "training_settings.json").unlink()
    (best / "validation.json").write_text("{}")
    assert "highest mean Dice" in checklist(best, data, tmp_path / "scores")["Model selection"]
    assert "after the last step" in checklist(adapter, data, tmp_path / "last")["Model selection"]


@pytest.mark.slow
def test_cases_of_a_published_adapter_are_not_compared(adapter, data, tmp_path):
    from samed_hf.hub.repository import lay_out_repository

    repository = lay_out_repository(adapter, tmp_path / "repository", repo_id="user/name", base=("user/sam", None))
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    flags = ("--base_model_name_or_path", base)
    found = checklist(repository, data, tmp_path / "scores", *flags)
    assert "a published adapter" in found["Scored cases"]
    assert "user/sam" in found["Model"]


@pytest.mark.slow
def test_only_the_last_shard_writes(adapter, data, tmp_path):
    out = tmp_path / "scores"
    flags = ["evaluate", str(adapter), "--data", str(data), "--output", str(out), "--checklist", "--shard"]
    assert main([*flags, "1/2"]) == 0
    assert not (out / "checklist.md").exists()
    assert main([*flags, "2/2"]) == 0
    assert "| bar | 2 of 3 |" in (out / "checklist.md").read_text()


def test_a_failed_case_is_counted(adapter, data, tmp_path):
    shutil.copytree(data, broken := tmp_path / "Mr_Smith")
    (broken / "imagesTr" / f"{HELD_OUT[0]}.nii.gz").write_bytes(b"no image")
    main(["evaluate", str(adapter), "--data", str(broken), "--output", str(tmp_path / "scores"), "--checklist"])
    assert "1 case could not be read or scored and is missing" in (tmp_path / "scores" / "checklist.md").read_text()
