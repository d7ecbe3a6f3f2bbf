"""Folds made once, trained in any order and by any number of runs, and collected when all are complete."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from samed_hf.cli import main
from samed_hf.data import read_data
from samed_hf.studies import cross_validation, folds
from samed_hf.studies.cross_validation import cross_validate, train_fold
from samed_hf.studies.folds import prepare_folds

from ..data_folders import make_scans, write_nnunet

CASES = [f"case{number:04d}" for number in range(6)]


@pytest.fixture
def trained(monkeypatch):
    """Instead of trainings and the summary, their files; the list has what was trained and what was collected."""
    done: list = []

    def run_training(args, *, split, images, keep_processes):
        output = Path(args.output_dir)
        output.mkdir(parents=True, exist_ok=True)
        (output / "training_settings.json").write_text("{}")
        done.append((output.parent.name, args.fold, args.num_train_cases, split))
        if (output / "fails").exists():
            raise ValueError("a bad case")
        for name in ("adapter_model.safetensors", "metrics.json", "training_report.html"):
            (output / name).touch()

    monkeypatch.setattr(cross_validation, "run_training", run_training)
    collect = lambda output, runs: done.append(("collected", output.name, [run.name for run in runs]))  # noqa: E731
    monkeypatch.setattr(cross_validation, "write_cross_validation", collect)
    monkeypatch.setattr(cross_validation, "read_json", lambda path: {})
    monkeypatch.setattr(cross_validation, "format_scores", lambda metrics: "scores")
    monkeypatch.setattr(
        cross_validation, "write_learning_curve", lambda output, sizes: done.append(("curve", output.name, [*sizes]))
    )
    return done


def splits_of(output: Path) -> list[dict]:
    return json.loads((output / "splits_final.json").read_text())


@pytest.mark.slow
def test_each_case_but_those_for_test_is_held_out_once(settings, tmp_path):
    args = settings(num_folds=3)
    found, made = prepare_folds(args, 1)
    assert Path(found.cache_dir) == tmp_path / "run" / "cache"
    assert len([*Path(found.cache_dir).iterdir()]) >= len(CASES)
    assert sorted(name for _, held_out in made for name in held_out) == CASES
    assert all(sorted([*train, *held_out]) == CASES for train, held_out in made)
    assert [len(held_out) for _, held_out in made] == [2, 2, 2]
    first = (tmp_path / "run" / "splits_final.json").read_bytes()
    assert [(fold["train"], fold["val"]) for fold in splits_of(tmp_path / "run")] == made
    prepare_folds(replace(args, output_dir=str(tmp_path / "other")), 1)
    assert (tmp_path / "other" / "splits_final.json").read_bytes() == first


@pytest.mark.slow
def test_labels_are_spread_over_the_folds(tmp_path, settings):
    scans = make_scans(8)
    for index, scan in enumerate(scans.values()):
        scan[1][scan[1] == 2] = 2 if index in (0, 1, 2, 3) else 1  # half of the cases have the label 2
    data = write_nnunet(tmp_path / "data", scans)
    _, made = prepare_folds(settings(data_dir=str(data), num_folds=4), 1)
    rare = {*list(scans)[:4]}
    assert [len(rare & {*held_out}) for _, held_out in made] == [1, 1, 1, 1]


@pytest.mark.slow
def test_folds_that_the_data_declare_are_used(tmp_path, settings, trained):
    scans = make_scans(6)
    names, data = list(scans), write_nnunet(tmp_path / "data", scans)
    declared = [{"train": names[2:5], "val": names[:2]}, {"train": names[:4], "val": names[4:]}]
    (data / "splits_final.json").write_text(json.dumps(declared))
    assert cross_validate(settings(data_dir=str(data))) == 0
    assert splits_of(tmp_path / "run") == declared
    assert len(trained) == 3
    args = settings(data_dir=str(data), num_folds=3, output_dir=str(tmp_path / "new"))
    assert len(prepare_folds(args, 1)[1]) == 3


@pytest.mark.slow
def test_a_case_may_not_be_held_out_twice(tmp_path, settings):
    (tmp_path / "folds.json").write_text(json.dumps([{"train": CASES[2:], "val": CASES[:2]}] * 2))
    with pytest.raises(ValueError, match=r"case0000, case0001"):
        prepare_folds(settings(splits=str(tmp_path / "folds.json")), 1)


@pytest.mark.slow
def test_other_settings_are_refused_once_a_fold_has_begun(settings, tmp_path, monkeypatch):
    prepare_folds(settings(num_folds=3), 1)
    _, made = prepare_folds(settings(num_folds=2, seed=1), 1)  # nothing is trained yet
    assert len(made) == 2
    (tmp_path / "run" / "fold-1").mkdir()
    (tmp_path / "run" / "fold-1" / "training_settings.json").touch()
    assert prepare_folds(settings(num_folds=2, seed=1, fold=0, checkpointing_steps=3), 1)[1] == made
    for name, changes in {
        "seed 1 then, 0 now": {"seed": 0},
        "rank 4 then, 8 now": {"rank": 8},
        "num_folds 2 then, 3 now": {"num_folds": 3},
        "max_train_steps 6 then, 7 now": {"max_train_steps": 7},
    }.items():
        with pytest.raises(ValueError, match=name):
            prepare_folds(settings(**({"num_folds": 2, "seed": 1} | changes)), 1)
    with pytest.raises(ValueError, match="num_processes 1 then, 2 now"):
        prepare_folds(settings(num_folds=2, seed=1), 2)

    def read_fewer(*args, **options):
        data = read_data(*args, **options)
        del data.sources["case0003"]
        return data

    monkeypatch.setattr(folds, "read_data", read_fewer)
    with pytest.raises(ValueError, match="6 cases then, 5 now, such as case0003"):
        prepare_folds(settings(num_folds=2, seed=1), 1)


@pytest.mark.slow
def test_complete_folds_are_skipped_and_the_last_one_collects(settings, trained, tmp_path):
    assert cross_validate(settings(num_folds=3, fold=2)) == 0
    assert trained == [("run", 2, None, "validation")]
    assert cross_validate(settings(num_folds=3, fold=0)) == 0
    assert cross_validate(settings(num_folds=3, fold=0)) == 0
    assert trained[1:] == [("run", 0, None, "validation")]
    (tmp_path / "run" / "fold-2" / "training_report.html").unlink()  # as if it had been killed before its last file
    assert cross_validate(settings(num_folds=3)) == 0
    collected = ("collected", "run", ["fold-0", "fold-1", "fold-2"])
    assert trained[2:] == [("run", 1, None, "validation"), ("run", 2, None, "validation"), collected]
    assert cross_validate(settings(num_folds=3)) == 0
    assert trained[5:] == [collected]


@pytest.mark.slow
def test_a_failed_fold_does_not_stop_the_others(settings, trained, tmp_path, caplog):
    (tmp_path / "run" / "fold-1").mkdir(parents=True)
    (tmp_path / "run" / "fold-1" / "fails").touch()
    assert cross_validate(settings(num_folds=3)) == 1
    assert [fold for _, fold, *_ in trained] == [0, 1, 2]
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors == [f"{tmp_path / 'run' / 'fold-1'}: a bad case"]
    (tmp_path / "run" / "fold-1" / "fails").unlink()
    assert cross_validate(settings(num_folds=3)) == 0
    assert trained[3:] == [("run", 1, None, "validation"), ("collected", "run", ["fold-0", "fold-1", "fold-2"])]


@pytest.mark.slow
def test_a_learning_curve_has_the_same_folds_for_each_size(settings, trained, tmp_path):
    assert cross_validate(settings(num_folds=2), num_train_cases=(1, 3)) == 0
    collected = [("collected", name, ["fold-0", "fold-1"]) for name in ("cases-1", "cases-3")]
    runs = [(f"cases-{size}", fold, size, "validation") for size in (1, 3) for fold in (0, 1)]
    assert trained == [*runs, *collected, ("curve", "run", [1, 3])]
    trained.clear()
    with pytest.raises(ValueError, match="num_train_cases is 4: expected at most 3"):
        cross_validate(settings(num_folds=2), num_train_cases=(1, 4))
    assert trained == []


@pytest.mark.slow
def test_a_fold_that_another_process_trains_is_skipped(settings, trained, tmp_path):
    (tmp_path / "run").mkdir()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", hold, str(tmp_path / "run" / ".fold-0.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        assert cross_validate(settings(num_folds=2)) == 0
        assert trained == [("run", 1, None, "validation")]
        other.communicate("\n")
    assert cross_validate(settings(num_folds=2)) == 0
    assert [entry[1] for entry in trained[1:]] == [0, "run"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "parallel"),
    [
        ("resume_from_checkpoint is 'x'", {"resume_from_checkpoint": "x"}, 1),
        ("push_to_hub is True", {"push_to_hub": True}, 1),
        ("num_parallel_folds is 0", {}, 0),
        ("fold is 3: expected one of 3", {"fold": 3}, 1),
    ],
)
def test_contradictions_are_refused(settings, trained, name, changes, parallel):
    with pytest.raises(ValueError, match=name):
        cross_validate(settings(num_folds=3, **changes), num_parallel_folds=parallel)
    assert trained == []


@pytest.mark.slow
def test_the_dry_run_writes_nothing(tiny_data, tiny_sam, tmp_path, capsys):
    flags = ["--data_dir", tiny_data, "--model_name_or_path", tiny_sam, "--output_dir", tmp_path / "run"]
    flags += ["--image_size", 64, "--num-folds", 3, "--num_train_cases", "2,1", "--report_to", "none", "--dry_run"]
    assert main(["cross-validate", *map(str, flags)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("4 cases to train on, 2 held out") == 4  # the three folds, and the plan of the first one
    assert "1, 2 of its training cases" in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--fold", 3], "fold is 3"),
        (["--num_train_cases", "1,5"], "num_train_cases is 5"),
        ([], "holds a training run"),
    ],
)
def test_the_dry_run_refuses_what_the_run_refuses(tiny_data, tmp_path, capsys, more, named):
    if not more:
        (tmp_path / "adapter_model.safetensors").touch()
    flags = ["--data_dir", tiny_data, "--output_dir", tmp_path, "--num_folds", 3, "--dry_run", *more]
    assert main(["cross-validate", *map(str, flags)]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.slow
def test_a_directory_of_a_training_is_refused(settings, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "adapter_model.safetensors").touch()
    with pytest.raises(ValueError, match="holds a training run"):
        cross_validate(settings(num_folds=3))


@pytest.mark.slow
def test_a_fold_is_a_training_scored_on_its_held_out_cases(settings, tmp_path):
    args, _ = prepare_folds(settings(num_folds=3, cache_dir=str(tmp_path / "cache")), 1)
    study = replace(args, num_folds=None, splits=str(tmp_path / "run" / "splits_final.json"))
    assert train_fold(study, 1) is None
    held_out = splits_of(tmp_path / "run")[1]["val"]
    metrics = json.loads((tmp_path / "run" / "fold-1" / "metrics.json").read_text())
    assert list(metrics["per_case"]) == held_out
    assert metrics["split"] == "validation"
    assert sorted(path.stem for path in (tmp_path / "run" / "images").iterdir()) == held_out
    cases = json.loads((tmp_path / "run" / "fold-1" / "training_settings.json").read_text())["cases"]
    assert cases["train"] == splits_of(tmp_path / "run")[1]["train"]


@pytest.mark.slow
def test_a_missing_base_model_is_refused_before_the_cases_are_decoded(settings, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        cross_validate(settings(num_folds=3, model_name_or_path=str(tmp_path / "nowhere")))
    assert not (tmp_path / "run").exists()
