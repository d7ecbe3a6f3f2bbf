"""Three planes of the same cases: trained, resumed, averaged, predicted and evaluated."""

import json

import pytest

from samed_hf.cli import main
from samed_hf.studies import cross_validation
from samed_hf.studies.cross_validation import cross_validate
from samed_hf.studies.planes import _prepare, train_planes
from samed_hf.training.run import run_training
from samed_hf.volumes import read_volume

from ..data_folders import make_scans, write_nnunet

PLANES = ("axial", "coronal", "sagittal")


@pytest.mark.slow
def test_three_planes_from_training_to_prediction(settings, tmp_path, monkeypatch):
    data, output = write_nnunet(tmp_path / "data", make_scans(4)), tmp_path / "run"
    changes = {"data_dir": str(data), "plane": "all", "max_train_steps": 2, "eval_steps": 2, "watched_slices": 0}
    changes |= {"num_validation_cases": 1, "learning_rate": 0.05, "save_best": False}

    def fail(args, **options):
        if args.plane == "coronal":
            raise ValueError("no more disk")
        return run_training(args, **options)

    monkeypatch.setattr(cross_validation, "run_training", fail)
    assert train_planes(settings(**changes)) == 1
    assert not (output / "ensemble").exists()
    before = {plane: (output / plane / "training_report.html").stat().st_mtime_ns for plane in ("axial", "sagittal")}
    with pytest.raises(ValueError, match="seed 0 then, 1 now"):
        train_planes(settings(**changes, seed=1))
    monkeypatch.setattr(cross_validation, "run_training", run_training)
    assert train_planes(settings(**changes)) == 0
    for plane, time in before.items():  # the repeated command trains the third plane alone
        assert (output / plane / "training_report.html").stat().st_mtime_ns == time
    records = {plane: json.loads((output / plane / "training_settings.json").read_text()) for plane in PLANES}
    for plane, record in records.items():
        assert record["plane"] == plane
        assert {key for key in record if record[key] != records["axial"][key]} <= {"plane", "output_dir", "run"}
    assert len(list((output / "cache").iterdir())) == 12  # three cuts of four cases
    # The scores are those of the predicted labels.
    (case,) = json.loads((output / "metrics.json").read_text())["per_case"]
    scan, target = data / "imagesTr" / f"{case}_0000.nii.gz", tmp_path / "out"
    command = ["predict", str(scan), "--ensemble", str(output / "ensemble"), "--output", str(target)]
    assert main([*command, "--no_report", "--no_preview"]) == 0
    (file,) = target.glob("*.nii.gz")
    found, truth = read_volume(file).array == 1, read_volume(data / "labelsTr" / f"{case}.nii.gz").array == 1
    assert found.any()
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    command = ["evaluate", str(output / "ensemble"), "--data", str(data), "--output", str(tmp_path / "scores")]
    assert main(command) == 0
    for directory in (output, tmp_path / "scores"):
        scores = json.loads((directory / "metrics.json").read_text())["per_case"]
        assert scores[case]["disc"]["dice"] == pytest.approx(dice)


@pytest.mark.parametrize(
    ("named", "changes"),
    [
        ("preset", {"preset": "samed"}),
        ("push_to_hub", {"push_to_hub": True}),
        ("protocol samed", {"protocol": "samed"}),
        ("phantom", {"data_dir": None}),
        ("holds slices", {}),
    ],
)
def test_what_has_no_three_planes_is_refused(settings, tmp_path, named, changes):
    with pytest.raises(ValueError, match=named):
        train_planes(settings(plane="all", **changes))
    with pytest.raises(ValueError, match=r"plane is|expected none"):
        cross_validate(settings(plane="all", num_folds=2, **changes))
    assert not (tmp_path / "run").exists()


def test_a_random_base_has_the_size_of_the_longest_side(settings, tmp_path):
    """Axial slices of 20×24 pixels alone would have 128."""
    data = write_nnunet(tmp_path / "data", make_scans(2, shape=(20, 24, 100)))
    args = settings(plane="all", data_dir=str(data), model_name_or_path=None, image_size=None)
    assert _prepare(args, 1, True).image_size == 256
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_dry_run_plans_three_trainings(tiny_sam, tmp_path, capsys):
    data = write_nnunet(tmp_path / "data", make_scans(4))
    flags = ["--data_dir", data, "--model_name_or_path", tiny_sam, "--output_dir", tmp_path / "run", "--dry_run"]
    assert main(["train", "--plane", "all", *map(str, flags)]) == 0
    printed = capsys.readouterr().out
    assert [printed.count(f" of {plane} slices") for plane in PLANES] == [1, 1, 1]
    assert not (tmp_path / "run").exists()
