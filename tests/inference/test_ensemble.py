"""Directories of ensembles: what is written, how it is loaded and moved, and what is refused."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from samed_hf.cli import main
from samed_hf.inference import Segmenter, predict_slices, write_ensemble
from samed_hf.inference.slices import predict_logits
from samed_hf.model import SamedForSemanticSegmentation
from samed_hf.model.post_processing import resize_logits
from samed_hf.model.random_sam import make_random_sam
from samed_hf.volumes import read_volume


@pytest.fixture(scope="module")
def study(tiny_adapter, tiny_sam, tmp_path_factory):
    """O with two folds, each with the same base model of random weights in it, as `train` writes it."""
    output = tmp_path_factory.mktemp("study") / "O"
    for fold in (0, 1):
        directory = output / f"fold-{fold}"
        shutil.copytree(tiny_sam, directory / "base_model")
        model = SamedForSemanticSegmentation.from_pretrained(tiny_adapter)
        model.peft_config["default"].base_model_name_or_path = str(directory / "base_model")
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight *= 1 + fold
        model.save_pretrained(directory)
    write_ensemble(output / "ensemble", {f"fold-{fold}": output / f"fold-{fold}" for fold in (0, 1)})
    nib.save(
        nib.Nifti1Image(np.random.default_rng(0).normal(50, 400, (40, 36, 3)).astype(np.int16), np.eye(4)),
        output / "s.nii",
    )
    return output


def predict(*argv):
    return main(["predict", *map(str, argv), "--no_preview", "--no_report"])


def test_the_base_is_copied_once_and_the_directory_can_be_moved(study, tmp_path):
    moved = shutil.copytree(study / "ensemble", tmp_path / "elsewhere")
    assert sorted(path.name for path in moved.iterdir()) == ["base_model", "ensemble.json", "fold-0", "fold-1"]
    for fold in (0, 1):
        content = json.loads((moved / f"fold-{fold}" / "adapter_config.json").read_text())
        assert content["base_model_name_or_path"] == "../base_model"
    segmenter = Segmenter.load(moved)
    assert segmenter.names == (str(moved / "fold-0"), str(moved / "fold-1"))
    alone = [Segmenter.load([str(study / f"fold-{fold}")]).fingerprints()[0] for fold in (0, 1)]
    assert segmenter.fingerprints() == alone
    assert segmenter.models[0].base_model.config.name_or_path.startswith(str(moved))


def test_a_base_elsewhere_is_referenced(tiny_adapter, tiny_sam, tmp_path):
    write_ensemble(tmp_path / "O" / "ensemble", {"fold-0": tiny_adapter})
    content = json.loads((tmp_path / "O" / "ensemble" / "fold-0" / "adapter_config.json").read_text())
    assert content["base_model_name_or_path"] == str(tiny_sam.resolve())


def test_bases_that_differ_are_both_copied(study, tmp_path):
    output = shutil.copytree(study, tmp_path / "O")
    shutil.rmtree(output / "fold-1" / "base_model")
    make_random_sam(
        output / "fold-1" / "base_model",
        image_size=128,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        embedding_size=32,
        seed=9,
    )
    write_ensemble(output / "ensemble", {f"fold-{fold}": output / f"fold-{fold}" for fold in (0, 1)})
    bases = [
        json.loads((output / "ensemble" / f"fold-{fold}" / "adapter_config.json").read_text())[
            "base_model_name_or_path"
        ]
        for fold in (0, 1)
    ]
    assert bases == ["../base_model", "../base_model_1"]


@pytest.mark.slow
def test_every_way_of_naming_an_ensemble_predicts_the_same(study, tmp_path):
    ensemble, scan = study / "ensemble", study / "s.nii"
    calls = {
        "named": [ensemble, scan],
        "listed": [study / "fold-0", scan, "--ensemble", study / "fold-1"],
        "alone": [scan, "--ensemble", ensemble],
        "added": [study / "fold-0", scan, "--ensemble", ensemble],
    }
    results, members = {}, {}
    for name, argv in calls.items():
        assert predict(*argv, "--output", tmp_path / name) == 0
        results[name] = read_volume(tmp_path / name / "s.nii").array
        run = json.loads((tmp_path / name / "predictions.json").read_text())
        members[name] = [path.split("/")[-1] for path in run["settings"]["members"]]
        assert len(run["notes"]) == (name == "added")
    assert set(map(tuple, members.values())) == {("fold-0", "fold-1")}
    for one in results.values():
        np.testing.assert_array_equal(one, results["named"])


def test_a_directory_of_scans_is_no_adapter(study, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(study / "s.nii", scans)
    assert predict(scans, study / "s.nii", "--ensemble", study / "ensemble", "--output", tmp_path / "out") == 0
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"]) == 2


def test_a_missing_input_is_named(study, tmp_path, capsys):
    assert predict(study / "fold-0", "--ensemble", study / "ensemble", "--output", tmp_path / "out") == 2
    assert "INPUT is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda path: (path / "fold-1" / "adapter_model.safetensors").write_bytes(b"other"), "fold-1/adapter_model"),
        (lambda path: (path / "fold-0" / "preprocessor_config.json").unlink(), "fold-0/preprocessor_config.json"),
        (lambda path: (path / "base_model" / "config.json").write_text("{}"), "base_model/config.json"),
        (lambda path: (path / "ensemble.json").unlink(), "ensemble.json"),
        (lambda path: (path / "ensemble.json").write_text("{"), "ensemble.json is damaged"),
        (
            lambda path: (path / "ensemble.json").write_text('{"members": ["../x"], "files": {}}'),
            "doesn't list members|has changed in ../a",
        ),
        (
            lambda path: (path / "ensemble.json").write_text(
                json.dumps(
                    {
                        "members": ["../a"],
                        "files": dict.fromkeys(["../a/adapter_config.json", "../a/adapter_model.safetensors"], ""),
                    }
                )
            ),
            "doesn't list members|has changed in ../a",
        ),
    ],
)
def test_what_is_changed_or_no_ensemble_is_refused(study, tmp_path, damage, named):
    directory = shutil.copytree(study / "ensemble", tmp_path / "ensemble")
    damage(directory)
    with pytest.raises((ValueError, FileNotFoundError), match=named):
        Segmenter.load(str(directory))


def test_nothing_is_left_of_an_ensemble_that_fails(study, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no adapter"):
        write_ensemble(tmp_path / "O" / "ensemble", {"fold-0": study / "fold-0", "fold-1": tmp_path})
    assert list((tmp_path / "O").iterdir()) == []


def test_evaluation_averages_the_softmax(study):
    segmenter, slices = Segmenter.load(study / "ensemble"), np.random.default_rng(1).random((3, 40, 36), np.float32)
    processor = segmenter.processor
    with torch.inference_mode():
        pixels = processor.resize_slices(torch.from_numpy(slices)[:, None])
        logits = [predict_logits(model, pixels, processor.image_size) for model in segmenter.models]
        softmax = [resize_logits(one, (40, 36)).softmax(dim=1) for one in logits]
    expected = ((softmax[0] + softmax[1]) / 2).argmax(dim=1).numpy()
    np.testing.assert_array_equal(predict_slices(segmenter.models, slices, processor), expected)
    alone = predict_slices(segmenter.models[0], slices, processor)
    np.testing.assert_array_equal(alone, softmax[0].argmax(dim=1).numpy())
    assert (alone != expected).any()


@pytest.mark.slow
def test_an_ensemble_is_evaluated(study, tiny_data, tmp_path):
    command = ["evaluate", str(study / "ensemble"), "--data", str(tiny_data), "--output", str(tmp_path / "scores")]
    assert main(command) == 0
    assert 0 <= json.loads((tmp_path / "scores" / "metrics.json").read_text())["mean"]["dice"] <= 1
