import json
from pathlib import Path

import numpy as np
import pytest
from medpy.metric import binary
from safetensors.numpy import load_file
from scipy.ndimage import gaussian_filter

from samed_hf.scoring import metrics
from samed_hf.scoring.metrics import binary_dice, binary_hd95, summarize

GOLDEN = Path(__file__).parents[1] / "golden" / "samed"


def grid(*rows):
    """A mask drawn by hand: `#` is the object."""
    return np.array([[character == "#" for character in row] for row in rows])


def pair(score):
    """Dice and HD95, which are computed by default."""
    assert list(score) == ["dice", "hd95"]
    return tuple(score.values())


def score_case(*args, **options):
    """Dice and HD95 of each class, as pairs."""
    return {name: pair(score) for name, score in metrics.score_case(*args, **options).items()}


def make_score(dice, hd95):
    return {"dice": dice, "hd95": hd95}


def score_pair(prediction, label, protocol="strict", spacing=None):
    """The score of one mask pair, as a case of one class."""
    return score_case(np.asarray(prediction, bool), np.asarray(label, bool), 2, protocol, spacing)["1"]


EMPTY = grid("....", "....", "....", "....")
LEFT = grid("#...", "#...", "#...", "#...")
RIGHT = grid("...#", "...#", "...#", "...#")
CORNER = grid("##..", "##..", "....", "....")
SQUARE = grid("....", ".##.", ".##.", "....")


# ----------------------------------------------------------------------------------------------------- one mask pair


@pytest.mark.parametrize(
    ("prediction", "label", "dice"),
    [
        (SQUARE, SQUARE, 1.0),
        (SQUARE, CORNER, 2 * 1 / (4 + 4)),
        (LEFT, CORNER, 2 * 2 / (4 + 4)),
        (LEFT, RIGHT, 0.0),
        (LEFT, EMPTY, 0.0),
        (EMPTY, EMPTY, 1.0),
    ],
)
def test_dice_by_hand(prediction, label, dice):
    assert binary_dice(prediction, label) == dice
    assert binary_dice(label, prediction) == dice
    assert binary_dice(np.stack([prediction] * 3), np.stack([label] * 3)) == dice


@pytest.mark.parametrize(
    ("prediction", "label", "spacing", "hd95"),
    [
        (SQUARE, SQUARE, None, 0.0),
        (LEFT, RIGHT, None, 3.0),
        (LEFT, RIGHT, (1.0, 2.0), 6.0),
        (LEFT, RIGHT, (7.0, 1.0), 3.0),
        # Corner to square: distances √2, 1, 1, 0; back the same. The 95th percentile of eight lies at 6.65: √2.
        (SQUARE, CORNER, None, 2**0.5),
        # The corner's two pixels beyond the left column are at 1, the column's two below it at 1 and 2: of
        # 0 0 0 0 1 1 1 2 the position 6.65 lies between 1 and 2.
        (LEFT, CORNER, None, 1.65),
    ],
)
def test_hd95_by_hand(prediction, label, spacing, hd95):
    assert binary_hd95(prediction, label, spacing) == pytest.approx(hd95, abs=1e-12)
    assert binary_hd95(label, prediction, spacing) == pytest.approx(hd95, abs=1e-12)


def test_hd95_in_3d_follows_each_axis_of_the_spacing():
    prediction, label = np.zeros((5, 6, 7), bool), np.zeros((5, 6, 7), bool)
    prediction[0, 1, 2] = label[4, 3, 3] = True
    assert binary_hd95(prediction, label) == pytest.approx((16 + 4 + 1) ** 0.5)
    assert binary_hd95(prediction, label, (3.0, 0.5, 2.0)) == pytest.approx((144 + 1 + 4) ** 0.5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_both_scores_equal_medpys_on_the_whole(ndim):
    rng = np.random.default_rng(ndim)
    pairs = 0
    for _ in range(600):
        shape = tuple(rng.integers(1, 30 if ndim == 2 else 12, ndim))
        masks = []
        for _ in range(2):
            # A random block of random density; many a block reaches the border of the array.
            mask = np.zeros(shape, bool)
            block = tuple(slice(*sorted(rng.integers(0, length + 1, 2))) for length in shape)
            mask[block] = rng.random(mask[block].shape) < rng.choice([0.1, 0.5, 1.0])
            masks.append(mask)
        if not all(mask.any() for mask in masks):
            continue
        pairs += 1
        for spacing in (None, tuple(rng.uniform(0.3, 5.0, ndim)), (0.7, 0.7, 3.0)[-ndim:]):
            assert binary_hd95(*masks, spacing) == binary.hd95(*masks, voxelspacing=spacing)
        assert binary_dice(*masks) == binary.dc(*masks)
    assert pairs > 100


@pytest.mark.parametrize("row", [0, 1, 2, 3])
def test_hd95_at_the_border_of_the_array(row):
    """The array's border counts as background: a full slab and its neighbour have the surfaces medpy sees."""
    prediction, label = np.zeros((4, 9, 9), bool), np.zeros((4, 9, 9), bool)
    prediction[row], label[:, :, row] = True, True
    assert binary_hd95(prediction, label) == binary.hd95(prediction, label)


@pytest.mark.parametrize(
    ("prediction", "label", "words"),
    [
        (EMPTY, SQUARE, "no voxel is set in prediction, "),
        (SQUARE, EMPTY, "no voxel is set in label, "),
        (EMPTY, EMPTY, "no voxel is set in prediction and label, "),
        (EMPTY, EMPTY[:3], r"prediction has shape \(4, 4\) and label has shape \(3, 4\)"),
        (EMPTY[0], EMPTY[0], "expected two or three axes"),
    ],
)
def test_hd95_refuses(prediction, label, words):
    with pytest.raises(ValueError, match=words):
        binary_hd95(prediction, label)


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (1.0, float("nan")), 1.0])
def test_spacing_must_fit_the_axes(spacing):
    for score in (binary_hd95, lambda *masks, spacing: score_pair(*masks, spacing=spacing)):
        with pytest.raises(ValueError, match="expected 2 positive numbers in mm"):
            score(SQUARE, SQUARE, spacing=spacing)


# --------------------------------------------------------------------------------------------------------- protocols


@pytest.mark.parametrize(
    ("prediction", "label", "strict", "samed"),
    [
        (LEFT, RIGHT, (0.0, 6.0), (0.0, 3.0)),
        (SQUARE, EMPTY, (0.0, None), (1.0, 0.0)),
        (EMPTY, SQUARE, (0.0, None), (0.0, 0.0)),
        (EMPTY, EMPTY, (None, None), (0.0, 0.0)),
    ],
)
def test_protocols_by_hand(prediction, label, strict, samed):
    assert score_pair(prediction, label, spacing=(1.0, 2.0)) == strict
    assert score_pair(prediction, label, protocol="strict", spacing=(1.0, 2.0)) == strict
    assert score_pair(prediction, label, protocol="samed", spacing=(1.0, 2.0)) == samed


def test_strict_without_spacing_is_in_voxels():
    assert score_pair(LEFT, RIGHT) == (0.0, 3.0)


def test_samed_equals_the_reference_implementation():
    pairs = load_file(GOLDEN / "metrics.safetensors")
    expected = json.loads((GOLDEN / "metrics.json").read_text())
    assert len(pairs) == 2 * len(expected)
    for index, scores in enumerate(expected):
        score = score_pair(pairs[f"prediction_{index}"], pairs[f"label_{index}"], protocol="samed")
        assert make_score(*score) == scores


def test_unknown_protocol():
    for call in (
        lambda: score_pair(LEFT, RIGHT, protocol="honest"),
        lambda: score_case(LEFT, RIGHT, 2, protocol="honest"),
        lambda: summarize({"a": {}}, protocol="honest"),
    ):
        with pytest.raises(ValueError, match="protocol is 'honest', expected one of 'strict', 'samed'"):
            call()


# ---------------------------------------------------------------------------------------------------- cases, summary

NAMES = {0: "background", 1: "liver", 2: "spleen", 3: "aorta"}
LABEL = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]], np.uint8)
PREDICTION = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 3]], np.int64)


def test_score_case_by_hand():
    scores = score_case(PREDICTION, LABEL, NAMES, spacing=(5.0, 1.0))
    # Liver: of the distances 0 0 0 0 5 5 the 95th percentile is 5.
    assert scores == {"liver": (2 / 3, 5.0), "spleen": (0.0, None), "aorta": (0.0, None)}
    assert list(scores) == ["liver", "spleen", "aorta"]
    assert score_case(PREDICTION, LABEL, 4, "samed") == {"1": (2 / 3, 1.0), "2": (0.0, 0.0), "3": (1.0, 0.0)}
    from_json = {str(index): name for index, name in NAMES.items()}
    assert score_case(PREDICTION, LABEL, from_json, spacing=(5.0, 1.0)) == scores


@pytest.mark.parametrize("shape", [(60, 90), (14, 40, 50)])
@pytest.mark.parametrize("protocol", ["strict", "samed"])
def test_score_case_equals_medpy_class_by_class(shape, protocol):
    rng = np.random.default_rng(0)
    spacing = (2.5, 0.8, 0.8)[-len(shape) :]
    fields = [gaussian_filter(rng.normal(size=(6, *shape)), (0, *[3] * len(shape))) for _ in range(2)]
    label = fields[0].argmax(axis=0)
    prediction = (0.7 * fields[0] + 0.5 * fields[1]).argmax(axis=0)
    label[label == 4], prediction[prediction == 5] = 0, 0  # one invented, one missed
    label[prediction == 5] = 1
    scores = score_case(prediction, label.astype(np.uint8), 8, protocol, spacing)
    assert list(scores) == [str(index) for index in range(1, 8)]
    for index, score in enumerate(scores.values(), start=1):
        masks = prediction == index, label == index
        assert score == score_pair(*masks, protocol, spacing)
        if index < 4:
            in_mm = spacing if protocol == "strict" else None
            assert score == (binary.dc(*masks), binary.hd95(*masks, voxelspacing=in_mm))
        assert all(type(value) in (float, type(None)) for value in score)


@pytest.mark.parametrize("shape", [(5, 6), (3, 5, 6), (0, 4), (3, 0, 4)])
def test_score_case_of_background_alone(shape):
    empty = np.zeros(shape, np.uint8)
    assert score_case(empty, empty, 3) == {"1": (None, None), "2": (None, None)}
    assert score_case(empty, empty, 3, "samed") == {"1": (0.0, 0.0), "2": (0.0, 0.0)}


def test_the_number_of_threads_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    maps = [np.kron(rng.integers(0, 9, (4, 9, 9)), np.ones((5, 5, 5), int)) for _ in range(2)]
    counts = iter((1, 2, 8))
    monkeypatch.setattr(metrics, "_threads", lambda sizes: next(counts))
    one, two, eight = (score_case(*maps, 9, spacing=(2.0, 0.7, 0.7)) for _ in range(3))
    assert one == two == eight
    assert list(one) == list(eight)


def test_threads_fit_cores_classes_and_memory(monkeypatch):
    monkeypatch.setattr(metrics.os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert metrics._threads([1000] * 8) == 6
    assert metrics._threads([1000] * 3) == 3
    assert metrics._threads([0]) == 1
    assert metrics._threads([120 * 512 * 512, *[10] * 7]) == 2
    assert metrics._threads([10**12] * 8) == 1
    monkeypatch.delattr(metrics.os, "sched_getaffinity")
    monkeypatch.setattr(metrics.os, "cpu_count", lambda: None)
    assert metrics._threads([1000] * 8) == 1


@pytest.mark.parametrize("dtype", [bool, np.uint16, np.int64, np.uint64])
def test_score_case_takes_any_integers(dtype):
    expected = score_case(SQUARE.astype(np.uint8), CORNER.astype(np.uint8), 300)
    assert score_case(SQUARE.astype(dtype), CORNER.astype(dtype), 300) == expected
    assert (expected["1"], expected["299"]) == ((0.25, pytest.approx(2**0.5)), (None, None))


@pytest.mark.parametrize(
    ("prediction", "label", "id2label", "words"),
    [
        (PREDICTION[:2], LABEL, NAMES, r"prediction has shape \(2, 4\)"),
        (PREDICTION, LABEL, 3, "prediction holds values from 0 to 3, expected 0 to 2"),
        (LABEL, PREDICTION, 3, "label holds values from 0 to 3, expected 0 to 2"),
        (PREDICTION - 1, LABEL, NAMES, "prediction holds values from -1 to 2"),
        (PREDICTION, LABEL.astype(np.float32), NAMES, "label is of dtype float32, expected integers"),
        (PREDICTION, LABEL, {1: "liver", 2: "spleen"}, "expected 0"),
        (PREDICTION, LABEL, {0: "background", 2: "spleen"}, "without a gap"),
        (PREDICTION, LABEL, {0: "background", 1: "liver", 2: "liver", 3: "aorta"}, "each name once"),
        (PREDICTION, LABEL, {"background": 0, "liver": 1}, "for a label2id, swap keys and values"),
        (PREDICTION, LABEL, ["background", "liver"], "expected a dictionary"),
        (PREDICTION, LABEL, 1, "expected at least 2"),
    ],
)
def test_score_case_refuses(prediction, label, id2label, words):
    with pytest.raises(ValueError, match=words):
        score_case(prediction, label, id2label)


CASES = {
    "case1": {"liver": make_score(0.5, 4.0), "spleen": make_score(0.0, None), "aorta": make_score(None, None)},
    "case2": {"liver": make_score(1.0, 0.0), "spleen": make_score(0.75, 3.0), "aorta": make_score(None, None)},
}


def test_summary_by_hand():
    summary = summarize(CASES)
    assert summary == {
        "protocol": "strict",
        "mean": {"dice": (0.75 + 0.375) / 2, "hd95": (2.0 + 3.0) / 2},
        "per_class": {
            "liver": {"dice": 0.75, "hd95": 2.0, "cases": 2, "hd95_undefined": 0},
            "spleen": {"dice": 0.375, "hd95": 3.0, "cases": 2, "hd95_undefined": 1},
            "aorta": {"dice": None, "hd95": None, "cases": 0, "hd95_undefined": 0},
        },
        "per_case": {
            "case1": {
                "liver": {"dice": 0.5, "hd95": 4.0},
                "spleen": {"dice": 0.0, "hd95": None},
                "aorta": {"dice": None, "hd95": None},
            },
            "case2": {
                "liver": {"dice": 1.0, "hd95": 0.0},
                "spleen": {"dice": 0.75, "hd95": 3.0},
                "aorta": {"dice": None, "hd95": None},
            },
        },
    }
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_summary_under_samed_averages_like_the_reference():
    rng = np.random.default_rng(0)
    scores = rng.random((12, 8, 2))
    cases = {f"case{i}": {str(j): make_score(*map(float, scores[i, j])) for j in range(8)} for i in range(12)}
    summary = summarize(cases, protocol="samed")
    assert (summary["mean"]["dice"], summary["mean"]["hd95"]) == pytest.approx(scores.mean(0).mean(0), rel=1e-14)
    assert [row["dice"] for row in summary["per_class"].values()] == pytest.approx(scores.mean(0)[:, 0], rel=1e-14)
    assert all(row["cases"] == 12 and row["hd95_undefined"] == 0 for row in summary["per_class"].values())


def test_summary_of_nothing_defined_is_null():
    assert summarize({"a": {"liver": make_score(None, None)}})["mean"] == {"dice": None, "hd95": None}


def test_summary_refuses():
    with pytest.raises(ValueError, match="cases is empty"):
        summarize({})
    with pytest.raises(ValueError, match=r"cases\['case1'\]\['spleen'\] is .* score the cases with protocol='samed'"):
        summarize(CASES, protocol="samed")


# --------------------------------------------------------------------------------------------------- evaluate.Metric


@pytest.fixture
def metric(tmp_path, monkeypatch):
    from samed_hf.evaluate_metric import SamedMetric  # here, because importing evaluate takes seconds

    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the metric went to the network"))
    return SamedMetric(cache_dir=str(tmp_path))


def label_maps(*shapes):
    rng = np.random.default_rng(0)
    return [[rng.integers(0, 4, shape).astype(dtype) for shape in shapes] for dtype in (np.int64, np.uint8)]


@pytest.mark.parametrize("shapes", [[(4, 5)], [(4, 5), (7, 3)], [(2, 4, 5), (3, 7, 3)], [(4, 5), (2, 4, 5), (4, 5)]])
@pytest.mark.parametrize("protocol", ["strict", "samed"])
def test_metric_equals_the_functions(metric, shapes, protocol):
    predictions, references = label_maps(*shapes)
    spacing = [[1.5, 0.5, 2.0][: len(shape)] for shape in shapes]
    expected = summarize(
        {
            str(index): metrics.score_case(predictions[index], references[index], NAMES, protocol, spacing[index])
            for index in range(len(shapes))
        },
        protocol,
    )
    arguments = {"id2label": NAMES, "protocol": protocol, "spacing": spacing}
    assert metric.compute(predictions=predictions, references=references, **arguments) == expected
    as_lists = [[array.tolist() for array in arrays] for arrays in (predictions, references)]
    assert metric.compute(predictions=as_lists[0], references=as_lists[1], **arguments) == expected
    metric.add_batch(predictions=predictions[:1], references=references[:1])
    for prediction, reference in zip(predictions[1:], references[1:], strict=True):
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute(**arguments) == expected


def test_metric_takes_one_spacing_for_all_and_names(metric):
    result = metric.compute(
        predictions=[LEFT.astype(int)] * 2,
        references=[RIGHT.astype(int)] * 2,
        id2label=2,
        spacing=[1.0, 2.0],
        cases=["case0001", "case0002"],
    )
    assert result["per_case"] == {name: {"1": {"dice": 0.0, "hd95": 6.0}} for name in ("case0001", "case0002")}


@pytest.mark.slow
def test_metric_refuses_and_works_on(metric):
    for predictions, references, words in (
        ([PREDICTION], [LABEL[:2]], r"shape \(4, 4\) and references one of shape \(2, 4\)"),
        ([PREDICTION], [LABEL, LABEL], "predictions holds 1 label maps and references 2"),
        (PREDICTION, LABEL, "a single case is passed as a list of one map"),
        ([PREDICTION / 2], [LABEL], "dtype float64, expected a list of integer label"),
        ([PREDICTION], None, "predictions or references is missing"),
    ):
        with pytest.raises(ValueError, match=words):
            metric.compute(predictions=predictions, references=references, id2label=NAMES)
    for arguments, words in (
        ({"id2label": 2}, "expected 0 to 1"),
        ({"id2label": NAMES, "cases": ["a", "b"]}, "expected 1 different names"),
        ({"id2label": NAMES, "spacing": [[1, 1], [1, 1]]}, "one spacing, or one for each case"),
    ):
        with pytest.raises(ValueError, match=words):
            metric.compute(predictions=[PREDICTION], references=[LABEL], **arguments)
    assert metric.compute(predictions=[LABEL], references=[LABEL], id2label=3)["mean"] == {"dice": 1.0, "hd95": 0.0}


def test_regions_are_scored_as_unions_of_labels():
    """The outer label is predicted as the inner one: the region of both is right, the inner one is half right."""
    label, prediction = np.zeros((2, 6, 6), np.uint8), np.zeros((2, 6, 6), np.uint8)
    label[:, 1:3, 1:5], label[:, 3:5, 1:5] = 1, 2
    prediction[:, 1:5, 1:5] = 2
    names = {0: "background", 1: "whole", 2: "core"}
    scores = score_case(prediction, label, names, regions={"whole": [1, 2], "core": [2], "rest": [1]})
    assert scores == {"whole": (1.0, 0.0), "core": (pytest.approx(2 * 16 / 48), 2.0), "rest": (0.0, None)}


def test_ignored_voxels_count_in_neither_map():
    label, prediction = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    label[0], label[3] = 1, 255
    prediction[0], prediction[3] = 1, 1
    assert score_case(prediction, label, 2, ignore_index=255)["1"] == (1.0, 0.0)
    with pytest.raises(ValueError, match="label holds values from 0 to 255"):
        score_case(prediction, label, 2)
