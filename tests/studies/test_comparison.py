"""Comparison of scored runs: what is refused, the tests' numbers and the ranks."""

import json

import numpy as np
import pytest
from scipy import stats

from samed_hf.scoring import summarize
from samed_hf.scoring.measures import HIGHER_IS_BETTER, METRICS
from samed_hf.studies.comparison import MEAN, compare_runs

FAST = {"draws": 200}


def write_run(folder, cases, **facts):
    """Write the metrics.json of `{case: {label: {score: value}}}`."""
    folder.mkdir(parents=True)
    content = summarize(cases) | {"split": "test", "distance_unit": "mm"} | facts
    content = {key: value for key, value in content.items() if value is not ...}
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder


def scores(dice, hd95=None, label="liver", **others):
    """Cases of one label; `dice` is a value for each case."""
    hd95 = np.subtract(1, dice) * 10 if hd95 is None else hd95
    rows = zip(np.asarray(dice).tolist(), np.asarray(hd95).tolist(), strict=True)
    return {f"c{number}": {label: {"dice": a, "hd95": b, **others}} for number, (a, b) in enumerate(rows)}


@pytest.fixture
def two(tmp_path):
    """Two runs on twelve cases with two labels."""
    rng = np.random.default_rng(0)
    made = []
    for name, shift in (("first", 0.0), ("second", 0.05)):
        livers, cysts = (scores(rng.uniform(0.5, 0.9, 12) + shift, rng.uniform(1, 9, 12)) for _ in range(2))
        cases = {case: {"liver": livers[case]["liver"], "cyst": cysts[case]["liver"]} for case in livers}
        made.append(write_run(tmp_path / name, cases))
    return made


def test_the_numbers_are_scipys(two):
    found = compare_runs(two, **FAST)
    assert (found.names, found.reference, found.labels) == (["first", "second"], "first", ["liver", "cyst", MEAN])
    assert found.about == {"protocol": "strict", "split": "test", "distance_unit": "mm"}
    contents = [json.loads((folder / "metrics.json").read_text())["per_case"] for folder in two]
    p_values = []
    for test in found.tests:
        labels = ["liver", "cyst"] if test.label == MEAN else [test.label]
        first, second = (
            np.array([np.mean([case[label][test.score] for label in labels]) for case in content.values()])
            for content in contents
        )
        p_values.append(stats.wilcoxon(second, first).pvalue)
        assert test.found.p_value == pytest.approx(p_values[-1])
        assert test.found.mean_difference == pytest.approx((second - first).mean())
        assert test.means == pytest.approx([first.mean(), second.mean()])
        ranks = stats.rankdata(abs(second - first))
        sign = -1 if test.score == "hd95" else 1
        assert test.found.effect_size == pytest.approx(sign * (ranks @ np.sign(second - first)) / ranks.sum())
        assert test.found.wins == (sign * (second - first) > 0).sum()
        low, high = test.found.interval
        assert low < test.found.mean_difference < high
    assert [(test.score, test.label) for test in found.tests] == [
        (score, label) for score in ("dice", "hd95") for label in ("liver", "cyst", MEAN)
    ]
    adjusted = [test.p_holm for test in found.tests]
    assert min(adjusted) == pytest.approx(min(1, 6 * min(p_values)))
    assert max(adjusted) >= max(p_values)
    assert compare_runs(two, **FAST).tests == found.tests


def test_an_undefined_score_leaves_its_case_out_of_that_test(tmp_path, two):
    content = json.loads((two[1] / "metrics.json").read_text())
    content["per_case"]["c3"]["cyst"]["hd95"] = None
    (two[1] / "metrics.json").write_text(json.dumps(content))
    tests = {(test.score, test.label): test for test in compare_runs(two, **FAST).tests}
    cyst, mean = tests["hd95", "cyst"], tests["hd95", MEAN]
    assert (cyst.found.cases, cyst.found.left_out, cyst.undefined) == (11, 1, {"first": 0, "second": 1})
    assert (mean.found.cases, mean.undefined) == (12, {"first": 0, "second": 1})
    assert tests["dice", "cyst"].found.cases == tests["hd95", "liver"].found.cases == 12
    # The mean of c3 is over the liver alone, in both runs.
    found = compare_runs(two, **FAST)
    assert found.values["hd95"][:, 3, -1] == pytest.approx(found.values["hd95"][:, 3, 0])


BASE = scores([0.5, 0.6, 0.7])


@pytest.mark.parametrize(
    ("cases", "facts", "named"),
    [
        (scores([0.5, 0.6]), {}, "1 cases only in a: c2"),
        (scores([0.5, 0.6, 0.7, 0.8, 0.9]), {}, "2 cases only in b: c3, c4"),
        (scores([0.5, 0.6, 0.7], label="lever"), {}, "1 labels only in a: liver; 1 labels only in b: lever"),
        (BASE, {"protocol": "samed"}, "protocol strict in a, protocol samed in b"),
        (BASE, {"split": "validation"}, "split test in a, split validation in b"),
        (BASE, {"distance_unit": "voxel"}, "distances in mm in a, distances in voxels in b"),
    ],
)
def test_runs_that_differ_are_refused(tmp_path, cases, facts, named):
    runs = [write_run(tmp_path / "a", BASE), write_run(tmp_path / "b", cases, **facts)]
    with pytest.raises(ValueError, match=named):
        compare_runs(runs, **FAST)


def test_rules_matter_only_to_the_scores_that_depend_on_them(tmp_path):
    runs = []
    for name, tolerance in (("a", 2.0), ("b", 3.0)):
        cases = scores([0.5, 0.6, 0.7], nsd=0.5, lesion_f1=0.5)
        facts = {"nsd_tolerance_mm": tolerance, "lesion_min_iou": None if name == "a" else 0.1}
        runs.append(write_run(tmp_path / name, cases, **facts))
    with pytest.raises(
        ValueError, match=r"NSD tolerance 2\.0 in a, .* 3\.0 in b; .*voxel in a, .* IoU of at least 0\.1 in b"
    ):
        compare_runs(runs, **FAST)
    assert compare_runs([runs[0], runs[0]], names="xy", **FAST).rules() == (
        "protocol strict, split test, distances in mm, NSD tolerance 2.0, lesions match if they share a voxel"
    )
    assert [*compare_runs(runs, metrics=["dice"], **FAST).values] == ["dice"]
    with pytest.raises(ValueError, match="metrics: ece, brier, ece_near, brier_near; expected"):
        compare_runs(runs, metrics=["calibration"], **FAST)
    with pytest.raises(ValueError, match="hd; expected some of dice, hd95, nsd, lesion_f1"):
        compare_runs(runs, metrics=["hd"], **FAST)


def test_what_is_allowed_to_differ_is_noted(tmp_path):
    runs = [write_run(tmp_path / "a", BASE), write_run(tmp_path / "b", scores([0.5, 0.6]), split="validation")]
    found = compare_runs(runs, allow=["cases", "split"], **FAST)
    assert found.cases == ["c0", "c1"]
    assert found.notes == [
        "1 cases only in a: c2 (allowed).",
        "split test in a, split validation in b (allowed).",
    ]
    assert "split" not in found.about
    other = {f"d{case}": one for case, one in BASE.items()}
    with pytest.raises(ValueError, match="3 cases only in a: c0, c1, c2; 3 cases only in e: dc0"):
        compare_runs([runs[0], write_run(tmp_path / "e", other)], allow=["cases"], **FAST)
    with pytest.raises(ValueError, match="labels"):
        compare_runs(runs, allow=["labels"], **FAST)


def test_older_files_are_compared_on_what_they_record(tmp_path):
    facts = {"split": ..., "distance_unit": ...}
    runs = [write_run(tmp_path / "a", BASE, **facts), write_run(tmp_path / "b", BASE)]
    found = compare_runs(runs, **FAST)
    assert [note.split(" is not")[0] for note in found.notes] == ["the split", "the unit of distances"]
    assert found.title("hd95") == "HD95 (unknown unit) ↓"
    assert found.about == {"protocol": "strict"}
    (runs[0] / "metrics.json").write_text('{"protocol": "strict", "mean": {"dice": 1}, "per_class": {"liver": {}}}')
    with pytest.raises(ValueError, match="a has no case"):
        compare_runs(runs, **FAST)
    text = (write_run(tmp_path / "c", BASE) / "metrics.json").read_text()
    for bad in ('"hd96": 5.0', '"hd95": [5.0]', '"hd95": Infinity', '"hd95": "5.0"', '"hd95": true'):
        (tmp_path / "c" / "metrics.json").write_text(text.replace('"hd95": 5.0', bad))
        with pytest.raises(ValueError, match=r"of c: expected a number or null for hd95"):
            compare_runs([runs[1], tmp_path / "c"], **FAST)


def test_volumes_are_compared_by_their_errors(tmp_path):
    runs = []
    for name, error in (("a", -0.4), ("b", 0.1)):
        volume = dict(zip(METRICS["volume"], (5 * (1 + error), 5.0, 5 * abs(error), error), strict=True))
        runs.append(write_run(tmp_path / name, scores([0.5, 0.6, 0.7], **volume)))
    found = compare_runs(runs, metrics=["volume"], **FAST)
    assert [*found.values] == ["volume_error_ml", "abs_relative_volume_error"]
    assert [test.found.mean_difference for test in found.tests] == pytest.approx([-1.5, -0.3])
    assert {test.found.effect_size for test in found.tests} == {1.0}
    with pytest.raises(ValueError, match="volume_ml"):
        compare_runs(runs, metrics=["volume_ml"], **FAST)
    content = json.loads((runs[1] / "metrics.json").read_text())
    content["per_case"]["c1"]["liver"]["label_volume_ml"] = 6.0
    (runs[1] / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="labels' volumes differ in c1"):
        compare_runs(runs, **FAST)


def test_each_score_has_a_direction_or_is_no_agreement():
    every = {score for names in METRICS.values() for score in names}
    assert every - {*HIGHER_IS_BETTER} == {"volume_ml", "label_volume_ml", "relative_volume_error"}
    assert {*HIGHER_IS_BETTER} <= every


def test_ranks_and_friedman(tmp_path):
    dice = np.array([[0.5, 0.6, 0.7, 0.8], [0.6, 0.7, 0.8, 0.7], [0.6, 0.8, 0.9, 0.9]])
    runs = [write_run(tmp_path / name, scores(one)) for name, one in zip("abc", dice, strict=True)]
    found = compare_runs(runs, reference="c", **FAST)
    assert [test.run for test in found.tests] == ["a", "b", "a", "b"]
    for rank in found.ranks:
        # The second and the third run share ranks 1 and 2 of the first case; in the last one the second is the worst.
        assert rank.mean_ranks == [(3 + 3 + 3 + 2) / 4, (1.5 + 2 + 2 + 3) / 4, (1.5 + 1 + 1 + 1) / 4]
        assert rank.p_value == pytest.approx(stats.friedmanchisquare(*dice).pvalue)
    same = [write_run(tmp_path / f"same{name}", BASE) for name in "abc"]
    assert {(rank.p_value, *rank.mean_ranks) for rank in compare_runs(same, **FAST).ranks} == {(1.0, 2.0, 2.0, 2.0)}
    assert compare_runs(same[:2], **FAST).ranks[0].p_value is None


def test_names_of_runs(tmp_path):
    runs = [write_run(tmp_path / name / "scores", BASE) for name in ("a", "b")]
    assert compare_runs([runs[0] / "metrics.json", runs[1]], **FAST).names == ["a", "b"]
    three = [*runs, write_run(tmp_path / "a" / "more", BASE)]
    assert compare_runs(three, **FAST).names == ["a/scores", "b/scores", "a/more"]
    assert compare_runs(runs, names=["x", "y"], reference="y", **FAST).tests[0].run == "x"
    for options, message in (
        ({"names": ["x", "x"]}, "x, x"),
        ({"names": ["x"]}, "expected 2"),
        ({"names": ["case", "y"]}, "none of them empty, case"),
        ({"reference": "c"}, "expected a or b"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_runs(runs, **options, **FAST)
    with pytest.raises(ValueError, match="--names"):
        compare_runs([runs[0], runs[0]], **FAST)
    with pytest.raises(ValueError, match="'mean over labels'"):
        compare_runs([write_run(tmp_path / name, scores([0.5], label=MEAN)) for name in "de"], **FAST)
    with pytest.raises(ValueError, match="of f, g has no case"):
        compare_runs([write_run(tmp_path / name, BASE, per_case={}) for name in "fg"], **FAST)
    with pytest.raises(ValueError, match="1 runs"):
        compare_runs(runs[:1], **FAST)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        compare_runs([runs[0], tmp_path / "nowhere"], **FAST)
