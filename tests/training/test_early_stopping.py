import json
import math

import pytest

from samed_hf.training.early_stopping import EarlyStopping


def test_the_first_of_the_highest_scores_is_the_best():
    best = EarlyStopping()
    assert (best.step, best.score) == (None, None)
    is_best = [best.add(step, score) for step, score in ((10, 0.5), (20, 0.4), (30, 0.7), (40, 0.7), (50, 0.6))]
    assert is_best == [True, False, True, False, False]
    assert (best.step, best.score) == (30, 0.7)
    assert not best.stops  # without a patience, never


def test_patience_counts_evaluations_since_the_best():
    best = EarlyStopping(patience=2)
    stops = []
    for step, score in enumerate((0.1, 0.1, 0.2, 0.2, 0.1)):
        best.add(step, score)
        stops.append(best.stops)
    assert stops == [False, False, False, False, True]


def test_zero_is_a_score_and_nan_is_none():
    best = EarlyStopping(patience=1)
    assert not best.add(1, math.nan)
    assert (best.score, best.stops) == (None, True)
    assert best.add(2, 0.0)
    assert (best.step, best.score, best.stops) == (2, 0.0, False)


def test_a_continued_run_knows_the_best_and_how_long_ago_it_was():
    best = EarlyStopping(patience=3)
    for step, score in enumerate((0.3, 0.2, 0.1)):
        best.add(step, score)
    other = EarlyStopping(patience=3)
    other.load_state_dict(json.loads(json.dumps(best.state_dict())))
    assert (other.step, other.score, other.stops) == (0, 0.3, False)
    assert not other.add(3, 0.3)
    assert other.stops


def test_a_patience_of_nothing():
    with pytest.raises(ValueError, match="patience is 0: expected a number of evaluations of at least 1"):
        EarlyStopping(0)
