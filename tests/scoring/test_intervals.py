import numpy as np
import pytest
from scipy import stats

from samed_hf.scoring import summarize
from samed_hf.scoring.intervals import compare_pairs, holm, mean_interval, score_intervals

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


def test_pairs_by_hand():
    first = {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.8, "e": None, "f": 0.3}
    second = {"f": float("nan"), "e": 0.4, "d": 0.9, "c": 0.5, "b": 0.9, "a": 0.5}
    found = compare_pairs(first, second)
    assert (found.cases, found.left_out, found.wins, found.ties, found.losses) == (4, 2, 2, 1, 1)
    assert found.mean_difference == pytest.approx(0.05)
    # The ranks of 0.3, -0.2 and 0.1 are 3, 2 and 1; of the eight ways of signs, six have a rank sum of 2 or less.
    assert found.effect_size == pytest.approx((3 - 2 + 1) / 6)
    assert found.p_value == pytest.approx(6 / 8)
    assert found.interval[0] < 0.05 < found.interval[1]
    swapped = compare_pairs(second, first)
    assert swapped.effect_size == pytest.approx(-found.effect_size)
    assert swapped.p_value == pytest.approx(found.p_value)
    lower = compare_pairs(first, second, lower_is_better=True)
    assert (lower.wins, lower.losses, lower.effect_size) == (1, 2, swapped.effect_size)
    assert lower[2:5] == found[2:5]


@pytest.mark.parametrize(("count", "least"), [(1, None), (2, 0.5), (3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_few_cases_have_a_least_p_value(count, least):
    second = {str(index): 0.1 * (index + 1) for index in range(count)}
    assert compare_pairs(dict.fromkeys(second, 0.0), second).p_value == (least and pytest.approx(least))


def test_models_without_a_difference():
    scores = {"a": 0.5, "b": 0.6}
    assert compare_pairs(scores, dict(scores)) == (2, 0, 0.0, [0.0, 0.0], 1.0, None, 0, 2, 0)
    assert compare_pairs({"a": 0.5}, {"a": 0.6})[3:] == (None, None, 1.0, 1, 0, 0)
    assert compare_pairs({"a": None}, {"a": 0.6}) == (0, 1, None, None, None, None, 0, 0, 0)


def test_pairs_of_differences_that_are_all_the_same():
    found = compare_pairs({"a": 0.25, "b": 0.5, "c": 0.75}, {"a": 0.5, "b": 0.75, "c": 1.0})
    assert (found.mean_difference, found.interval, found.effect_size) == (0.25, [0.25, 0.25], 1.0)


def test_pairs_of_other_cases_are_refused():
    with pytest.raises(ValueError, match=r"e\.g\. b, c"):
        compare_pairs({"a": 0.5, "b": 0.5}, {"a": 0.5, "c": 0.5})
    with pytest.raises(ValueError, match="none"):
        compare_pairs({}, {})


def test_the_effect_size_is_signed_ranks_over_their_sum():
    rng = np.random.default_rng(0)
    differences = rng.normal(0.1, 1, 60).round(1)
    scores = {str(index): value for index, value in enumerate(differences)}
    found = compare_pairs(dict.fromkeys(scores, 0.0), scores)
    test = stats.wilcoxon(differences, alternative="greater", method="asymptotic")  # its statistic is the sum for +
    total = np.count_nonzero(differences) * (np.count_nonzero(differences) + 1) / 2
    assert found.effect_size == pytest.approx(2 * test.statistic / total - 1)
    assert found.p_value == pytest.approx(stats.wilcoxon(differences).pvalue)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
