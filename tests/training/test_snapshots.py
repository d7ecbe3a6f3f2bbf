"""Images at every validation: choice of slices, orientation and trackers."""

import errno
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from samed_hf.data.dataset import Case
from samed_hf.reporting.charts import label_colors
from samed_hf.training.arguments import SamedTrainingArguments
from samed_hf.training.loop import train
from samed_hf.training.monitoring import snapshots
from samed_hf.training.monitoring.snapshots import ValidationSnapshots

from ..conftest import TINY_LABELS, TINY_SIZE


class Tracker:
    """Records the images that it receives."""

    def __init__(self, name="wandb"):
        self.name, self.given = name, []

    def log_images(self, values, step=None, **how):
        self.given.append((values, step, how))


def make_case(name, labels_of_slices, shape=(8, 10), spacing=None):
    """Make a case whose slices hold the given labels, each in a row of its own from the top."""
    label = np.zeros((len(labels_of_slices), *shape), dtype=np.uint8)
    for index, values in enumerate(labels_of_slices):
        for row, value in enumerate(values):
            label[index, row] = value
    image = np.broadcast_to(np.linspace(0.1, 0.9, shape[0])[None, :, None], label.shape).astype(np.float32)
    return Case(name, image.copy(), label, spacing)


@pytest.fixture
def make_run(tmp_path):
    def make(cases, trackers=(), *, up=True, is_2d=False, main=True, **data):
        cases = {case.name: case for case in cases}
        return SimpleNamespace(
            data=SimpleNamespace(selection=list(cases), is_2d=is_2d, **{"has_ignored": False, "regions": {}} | data),
            store=SimpleNamespace(label=lambda name: cases[name].label, case=cases.__getitem__),
            processor=SimpleNamespace(orientation=None if up else "LPS", axis_order=(2, 1, 0)),
            model=SimpleNamespace(config=SimpleNamespace(id2label={0: "background", 1: "one", 2: "two", 3: "three"})),
            plan=SimpleNamespace(steps=50),
            output_dir=tmp_path,
            accelerator=SimpleNamespace(is_main_process=main, trackers=list(trackers)),
        )

    return make


@pytest.fixture
def drawn(monkeypatch):
    """The rows of every image."""
    rows, draw = [], snapshots.draw_rows

    def keep(path, slices, *args, **kwargs):
        rows.append(list(slices))
        draw(path, slices, *args, **kwargs)

    monkeypatch.setattr(snapshots, "draw_rows", keep)
    return rows


# -------------------------------------------------------------------------------------------------------------- choice


def test_slices_are_of_the_cases_with_most_labels(make_run):
    cases = [
        make_case("none", [[], []]),
        make_case("one", [[], [1]]),
        make_case("three", [[1], [1, 2, 3], [2]]),
        make_case("two", [[2], [], [1, 2], [1]]),
    ]
    assert ValidationSnapshots(make_run(cases), 1).slices == [("three", 1)]
    assert ValidationSnapshots(make_run(cases), 2).slices == [("three", 1), ("two", 2)]
    assert ValidationSnapshots(make_run(cases), 3).cases == ["three", "two", "one"]
    assert ValidationSnapshots(make_run(cases), 4).cases == ["three", "two", "one", "none"]
    assert ValidationSnapshots(make_run(cases[::-1]), 2).cases == ["three", "two"]
    # Of equal cases the first ones.
    same = [make_case(name, [[1, 2]]) for name in "cab"]
    assert ValidationSnapshots(make_run(same), 2).cases == ["c", "a"]


def test_few_cases_give_several_slices_and_no_slice_comes_twice(make_run):
    cases = [make_case("a", [[1], [1, 2], [1], [], [3], [3, 2]]), make_case("b", [[], [2]])]
    watch = ValidationSnapshots(make_run(cases), 5)
    assert [name for name, _ in watch.slices] == ["a", "a", "a", "b", "b"]
    assert len(set(watch.slices)) == 5
    assert len(ValidationSnapshots(make_run(cases), 100).slices) == 8  # all there are
    assert watch.slices == ValidationSnapshots(make_run(cases), 5).slices


@pytest.mark.parametrize("count", [0, 4])
def test_nothing_to_draw(make_run, count, tmp_path):
    run = make_run([make_case("a", [[1]])] if not count else [])
    watch = ValidationSnapshots(run, count)
    assert (watch.slices, watch.cases) == ([], [])
    assert watch.draw(3, {}) is None
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- picture


def test_image_truth_and_prediction_are_drawn_upright(make_run, drawn, tmp_path):
    case = make_case("a", [[], [1, 2]], spacing=(5.0, 2.0, 1.0))
    prediction = np.zeros_like(case.label)
    prediction[1, 0] = 1  # the first label whole, of the second nothing: Dice 1 and 0
    for up in (True, False):
        path = ValidationSnapshots(make_run([case], up=up), 1).draw(123, {"a": prediction})
        assert path == tmp_path / "watch" / "step-000123.png"
        (row,) = drawn[-1]
        turn = slice(None, None, -1) if up else slice(None)
        np.testing.assert_array_equal(row.image, case.image[1][turn])
        np.testing.assert_array_equal(row.label, case.label[1][turn])
        np.testing.assert_array_equal(row.prediction, prediction[1][turn])
        assert (row.name, row.result, row.aspect) == ("a, slice 1", "prediction, Dice 0.50", 2.0)
    with Image.open(path) as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 24)}
    # The legend's patches have the labels' own colours.
    for value in (1, 2):
        assert tuple(round(255 * part) for part in label_colors(4)[value]) in colors


def test_2d_images_keep_their_orientation_and_colours(make_run, drawn):
    case = make_case("a", [[1]])
    colored = Case("a", np.stack([case.image, case.image / 2, case.image / 4], axis=1), case.label)
    ValidationSnapshots(make_run([colored], is_2d=True), 1).draw(1, {"a": case.label})
    np.testing.assert_array_equal(drawn[-1][0].image, np.moveaxis(colored.image[0], 0, 2))
    assert drawn[-1][0].result == "prediction, Dice 1.00"
    # Of a scan's several channels the first is shown.
    ValidationSnapshots(make_run([colored], up=False), 1).draw(2, {"a": case.label})
    np.testing.assert_array_equal(drawn[-1][0].image, case.image[0])


def test_slices_of_different_sizes_share_an_image_without_missing_cases(make_run, drawn):
    cases = [make_case("a", [[1, 2]]), make_case("b", [[1]], shape=(20, 6)), make_case("c", [[]])]
    watch = ValidationSnapshots(make_run(cases), 3)
    assert watch.draw(1, {case.name: case.label for case in cases}) is not None
    assert [row.image.shape for row in drawn[-1]] == [(8, 10), (20, 6), (8, 10)]
    assert drawn[-1][2].result == "prediction, Dice -"
    assert watch.draw(2, {"b": cases[1].label, "other": cases[0].label}) is not None
    assert [row.name for row in drawn[-1]] == ["b, slice 0"]


def test_predictions_of_another_shape_are_refused(make_run):
    watch = ValidationSnapshots(make_run([make_case("a", [[1]])]), 1)
    with pytest.raises(ValueError, match=r"predictions\['a'\] has the shape \(1, 4, 4\): expected \(1, 8, 10\)"):
        watch.draw(1, {"a": np.zeros((1, 4, 4), dtype=np.uint8)})


def test_a_full_disk_is_logged_and_the_training_continues(make_run, monkeypatch, caplog):
    case = make_case("a", [[1]])
    run = make_run([case], [tracker := Tracker()])
    watch = ValidationSnapshots(run, 1)

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(snapshots, "draw_rows", fail)
    assert watch.draw(7, {"a": case.label}) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "step-000007.png couldn't be written (No space left on device)" in record.getMessage()
    assert tracker.given == []


def test_other_processes_choose_alike_and_draw_nothing(make_run, tmp_path):
    case = make_case("a", [[1], [1, 2]])
    watch = ValidationSnapshots(make_run([case], main=False), 1)
    assert watch.slices == [("a", 1)]
    assert watch.draw(1, {"a": case.label}) is None
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------ trackers


@pytest.mark.parametrize("name", ["wandb", "swanlab", "aim", "clearml", "tensorboard"])
def test_each_tracker_receives_the_image_by_its_own_method(make_run, name):
    case = make_case("a", [[1]])
    path = ValidationSnapshots(make_run([case], [tracker := Tracker(name)]), 1).draw(9, {"a": case.label})
    ((values, step, how),) = tracker.given
    (value,) = values.values()
    assert step == 9
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    single = name in ("aim", "clearml")
    np.testing.assert_array_equal(value if single else value[0], pixels)
    assert single or len(value) == 1
    assert how == ({"dataformats": "NHWC"} if name == "tensorboard" else {})


def test_trackio_gets_its_own_kind_of_image(make_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(Image=lambda pixels: ("image", pixels.shape)))
    given = []
    tracker = SimpleNamespace(name="trackio", log=lambda values, step: given.append((values, step)))
    case = make_case("a", [[1]])
    ValidationSnapshots(make_run([case], [tracker, SimpleNamespace(name="mlflow")]), 1).draw(9, {"a": case.label})
    ((values, step),) = given
    kind, shape = values["validation slices"]
    assert (kind, shape[2], step) == ("image", 3, 9)


def test_a_training_draws_the_same_slices_at_every_validation(tiny_sam, tiny_data, tmp_path, drawn):
    args = SamedTrainingArguments(
        model_name_or_path=str(tiny_sam),
        data_dir=str(tiny_data),
        output_dir=str(tmp_path / "run"),
        image_size=TINY_SIZE,
        per_device_train_batch_size=4,
        max_train_steps=4,
        eval_steps=2,
        checkpointing_steps=0,
        num_validation_cases=2,
        watched_slices=3,
        report_to="tensorboard",
    )
    run = train(args)
    run.accelerator.end_training()
    names = sorted(path.name for path in (tmp_path / "run" / "watch").iterdir())
    assert names == ["step-000002.png", "step-000004.png"]
    first, last = drawn
    assert [row.name for row in first] == [row.name for row in last]
    assert len(first) == 3
    for one, other in zip(first, last, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        assert set(np.unique(one.label)) == set(TINY_LABELS)
    written = b"".join(path.read_bytes() for path in (tmp_path / "run" / "runs").rglob("events*"))
    assert written.count(b"\x89PNG") == 2
    assert b"validation slices" in written
    assert b"dice/disc" in written


def test_ignored_pixels_are_neither_drawn_nor_scored_and_dice_is_of_regions(make_run, drawn):
    """Rows 1, 2 and 255: the prediction swaps the first two, parts of one region, and fills the ignored row."""
    case = make_case("a", [[1, 2, 255]])
    prediction = np.zeros_like(case.label)
    prediction[0, 0], prediction[0, 1:3] = 2, 1
    regions = {"both": (1, 2), "two": (2,)}
    ValidationSnapshots(make_run([case], up=False, has_ignored=True, regions=regions), 1).draw(3, {"a": prediction})
    (row,) = drawn[0]
    assert sorted(np.unique(row.label)) == [0, 1, 2]
    assert not row.prediction[2].any()
    assert row.result == "prediction, Dice 0.50"
