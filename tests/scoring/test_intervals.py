import numpy as np
import pytest
from scipy import stats

from samed_hf.scoring.intervals import Interval, compare_pairs, holm, mean_interval


def test_the_interval_covers_the_mean_in_95_of_100_samples():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        low, high = mean_interval(rng.normal(0.8, 0.1, 30), draws=500)
        inside += low <= 0.8 <= high
    assert 0.89 <= inside / 200 <= 0.99


def test_the_interval_is_reproducible_and_scipys():
    values = [0.7, 0.9, 0.85, 0.6, 0.95]
    first = mean_interval(values, seed=3)
    assert first == mean_interval(values, seed=3)
    assert first != mean_interval(values, seed=4)
    expected = stats.bootstrap((values,), np.mean, n_resamples=10_000, rng=np.random.default_rng(3))
    assert first == pytest.approx(tuple(expected.confidence_interval))
    assert first.low < np.mean(values) < first.high


def test_degenerate_samples():
    assert mean_interval([]) == mean_interval([0.5]) == Interval(None, None)
    assert mean_interval([0.5, 0.5, 0.5]) == Interval(0.5, 0.5)


def test_pairs_by_hand():
    first = {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.8}
    second = {"d": 0.9, "c": 0.5, "b": 0.9, "a": 0.5}
    found = compare_pairs(first, second)
    assert found.cases == 4
    assert found.mean_difference == pytest.approx(0.05)
    assert found.effect_size == pytest.approx((3 - 2 + 1) / 6)  # ranks of 0.3, -0.2 and 0.1; the tie is left out
    assert found.p_value == pytest.approx(stats.wilcoxon([0.3, -0.2, 0.1]).pvalue)
    assert found.interval.low < 0.05 < found.interval.high
    swapped = compare_pairs(second, first)
    assert swapped.effect_size == pytest.approx(-found.effect_size)
    assert swapped.p_value == pytest.approx(found.p_value)


def test_models_without_a_difference():
    scores = {"a": 0.5, "b": 0.6}
    assert compare_pairs(scores, dict(scores)) == (2, 0.0, Interval(0.0, 0.0), 1.0, None)
    assert compare_pairs({"a": 0.5}, {"a": 0.6})[2:] == (Interval(None, None), None, 1.0)


def test_other_cases_are_refused():
    with pytest.raises(ValueError, match=r"e\.g\. b, c"):
        compare_pairs({"a": 0.5, "b": 0.5}, {"a": 0.5, "c": 0.5})


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
