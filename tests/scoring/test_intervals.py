import numpy as np
import pytest
from scipy import stats

from samed_hf.scoring import summarize
from samed_hf.scoring.intervals import mean_interval, score_intervals

OPTIONS = {"level": 0.95, "draws": 2000, "seed": 3}


def test_the_interval_covers_the_mean_in_95_of_100_samples():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        low, high = mean_interval(rng.normal(0.8, 0.1, (30, 1)), level=0.95, draws=500, seed=0)
        inside += low <= 0.8 <= high
    assert 0.89 <= inside / 200 <= 0.99


def test_the_interval_of_one_class_is_scipys():
    values = np.array([0.7, 0.9, 0.85, 0.6, 0.95])
    found = mean_interval(values[:, None], **OPTIONS)
    expected = stats.bootstrap((values,), np.mean, n_resamples=2000, batch=1000, rng=np.random.default_rng(3))
    assert found == pytest.approx(list(expected.confidence_interval))
    assert found == mean_interval(values[:, None], **OPTIONS)
    assert found != mean_interval(values[:, None], **OPTIONS | {"seed": 4})


def test_degenerate_samples():
    assert mean_interval(np.array([[0.5]]), **OPTIONS) is None
    assert mean_interval(np.array([[0.5], [np.nan], [np.nan]]), **OPTIONS) is None
    assert mean_interval(np.full((3, 2), 0.5), **OPTIONS) == [0.5, 0.5]


def test_intervals_of_a_summary():
    rng = np.random.default_rng(0)
    cases = {
        f"case{number}": {
            "liver": {"dice": rng.uniform(0.7, 0.9), "hd95": rng.uniform(1, 3)},
            "cyst": {"dice": rng.uniform(0, 0.4), "hd95": None} if number % 2 else {"dice": None, "hd95": None},
        }
        for number in range(12)
    }
    metrics = summarize(cases)
    found = score_intervals(metrics, draws=2000)
    assert (found["level"], found["draws"], found["seed"]) == (0.95, 2000, 0)
    for mean, interval in (
        (metrics["mean"], found["mean"]),
        *((metrics["per_class"][label], found["per_class"][label]) for label in ("liver", "cyst")),
    ):
        low, high = interval["dice"]
        assert low < mean["dice"] < high
    assert found["per_class"]["cyst"]["hd95"] is None
    # Twelve livers and six cysts: the mean over both varies less than the cyst alone.
    widths = [high - low for low, high in (found["mean"]["dice"], found["per_class"]["cyst"]["dice"])]
    assert widths[0] < widths[1]
