"""examples/ablations.py: its table of runs, its numbers, and a small study that fails, is stopped and goes on."""

import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState, GradientState

from samed_hf.scoring import compare_pairs
from samed_hf.training import loop

EXAMPLE = Path(__file__).parents[1] / "examples" / "ablations.py"
SHORT = ["--max_train_steps", 4, "--per_device_train_batch_size", 2, "--checkpointing_steps", 2, "--eval_steps", 4]
SHORT += ["--watched_slices", 0, "--image_size", 64, "--report_to", "none"]


@pytest.fixture
def ablations(monkeypatch):
    spec = importlib.util.spec_from_file_location("ablations", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ablations", module)
    spec.loader.exec_module(module)
    yield module
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def start(ablations, monkeypatch, capsys):
    """Runs the example as its command does; returns the exit status and what it printed."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["ablations.py", *map(str, args)])
        status = ablations.run_command(ablations.main)
        return status, capsys.readouterr()

    return run


def fake_run(*dice):
    cost = {"trainable_parameters": 10, "adapter_mb": 1.5, "steps": 4, "seconds": 2.0}
    return cost | {"dice": dict(zip("abc", dice, strict=True)), "about": "A base."}


def test_every_row_changes_what_its_flags_name(ablations, tmp_path):
    settings = {row: vars(ablations.arguments(tmp_path, [], row)) for row in (ablations.BASELINE, *ablations.ROWS)}
    assert len({row.name for row in settings}) == len(settings)
    for row, values in settings.items():
        changed = {name for name, value in values.items() if value != settings[ablations.BASELINE][name]}
        assert changed <= {word[2:] for word in row.flags.split()[::2]} | {"output_dir"}, row


def test_rows_equal_to_the_baseline_are_not_run(start, tmp_path):
    flags = ["--output_dir", tmp_path / "out", "--dry_run", "--only", "rank"]
    assert start(*flags)[1].out.split("\n")[:-1] == ["baseline (seed 0)"] + [f"rank-{n} (seed 0)" for n in (1, 16, 64)]
    shown = start(*flags, "--rank", 16, "--seeds", "0,2")[1].out
    assert shown.split("\n")[1:5] == ["baseline (seed 2)", *(f"rank-{n} (seed 0)" for n in (1, 4, 64))]
    assert not (tmp_path / "out").exists()


def test_differences_are_of_the_same_cases_and_seeds(ablations):
    baseline = {0: fake_run(0.5, 0.7, 0.6), 1: fake_run(0.9, 0.9, 0.9)}
    row = ablations.Row("rank", "--rank 1")
    record = ablations.summarize(row, {0: fake_run(0.6, 0.6, 0.9), 2: fake_run(0.2, 0.4, 0.1)}, baseline)
    assert record["dice"] == pytest.approx(np.mean([0.4, 0.5, 0.5]))  # cases averaged over the seeds 0 and 2
    assert record["sd"] == pytest.approx(np.std([0.4, 0.5, 0.5], ddof=1))
    assert record["dice_by_seed"] == {0: pytest.approx(0.7), 2: pytest.approx(0.7 / 3)}
    assert record["difference_seeds"] == [0]
    assert record["difference"] == pytest.approx(np.mean([0.1, -0.1, 0.3]))
    expected = compare_pairs({"a": 0.5, "b": 0.7, "c": 0.6}, {"a": 0.6, "b": 0.6, "c": 0.9})
    assert record["difference_interval"] == expected.interval
    assert record["paper_dice_percent"] is None
    assert ablations.summarize(ablations.BASELINE, baseline, baseline)["difference"] is None


def test_cases_without_a_dice_are_left_out(ablations):
    record = ablations.summarize(ablations.Row("rank", "--rank 1"), {0: fake_run(0.4, np.nan, 0.6)}, {})
    assert (record["cases"], record["dice"], record["difference"]) == (2, 0.5, None)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--only", "rank,depth"], "depth"),
        (["--seed", 3], "seed 3"),
        (["--rank", 0], "rank is 0"),
        (["--metrics", "hd95"], "metrics hd95"),
    ],
)
def test_wrong_flags_are_refused_before_a_run(start, tmp_path, flags, named):
    status, printed = start("--output_dir", tmp_path / "out", *flags)
    assert status == 2
    assert named in printed.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_study_fails_in_a_row_stops_and_goes_on(ablations, start, monkeypatch, tiny_sam, tiny_data, tmp_path):
    rows = [ablations.Row("rank", "--rank 1"), ablations.Row("rank", "--rank 0"), ablations.Row("rank", "--rank 2")]
    monkeypatch.setattr(ablations, "ROWS", rows)
    flags = ["--output_dir", tmp_path / "out", "--data_dir", tiny_data, "--model_name_or_path", tiny_sam, *SHORT]
    steps, take_step = [], loop.take_step

    def stop_in_the_last_row(state, batches):
        steps.append(state.run.args.rank)
        if steps.count(2) == 3:
            raise KeyboardInterrupt
        return take_step(state, batches)

    monkeypatch.setattr(loop, "take_step", stop_in_the_last_row)
    assert start(*flags)[0] == 130
    assert steps == [4] * 4 + [1] * 4 + [2] * 3
    table = json.loads((tmp_path / "out" / "ablations.json").read_text())  # as it was before the stop
    assert [row["flags"] for row in table["rows"]] == ["", "--rank 1"]
    assert "rank is 0" in table["failed"]["rank-0 (seed 0)"]

    steps.clear()
    monkeypatch.setattr(loop, "take_step", lambda state, batches: steps.append(state.step) or take_step(state, batches))
    status, printed = start(*flags)
    assert (status, steps) == (1, [2, 3])
    assert "rank-0" in printed.out
    rows = json.loads((tmp_path / "out" / "ablations.json").read_text())["rows"]
    metrics = [
        json.loads((tmp_path / "out" / name / "seed-0/metrics.json").read_text()) for name in ("baseline", "rank-2")
    ]
    dice = [[np.mean([x["dice"] for x in labels.values()]) for labels in one["per_case"].values()] for one in metrics]
    assert rows[2]["difference"] == pytest.approx(np.mean(dice[1]) - np.mean(dice[0]))
    assert rows[2]["steps"] == 4
    lora = 4 * 2 * 32 * 2  # blocks, q and v, width, A and B
    assert rows[2]["trainable_parameters"] - rows[1]["trainable_parameters"] == lora
    with (tmp_path / "out" / "ablations.csv").open(newline="") as file:
        assert [row["flags"] for row in csv.DictReader(file)] == ["", "--rank 1", "--rank 2"]

    status, printed = start(*flags, "--max_train_steps", 8)
    assert status == 2
    assert "max_train_steps is 8 and was 4" in printed.err
