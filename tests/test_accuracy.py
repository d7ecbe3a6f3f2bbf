"""`python -m benchmarks accuracy`: its steps, its numbers, and a small comparison that is repeated."""

import json

import numpy as np
import pytest
from accelerate.state import AcceleratorState, GradientState

from benchmarks import accuracy
from samed_hf.scoring import mean_interval

from .data_folders import make_scans, write_decathlon

SHORT = ["--num_validation_cases", "2", "--cases", "3", "--minutes", "1", "--threads", "1"]


def fake_run(method, dice):
    scores = {case: {"disc": {"dice": disc}, "bar": {"dice": bar}} for case, (disc, bar) in dice.items()}
    about = {"cases": 3, "minutes": 4.0, "method": method, "flags": "", "parameters": 9}
    return about | {"steps": 10, "seconds": 240.0, "scores": scores}


def test_steps_fill_the_minutes_without_the_warm_up():
    assert accuracy.count_steps(0.5, [9.0] * accuracy._WARM_UP + [2.0, 2.0, 5.0]) == 15
    assert accuracy.count_steps(0.5, [9.0] * accuracy._WARM_UP + [100.0]) == 1


def test_a_row_averages_seeds_and_pairs_cases():
    ours = {0: {"a": (0.8, 0.6), "b": (0.4, None)}, 1: {"a": (0.6, 0.4), "b": (0.6, None)}}
    unet = {1: {"a": (0.5, 0.5), "b": (0.5, None)}, 2: {"a": (0.0, 0.0), "b": (0.0, None)}}
    ours, unet = (
        {seed: fake_run(name, one) for seed, one in runs.items()} for name, runs in (("x", ours), ("unet", unet))
    )
    row = accuracy.summarize(ours, unet)
    values = np.array([[0.7, 0.5], [0.5, np.nan]])
    assert row["dice"]["disc"] == [pytest.approx(0.6), pytest.approx(mean_interval(values[:, :1]))]
    assert row["dice"]["bar"] == [pytest.approx(0.5), None]  # the label of one case has no interval
    assert row["mean"] == [pytest.approx(0.55), pytest.approx(mean_interval(values))]
    assert row["by_seed"] == {0: pytest.approx((0.6 + 0.6) / 2), 1: pytest.approx((0.6 + 0.4) / 2)}
    assert row["difference"][0] == pytest.approx(((0.1 + 0.1) / 2 - 0.1) / 2)  # seed 1 alone
    assert accuracy.summarize(unet, unet)["difference"] is None
    assert "| 3 | 4 | x |  | 0.600 [0.500, 0.700] | 0.500 | 0.550 [" in accuracy.make_table([row])


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--max_train_steps", "9"], "max_train_steps 9"),
        (["--row", "small=--num_folds 3"], "small has num_folds 3"),
        (["--metrics", "hd95"], "hd95"),
        (["--cases", "5"], "4 cases to train on and 2 to score"),
    ],
)
def test_wrong_flags_are_refused_before_a_run(tmp_path, flags, named):
    data = write_decathlon(tmp_path / "data", make_scans())
    with pytest.raises(ValueError, match=named):
        accuracy.main(["--data_dir", str(data), "--output_dir", str(tmp_path / "out"), *SHORT, *flags])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [["--row", "new"], ["--row", "ours=--rank 2"], ["--row=a=", "--row=a=--rank 2"]])
def test_rows_without_a_name_of_their_own_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        accuracy.main(["--output_dir", "out", *flags])
    assert "error: row is " in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "value"), [("minutes", "4,-1.0"), ("cases", "0"), ("seeds", "-1")])
def test_numbers_out_of_range_are_refused(flag, value, capsys):
    with pytest.raises(SystemExit):
        accuracy.main(["--output_dir", "out", f"--{flag}={value}"])
    assert f"{flag} is [" in capsys.readouterr().err


@pytest.mark.slow
def test_both_are_trained_and_scored_on_the_same_cases_once(tiny_sam, tmp_path, monkeypatch, capsys):
    steps = {"unet": 20, "ours": 3}
    monkeypatch.setattr(accuracy, "_WARM_UP", 1)
    monkeypatch.setattr(accuracy, "_TIMED", 1)
    monkeypatch.setattr(accuracy, "_BATCH", 8)
    monkeypatch.setattr(accuracy, "_MAX_SIDE", 32)
    data, output = write_decathlon(tmp_path / "data", make_scans()), tmp_path / "out"
    flags = ["--data_dir", str(data), "--output_dir", str(output), "--methods", "unet,ours", *SHORT]
    flags += ["--model_name_or_path", str(tiny_sam), "--image_size", "64", "--per_device_train_batch_size", "2"]
    counts = iter(steps.values())
    monkeypatch.setattr(accuracy, "count_steps", lambda minutes, seconds: next(counts))
    accuracy.main(flags)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()

    files = {method: next(output.glob(f"{method}-*/cases-3-minutes-1-seed-0/run.json")) for method in steps}
    runs = {method: json.loads(file.read_text()) for method, file in files.items()}
    split = json.loads((output / "splits.json").read_text())[0]
    assert {method: run["steps"] for method, run in runs.items()} == steps
    assert set(runs["unet"]["train"]) < set(split["train"])
    assert len(split["train"]) == 4
    for run in runs.values():
        assert sorted(run["train"]) == sorted(runs["unet"]["train"])
        assert list(run["scores"]) == split["val"]
    dice = {
        name: [[one["dice"] for one in case.values()] for case in run["scores"].values()] for name, run in runs.items()
    }
    assert np.mean(dice["unet"]) > 0.5
    rows = json.loads((output / "accuracy.json").read_text())["rows"]
    assert rows[0]["mean"][0] == pytest.approx(np.mean(dice["unet"]))
    assert rows[1]["difference"][0] == pytest.approx(np.mean(dice["ours"]) - np.mean(dice["unet"]))

    first = capsys.readouterr().out
    accuracy.main(flags)  # `counts` is used up: a run would fail
    assert capsys.readouterr().out.strip() == (output / "accuracy.md").read_text().strip()
    assert first.endswith((output / "accuracy.md").read_text() + "\n")
