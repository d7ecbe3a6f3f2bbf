"""Learning curves of fabricated cross-validations."""

import csv
import json
import re

import numpy as np
import pytest

from samed_hf.scoring import summarize
from samed_hf.scoring.intervals import mean_interval, score_intervals
from samed_hf.studies import write_learning_curve
from samed_hf.studies.comparison import MEAN


def write_scores(directory, dice, *, labels=("liver", "spleen"), **more):
    """`metrics.json` with the Dice of each case and label."""
    directory.mkdir(parents=True)
    cases = {
        f"case{n}": {name: {"dice": value} for name, value in zip(labels, row, strict=True)}
        for n, row in enumerate(dice)
    }
    metrics = summarize(cases) | {"distance_unit": "mm"} | more
    (directory / "metrics.json").write_text(json.dumps(metrics | {"intervals": score_intervals(metrics)}))
    settings = {"settings": {}, "differing_settings": {}, "synthetic": False, "random_base": True}
    (directory / "cv_summary.json").write_text(json.dumps(settings))
    return directory


@pytest.fixture
def sizes(tmp_path):
    small = [(0.4, 0.2), (0.5, None), (0.6, 0.4), (0.7, 0.3)]
    large = [(0.6, 0.5), (0.6, None), (0.7, 0.5), (0.8, 0.8)]
    return {20: write_scores(tmp_path / "cases-20", large), 5: write_scores(tmp_path / "cases-5", small)}


def test_rows_have_the_means_and_intervals_of_each_size(sizes, tmp_path):
    rows = write_learning_curve(tmp_path, sizes)
    assert [(row["size"], row["label"]) for row in rows] == [
        (size, label) for size in (5, 20) for label in ("liver", "spleen", MEAN)
    ]
    assert [row["mean"] for row in rows] == pytest.approx([0.55, 0.3, 0.425, 0.675, 0.6, 0.6375])
    assert [row["cases"] for row in rows] == [4, 3, 4, 4, 3, 4]
    metrics = json.loads((sizes[5] / "metrics.json").read_text())
    assert [rows[0]["low"], rows[0]["high"]] == metrics["intervals"]["per_class"]["liver"]["dice"]
    assert [rows[2]["low"], rows[2]["high"]] == metrics["intervals"]["mean"]["dice"]
    table = list(csv.DictReader((tmp_path / "learning_curve.csv").open()))
    assert [float(row["mean"]) for row in table] == [row["mean"] for row in rows]


def test_the_page_has_the_paired_step_and_its_interval(sizes, tmp_path):
    write_learning_curve(tmp_path, sizes)
    text = " ".join(
        re.sub(r"<style>.*?</style>|<[^>]*>", " ", (tmp_path / "cv_report.html").read_text(), flags=re.DOTALL).split()
    )
    # Liver 0.2, 0.1, 0.1, 0.1; spleen 0.3, -, 0.1, 0.5: the cases' means are 0.25, 0.1, 0.1, 0.3.
    low, high = mean_interval(np.array([[0.25], [0.1], [0.1], [0.3]]), level=0.95, draws=10_000, seed=0)
    assert f"5 to 20 +0.1875 (+{low:.4f} to +{high:.4f}) 4 cases" in text
    assert text.count("random weights") == 1
    assert "cases-5/cv_report.html" in (tmp_path / "cv_report.html").read_text()
    svg = (tmp_path / "learning_curve.svg").read_text()
    assert all(f">{one}<" in svg for one in ("5", "20", "liver", MEAN))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"dice": [(0.5, 0.5)]}, "cases only in"),
        ({"dice": [(0.5, 0.5)] * 4, "labels": ("liver", "kidney")}, "labels only in"),
        ({"dice": [(0.5, 0.5)] * 4, "protocol": "samed"}, "protocol strict in .*, protocol samed in"),
    ],
)
def test_sizes_that_cannot_be_compared_are_refused(sizes, tmp_path, other, named):
    with pytest.raises(ValueError, match=named):
        write_learning_curve(tmp_path, sizes | {40: write_scores(tmp_path / "cases-40", **other)})
    assert not (tmp_path / "learning_curve.csv").exists()


def test_one_size_is_a_curve_of_one_point(sizes, tmp_path):
    rows = write_learning_curve(tmp_path, {5: sizes[5]})
    assert [row["size"] for row in rows] == [5, 5, 5]
    assert "From one size to the next" not in (tmp_path / "cv_report.html").read_text()


def test_a_size_that_is_not_there_is_refused(sizes, tmp_path):
    with pytest.raises(FileNotFoundError, match="cases-9"):
        write_learning_curve(tmp_path, sizes | {9: tmp_path / "cases-9"})
