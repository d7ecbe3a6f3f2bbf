"""Every command as a user types it, on valid and on invalid files."""

import json
import shutil

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from samed_hf import SamedForSemanticSegmentation
from samed_hf.cli import main
from samed_hf.data.layouts.synapse import SynapseData, write_lists, write_slice
from samed_hf.inference import predict_image

from ..conftest import TINY_LABELS, TINY_SIZE


@pytest.fixture
def scans(tmp_path):
    """A directory with two scans, one of them oblique and of an uncommon data type."""
    directory = tmp_path / "scans"
    directory.mkdir()
    generator = np.random.default_rng(0)
    affine = np.array([[-0.8, 0.2, 0, 90], [0.2, 0.8, 0, -100], [0, 0, 3, 20], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(generator.normal(50, 90, (40, 36, 5)).astype(np.int16), affine), directory / "a.nii.gz")
    nib.save(nib.Nifti1Image(generator.normal(50, 90, (20, 24, 3)), np.diag([2, 2, 5, 1.0])), directory / "b.nii")
    return directory


def run(*argv) -> int:
    return main([str(part) for part in argv])


def error_of(capsys) -> str:
    """The one line on standard error."""
    lines = capsys.readouterr().err.strip().splitlines()
    lines = [line for line in lines if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_predict_writes_each_scans_labels_on_its_own_grid(tiny_adapter, scans, tmp_path, capsys):
    assert run("predict", tiny_adapter, scans, "--output", tmp_path / "out") == 0
    for name in ("a.nii.gz", "b.nii"):
        scan, labels = nib.load(scans / name), nib.load(tmp_path / "out" / name)
        assert labels.shape == scan.shape
        assert np.array_equal(labels.affine, scan.affine)
        assert labels.get_data_dtype() == np.uint8
        assert np.asarray(labels.dataobj).max() <= 2
    assert "ml" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["strict", "samed"])
def test_evaluate_writes_scores_and_images(tiny_adapter, tiny_data, tmp_path, capsys, protocol):
    out = tmp_path / "scores"
    assert run("evaluate", tiny_adapter, "--data", tiny_data, "--output", out, "--protocol", protocol) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["protocol"] == protocol
    assert set(metrics["per_case"]) == {"case0006", "case0007"}
    assert {path.name for path in out.iterdir()} == {"metrics.json", "metrics.csv", "case0006.png", "case0007.png"}
    printed = capsys.readouterr().out
    assert "disc" in printed
    assert f"{metrics['mean']['dice']:.4f}" in printed


@pytest.mark.slow
def test_a_merged_model_predicts_like_its_adapter(tiny_adapter, scans, tmp_path):
    model = SamedForSemanticSegmentation.from_pretrained(tiny_adapter)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    for name, path in (("adapter", tiny_adapter), ("merged", tmp_path / "merged")):
        assert run("predict", path, scans / "a.nii.gz", "--output", tmp_path / name) == 0
    first, second = (np.asarray(nib.load(tmp_path / name / "a.nii.gz").dataobj) for name in ("adapter", "merged"))
    assert (first == second).mean() > 0.999


def test_prepare_phantom_is_the_same_every_time(tmp_path):
    for name in ("one", "two"):
        assert run("prepare", "phantom", "--output", tmp_path / name, "--num_train", 1, "--num_test", 1) == 0
    one, two = SynapseData(tmp_path / "one"), SynapseData(tmp_path / "two")
    first, second = one.read_test_case("phantom0001"), two.read_test_case("phantom0001")
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.label, second.label)
    assert len(one.train_slices) == 24


# Invalid input: one line on standard error, exit status 2, nothing written.


def refuse(capsys, out, *argv) -> str:
    assert run(*argv) == 2
    assert not out.exists()
    return error_of(capsys)


def evaluate(capsys, tmp_path, adapter, data) -> str:
    out = tmp_path / "scores"
    return refuse(capsys, out, "evaluate", adapter, "--data", data, "--output", out)


def train(capsys, tmp_path, model, data, *flags) -> str:
    out = tmp_path / "run"
    argv = ["train", "--model_name_or_path", model, "--data_dir", data, "--output_dir", out, "--report_to", "none"]
    return refuse(capsys, out, *argv, "--image_size", TINY_SIZE, "--max_train_steps", 2, *flags)


@pytest.fixture
def data(tiny_data, tmp_path):
    """A copy of the data that a test can change."""
    return shutil.copytree(tiny_data, tmp_path / "data")


def test_missing_data(tiny_adapter, tiny_sam, tmp_path, capsys):
    for message in (
        evaluate(capsys, tmp_path, tiny_adapter, tmp_path / "nowhere"),
        train(capsys, tmp_path, tiny_sam, tmp_path / "nowhere"),
    ):
        assert "nowhere" in message
        assert "samed-hf prepare synapse" in message
    (tmp_path / "empty").mkdir()
    assert "lists_Synapse" in train(capsys, tmp_path, tiny_sam, tmp_path / "empty")


def test_a_list_with_the_name_of_a_missing_file(tiny_adapter, tiny_sam, data, tmp_path, capsys):
    (data / "train_npz" / "case0002_slice001.npz").unlink()
    assert "case0002_slice001" in train(capsys, tmp_path, tiny_sam, data)
    (data / "test_vol_h5" / "case0006.npy.h5").unlink()
    (data / "lists_Synapse" / "train.txt").write_text("")
    assert "case0006" in evaluate(capsys, tmp_path, tiny_adapter, data)


def test_a_label_value_without_a_name(tiny_adapter, tiny_sam, data, tmp_path, capsys):
    write_slice(data, "case0002_slice001", np.zeros((48, 48)), np.full((48, 48), 3))
    message = train(capsys, tmp_path, tiny_sam, data)
    assert "case0002, slice 1, holds the label value 3: expected values from 0 to 2" in message
    with h5py.File(data / "test_vol_h5" / "case0007.npy.h5", "r+") as file:
        file["label"][0, 0, 0] = 77
    (data / "lists_Synapse" / "test_vol.txt").write_text("case0007\n")
    message = evaluate(capsys, tmp_path, tiny_adapter, data)
    assert "case0007, slice 0, holds the label value 77: expected values from 0 to 2" in message


def test_a_case_to_train_on_and_to_score(tiny_sam, data, tmp_path, capsys):
    shutil.copy(data / "test_vol_h5" / "case0006.npy.h5", data / "test_vol_h5" / "case0002.npy.h5")
    with (data / "lists_Synapse" / "test_vol.txt").open("a") as file:
        file.write("case0002\n")
    assert "case0002 in train.txt and in test_vol.txt" in train(capsys, tmp_path, tiny_sam, data)


def test_labels_that_are_no_integers(tiny_sam, data, tmp_path, capsys):
    np.savez(data / "train_npz" / "case0001_slice002.npz", image=np.zeros((48, 48)), label=np.full((48, 48), 0.5))
    assert "case0001_slice002.npz holds a label with values between" in train(capsys, tmp_path, tiny_sam, data)


def test_image_and_label_of_different_shapes(tiny_sam, data, tmp_path, capsys):
    np.savez(data / "train_npz" / "case0001_slice002.npz", image=np.zeros((48, 48)), label=np.zeros((48, 47)))
    message = train(capsys, tmp_path, tiny_sam, data)
    assert "case0001_slice002.npz" in message
    assert "(48, 48)" in message
    assert "(48, 47)" in message


def test_nan_in_an_image(tiny_adapter, data, scans, tmp_path, capsys):
    """For cases of the training split, see tests/training/test_unfit_cases.py."""
    with h5py.File(data / "test_vol_h5" / "case0006.npy.h5", "r+") as file:
        file["image"][0, 0, 0] = np.nan
    (data / "lists_Synapse" / "test_vol.txt").write_text("case0006\n")
    assert "case0006.npy.h5 holds NaN or infinity in 1 of" in evaluate(capsys, tmp_path, tiny_adapter, data)
    nib.save(nib.Nifti1Image(np.full((8, 8, 2), np.nan), np.eye(4)), scans / "nan.nii.gz")
    assert run("predict", tiny_adapter, scans / "nan.nii.gz", "--output", tmp_path / "out") == 2
    assert "nan.nii.gz" in error_of(capsys)
    assert not list((tmp_path / "out").glob("*"))


def test_an_image_size_that_is_no_multiple_of_16(tiny_sam, tiny_data, tmp_path, capsys):
    message = train(capsys, tmp_path, tiny_sam, tiny_data, "--image_size", 100)
    assert "image_size is 100: expected a positive multiple of 16" in message


def test_a_checkpoint_that_is_not_sam(tiny_data, tiny_adapter, tmp_path, capsys):
    for name, content in (("bert", {"model_type": "bert"}), ("hq", {"model_type": "sam_hq"})):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(content))
        assert f"model_type is '{content['model_type']}'" in train(capsys, tmp_path, directory, tiny_data)
    (tmp_path / "nothing").mkdir()
    assert "config.json" in train(capsys, tmp_path, tmp_path / "nothing", tiny_data)
    assert "is a SAMed model" in train(capsys, tmp_path, tiny_adapter, tiny_data)


def test_an_adapter_whose_base_cannot_be_found(tiny_adapter, tiny_data, tmp_path, capsys):
    directory = shutil.copytree(tiny_adapter, tmp_path / "adapter")
    config = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/no/such/sam"}))
    message = evaluate(capsys, tmp_path, directory, tiny_data)
    assert "needs the base model '/no/such/sam'" in message
    assert "base_model_name_or_path" in message


def test_an_adapter_of_other_labels_than_the_data(tiny_adapter, data, tmp_path, capsys):
    write_lists(data, [], ["case0006"], TINY_LABELS | {1: "bar", 2: "disc"})
    assert "expected the same" in evaluate(capsys, tmp_path, tiny_adapter, data)


def test_predict_refuses_to_write_over_a_scan(tiny_adapter, scans, tmp_path, capsys):
    before = (scans / "a.nii.gz").read_bytes()
    assert run("predict", tiny_adapter, scans / "a.nii.gz", "--output", scans) == 2
    assert "choose another directory" in error_of(capsys)
    assert (scans / "a.nii.gz").read_bytes() == before
    shutil.copytree(scans, tmp_path / "more")
    assert run("predict", tiny_adapter, scans, tmp_path / "more", "--output", tmp_path / "out", "--no_preview") == 0
    maps = sorted(path.name for path in (tmp_path / "out").iterdir() if ".nii" in path.name)
    assert maps == ["more_a.nii.gz", "more_b.nii", "scans_a.nii.gz", "scans_b.nii"]


def test_a_plain_sam_predicts_nothing(tiny_sam, scans, tmp_path, capsys):
    assert run("predict", tiny_sam, scans, "--output", tmp_path / "out") == 2
    assert "no SAMed model" in error_of(capsys)


@pytest.mark.slow
def test_predict_keeps_existing_segmentations(tiny_adapter, scans, tmp_path, capsys):
    out = tmp_path / "there"
    assert run("predict", tiny_adapter, scans, "--output", out) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    assert run("predict", tiny_adapter, scans, "--output", out) == 2
    assert "exists already" in error_of(capsys)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert run("predict", tiny_adapter, scans, "--output", out, "--overwrite") == 0


def test_predict_reads_images(tiny_adapter, tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "slice.png")
    assert run("predict", tiny_adapter, tmp_path / "slice.png", "--output", tmp_path / "out") == 0
    assert "pixels" in capsys.readouterr().out
    model = SamedForSemanticSegmentation.from_pretrained(tiny_adapter)
    written = np.asarray(Image.open(tmp_path / "out" / "slice.png"))
    np.testing.assert_array_equal(written, predict_image(model, image)[0])
    (tmp_path / "torn.png").write_bytes((tmp_path / "slice.png").read_bytes()[:100])
    assert run("predict", tiny_adapter, tmp_path / "torn.png", "--output", tmp_path / "out") == 2
    assert "torn.png cannot be read as an image" in error_of(capsys)


@pytest.mark.parametrize("flag", [["--batch_size", "0"], ["--batch_size", "-1"]])
def test_batch_sizes_below_1(tiny_adapter, scans, tmp_path, capsys, flag):
    assert "batch_size is" in refuse(
        capsys, tmp_path / "out", "predict", tiny_adapter, scans, "--output", tmp_path / "out", *flag
    )


@pytest.mark.slow
def test_evaluate_warns_of_cases_that_were_trained_on(tiny_sam, tiny_data, tmp_path, capsys):
    flags = {"model_name_or_path": tiny_sam, "data_dir": tiny_data, "output_dir": tmp_path / "run", "image_size": 64}
    flags |= {"max_train_steps": 1, "per_device_train_batch_size": 2, "report_to": "none"}
    assert main(["train", *(f"--{key}={value}" for key, value in flags.items())]) == 0
    command = ["evaluate", str(tmp_path / "run"), "--data", str(tiny_data), "--output", str(tmp_path / "scores")]
    capsys.readouterr()
    assert main(command) == 0
    assert "trained on" not in capsys.readouterr().out
    assert main([*command, "--split", "train"]) == 0
    assert "warning     5 of these cases were trained on" in capsys.readouterr().err


def test_a_fold_without_folds(tiny_sam, tiny_data, tmp_path, capsys):
    assert main(["train", f"--data_dir={tiny_data}", "--fold=1", f"--output_dir={tmp_path / 'run'}"]) == 2
    assert "declares no folds: give --num_folds too" in capsys.readouterr().err
