"""The log of a run, values of trackers, the bar in a terminal and the lines in a file."""

import csv
import errno
import io
import math
import mmap
import re
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch
from tqdm import tqdm

from samed_hf.training.monitoring import progress as training_progress
from samed_hf.training.monitoring.log import LogFile, numbers_of, read_log
from samed_hf.training.monitoring.progress import Progress, used_memory

LABELS = {0: "background", 1: "left kidney", 2: "a,b/µ"}
WIDTH = 100


def row_of(step, **more):
    """A row of the log as the loop gives it; numbers that take much room."""
    row = {
        "step": step,
        "epoch": step / 93,
        "learning_rate": 0.004567,
        "loss": 0.52345,
        "cross_entropy": 1.25,
        "dice": 0.34181,
        "dice_per_class": [0.125, 0.25, 0.5],
        "gradient_norm": 0.2871,
        "samples_per_second": 12.34,
        "memory_bytes": 11_400_000_000,
        "skipped": 0,
    }
    return row | more


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when a test says so."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(training_progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def make_run(tmp_path, printed_log):
    def make(steps=100, log=(), main=True):
        tracked = []
        run = SimpleNamespace(
            plan=SimpleNamespace(steps=steps),
            output_dir=tmp_path,
            log=list(log),
            tracked=tracked,
            model=SimpleNamespace(config=SimpleNamespace(id2label=LABELS)),
            accelerator=SimpleNamespace(
                is_main_process=main, log=lambda values, step: tracked.append((step, values)), trackers=[]
            ),
        )
        return run

    return make


# ----------------------------------------------------------------------------------------------------------------- log


def test_a_row_is_read_as_it_was_written(make_run, tmp_path):
    rows = [
        row_of(1),
        row_of(2, loss=math.inf, dice_per_class=[0.1, math.inf, 0.3], skipped=1),
        row_of(3, validation_dice=0.75, validation_dice_per_class={"left kidney": 0.5, "a,b/µ": 1.0}),
        row_of(4, validation_dice=0.0, validation_dice_per_class={"a,b/µ": 0.0}),
    ]
    run = make_run()
    with Progress(run, 0) as progress:
        for row in rows:
            progress.add(dict(row))
            assert read_log(tmp_path / "training_log.csv") == rows[: row["step"]]  # on disk at once
    assert run.log == rows
    assert read_log(tmp_path / "training_log.csv", 2) == rows[:2]
    assert isinstance(read_log(tmp_path / "training_log.csv")[0]["step"], int)


def test_the_columns_are_named_by_the_labels(make_run, tmp_path):
    with Progress(make_run(), 0) as progress:
        progress.add(row_of(1, validation_dice=0.75, validation_dice_per_class={"a,b/µ": 0.25}))
    (row,) = csv.DictReader((tmp_path / "training_log.csv").open(encoding="utf-8", newline=""))
    assert list(row)[:7] == ["step", "epoch", "learning_rate", "loss", "cross_entropy", "dice", "gradient_norm"]
    assert [row[f"dice/{name}"] for name in LABELS.values()] == ["0.125", "0.25", "0.5"]
    assert row["validation_dice/left kidney"] == ""
    assert row["validation_dice/a,b/µ"] == "0.25"
    assert "validation_dice/background" not in row


def test_an_older_log_is_read_and_continued(make_run, tmp_path):
    path = tmp_path / "training_log.csv"
    path.write_text(
        "step,epoch,learning_rate,loss,cross_entropy,dice,gradient_norm,validation_dice\n"
        "1,0.5,0.001,0.7,0.5,0.75,1.5,\n2,1.0,0.002,0.6,0.5,0.625,,0.25\n3,1.5,0.002,0.6,0.5,0.625,,\n"
    )
    old = {"step": 2, "epoch": 1.0, "learning_rate": 0.002, "loss": 0.6, "cross_entropy": 0.5, "dice": 0.625}
    old |= {"validation_dice": 0.25}
    assert read_log(path, 2)[1] == old
    run = make_run(log=read_log(path, 2))
    with Progress(run, 2) as progress:
        progress.add(row_of(3))
    rows = read_log(path)
    assert rows[1:] == [old, row_of(3)]
    assert [row["step"] for row in run.log] == [1, 2, 3]


def test_an_incomplete_last_row_is_ignored(tmp_path):
    path = tmp_path / "training_log.csv"
    with LogFile(path, list(LABELS.values())) as log:
        for step in (1, 12, 13):
            log.add(row_of(step))
    whole = path.read_bytes()
    last = len(whole[:-2].rpartition(b"\n")[2])
    for cut in (1, 2, last - 1, last):  # "1" of "13" would be another step 1
        path.write_bytes(whole[: len(whole) - 2 - last + cut])
        assert [row["step"] for row in read_log(path)] == [1, 12]
    path.write_bytes(b"step,lo")
    assert read_log(path) == []
    assert read_log(tmp_path / "nowhere.csv") == []


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    class FullDisk(io.RawIOBase):
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    log = LogFile(tmp_path / "training_log.csv", list(LABELS.values()))
    with log:
        log.file.close()
        log.file = FullDisk()
        with pytest.raises(OSError, match=r"No space left on device: .*training_log\.csv") as caught:
            log.add(row_of(1))
    assert caught.value.errno == errno.ENOSPC


def test_the_old_log_stays_until_the_new_one_is_complete(make_run, tmp_path):
    path = tmp_path / "training_log.csv"
    path.write_bytes(b"the old log\n")
    run = make_run(log=[row_of(1), {"step": object(), "dice_per_class": 1}])
    with pytest.raises(TypeError), Progress(run, 1):
        pass
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"the old log\n"]


# ------------------------------------------------------------------------------------------------------------ trackers


def test_trackers_receive_single_numbers(make_run):
    run = make_run()
    with Progress(run, 0) as progress:
        progress.add(row_of(7, validation_dice=0.5, validation_dice_per_class={"left kidney": 0.5}))
    ((step, values),) = run.tracked
    assert step == 7
    assert all(isinstance(value, int | float) for value in values.values())
    assert values["loss"] == 0.52345
    assert values["dice/left kidney"] == 0.25
    assert values["dice/a_b__"] == 0.5
    assert values["validation_dice/left kidney"] == values["validation_dice"] == 0.5
    assert "step" not in values


def test_names_that_a_tracker_would_confuse_are_numbered():
    values = numbers_of({"dice_per_class": [1.0, 2.0, 3.0]}, ["bg", "a+", "a-"], plain_names=True)
    assert values == {"dice/bg": 1.0, "dice/a_": 2.0, "dice/a-": 3.0}
    values = numbers_of({"dice_per_class": [1.0, 2.0, 3.0]}, ["bg", "a+", "a*"], plain_names=True)
    assert values == {"dice/0_bg": 1.0, "dice/1_a_": 2.0, "dice/2_a_": 3.0}


def test_other_processes_write_nothing(make_run, tmp_path, capsys):
    run = make_run(main=False)
    with Progress(run, 0) as progress:
        progress.add(row_of(1, validation_dice=0.5))
    assert (list(tmp_path.iterdir()), run.log, run.tracked) == ([], [], [])
    assert capsys.readouterr() == ("", "")


# --------------------------------------------------------------------------------------------------- lines in a file


def test_lines_in_a_file_hold_all_numbers(make_run, clock, capsys):
    run = make_run(steps=14880)
    with Progress(run, 100) as progress:
        clock.now += 2.5
        progress.add(row_of(101, skipped=3))
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "step   101/14880  epoch 1.09  loss 0.5234 (cross-entropy 1.2500, Dice 0.3418)  lr 4.57e-03",
        "    gradient 0.287  12.3 slices/s  11.40 GB  3 skipped  10 h 15 min left",  # 14779 steps of 2.5 s
        "    Dice losses: background 0.125  left kidney 0.250  a,b/µ 0.500",
    ]


def test_twenty_lines_over_a_run(make_run, clock, capsys):
    with Progress(make_run(steps=200), 0) as progress:
        for step in range(1, 201):
            clock.now += 0.1
            progress.add(row_of(step))
    out, err = capsys.readouterr()
    assert [int(number) for number in re.findall(r"step +(\d+)/200", out)] == [1, *range(10, 201, 10)]
    assert "\r" not in out + err


def test_a_slow_run_logs_a_line_every_minute(make_run, clock, capsys):
    with Progress(make_run(steps=10000), 0) as progress:
        for step in range(1, 11):
            clock.now += 25
            progress.add(row_of(step))
    # A line 60 s or more after the last one: every third step.
    assert re.findall(r"step +(\d+)/", capsys.readouterr().out) == ["1", "4", "7", "10"]


def test_a_validation_logs_labels_and_the_best_so_far(make_run, capsys):
    earlier = [row_of(5, validation_dice=0.6)]
    with Progress(make_run(log=earlier), 5) as progress:
        for step, dice in ((10, 0.5), (20, 0.7), (30, 0.7), (40, math.nan)):
            scores = {"left kidney": dice, "a,b/µ": None}
            progress.add(row_of(step, validation_dice=dice, validation_dice_per_class=scores))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("valid", "    Dice: "))]
    assert lines == [
        "validation at step 10: Dice 0.5000, best 0.6000 at step 5",
        "    Dice: left kidney 0.500  a,b/µ -",
        "validation at step 20: Dice 0.7000, the best so far",
        "    Dice: left kidney 0.700  a,b/µ -",
        "validation at step 30: Dice 0.7000, best 0.7000 at step 20",
        "    Dice: left kidney 0.700  a,b/µ -",
        "validation at step 40: Dice nan, best 0.7000 at step 20",
        "    Dice: left kidney -  a,b/µ -",
    ]


def test_a_row_with_only_the_required_numbers(make_run, clock, capsys):
    bare = {"step": 1, "learning_rate": 0.001, "loss": math.nan, "cross_entropy": 0.5, "dice": 0.75}
    with Progress(make_run(), 0) as progress:
        progress.add(bare | {"validation_dice": 0.25})
    assert capsys.readouterr().out.splitlines() == [
        "step   1/100  loss nan (cross-entropy 0.5000, Dice 0.7500)  lr 1.00e-03",
        "    0.0 s left",
        "validation at step 1: Dice 0.2500, the best so far",
    ]


def test_many_labels_fill_lines_of_a_hundred_columns(make_run, capsys):
    names = {index: f"a label of number {index}" for index in range(14)}
    run = make_run()
    run.model.config.id2label = names
    with Progress(run, 0) as progress:
        progress.add(row_of(1, dice_per_class=[0.5] * 14))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    for name in names.values():
        assert sum(f"{name} 0.500" in line for line in lines) == 1


# ------------------------------------------------------------------------------------------------- bar of a terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Standard error is a terminal of a hundred columns or of as many as are asked for; every step is drawn."""

    def make(columns=WIDTH):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(tqdm, "mininterval", 0, raising=False)
        monkeypatch.setenv("COLUMNS", str(columns))
        return terminal

    return make


def frames(terminal):
    """What the bar showed, one after the other."""
    return [frame.strip() for frame in re.split(r"[\r\n]", terminal.getvalue()) if "|" in frame]


@pytest.mark.parametrize("steps", [200, 99999])
def test_the_bar_holds_all_in_a_hundred_columns(make_run, clock, terminal, steps):
    screen = terminal()
    with Progress(make_run(steps=steps), 0) as progress:
        clock.now += 1.5
        progress.add(row_of(steps // 2, epoch=160.0, samples_per_second=112.3))
        progress.bar.refresh()
    shown = frames(screen)[-1]
    for part in ("ep 160", "loss 0.523 (CE 1.250 Dice 0.342)", "lr 0.00457", "grad 0.29", "112/s", "11.4G"):
        assert part in shown
    assert max(len(frame) for frame in frames(screen)) < WIDTH


def test_a_narrow_terminal_shows_the_most_important_numbers(make_run, clock, terminal):
    for columns, expected in ((70, ["loss 0.523", "Dice 0.342", "lr"]), (40, ["loss 0.523"])):
        screen = terminal(columns)
        with Progress(make_run(steps=14880), 0) as progress:
            clock.now += 1
            progress.add(row_of(1))
            progress.bar.refresh()
        assert all(part in frames(screen)[-1] for part in expected)
        assert "11.4G" not in frames(screen)[-1]
        assert max(len(frame) for frame in frames(screen)) < columns


def test_in_a_terminal_only_validations_are_lines(make_run, terminal, capsys):
    terminal()
    with Progress(make_run(), 0) as progress:
        progress.add(row_of(1))
        progress.add(row_of(2, validation_dice=0.5))
    assert capsys.readouterr().out.splitlines() == ["validation at step 2: Dice 0.5000, the best so far"]


# -------------------------------------------------------------------------------------------------------------- memory


def test_memory_of_the_processor_is_the_resident_set():
    before = used_memory(torch.device("cpu"))
    # Of the system itself: what Python allocates may lie where other things lay before.
    with mmap.mmap(-1, 100 * 2**20) as held:
        for _ in range(100):
            held.write(b"x" * 2**20)
        assert used_memory(torch.device("cpu")) - before == pytest.approx(100 * 2**20, rel=0.2)
        assert used_memory(torch.device("cpu")) < psutil.virtual_memory().total


def test_memory_of_a_gpu_is_the_most_that_was_allocated(monkeypatch):
    asked = []
    module = SimpleNamespace(max_memory_allocated=lambda device: asked.append(device) or 123)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    assert used_memory(torch.device("cuda", 1)) == 123
    assert asked == [torch.device("cuda", 1)]
    module = SimpleNamespace(current_allocated_memory=lambda: 45)
    assert used_memory(torch.device("mps")) == 45
