import json
import math

import numpy as np
import pytest

from samed_hf.training.monitoring.checks import CaseLabels, LabelChecks, NonFiniteGuard, labels_in

LABELS = {0: "background", 1: "disc", 2: "bar"}
NAN, INF = math.nan, math.inf


@pytest.fixture
def logged(caplog, monkeypatch):
    """Messages as they are logged."""
    messages = []
    monkeypatch.setattr(caplog.handler, "emit", lambda record: messages.append(record.getMessage()))
    return messages


def test_finite_steps_are_accepted_without_a_message(logged):
    guard = NonFiniteGuard(0)
    assert all(guard.accepts(step, 0.5, 1.0, ["a"]) for step in range(1, 20))
    assert (guard.skipped, logged) == (0, [])
    guard.check_end()


@pytest.mark.parametrize(("loss", "norm"), [(NAN, 1.0), (INF, 1.0), (0.5, NAN), (0.5, INF)])
def test_a_step_that_is_not_finite_is_skipped_and_logged_with_its_cases(logged, loss, norm):
    guard = NonFiniteGuard(3)
    assert not guard.accepts(7, loss, norm, ["b", "a", "b"])
    assert guard.skipped == 1
    (line,) = logged
    assert f"step 7 skipped: the loss is {loss:g}, the gradient's norm {norm:g}, in slices of a, b " in line


def test_the_limit_is_on_steps_in_a_row(logged):
    guard = NonFiniteGuard(2)
    for step in range(1, 31):  # two bad steps, one good one, again and again
        assert guard.accepts(step, 0.5 if step % 3 == 0 else NAN, 1.0, ["a"]) == (step % 3 == 0)
    assert guard.skipped == 20
    guard.accepts(31, NAN, 1.0, ["a"])
    guard.accepts(32, NAN, 1.0, ["a"])
    with pytest.raises(ValueError, match=r"stopped at step 33: the loss is nan, .* norm 1, in slices of a, z; 3 steps"):
        guard.accepts(33, NAN, 1.0, ["z", "a"])
    assert guard.skipped == 23


def test_a_limit_of_none_stops_at_once(logged):
    with pytest.raises(ValueError, match="1 step skipped, max_skipped_steps is 0"):
        NonFiniteGuard(0).accepts(1, NAN, 1.0, [])
    assert logged == []


def test_many_cases_are_counted(logged):
    NonFiniteGuard(1).accepts(1, NAN, 1.0, [f"case{number:02d}" for number in range(15)])
    assert "case11 and 3 more" in logged[0]
    assert "case12" not in logged[0]


def test_overflows_are_left_to_the_loss_scaler_up_to_a_limit(logged):
    guard = NonFiniteGuard(2)
    assert all(guard.accepts(step, 0.5, INF, ["a"], scaled=True) for step in range(1, 43))
    assert (guard.skipped, logged) == (0, [])
    with pytest.raises(ValueError, match=r"stopped at step 43.*norm inf.*43 steps in a row"):
        guard.accepts(43, 0.5, INF, ["a"], scaled=True)
    guard = NonFiniteGuard(2)
    assert not guard.accepts(1, NAN, NAN, ["a"], scaled=True)
    assert guard.skipped == 1


def test_a_training_that_ends_before_the_limit_without_a_step_done(logged):
    guard = NonFiniteGuard(10)
    for step in range(1, 4):
        guard.accepts(step, NAN, NAN, ["a"])
    with pytest.raises(ValueError, match="ended without one finite step, 3 were skipped"):
        guard.check_end()
    assert guard.accepts(4, 0.5, 1.0, ["a"])
    guard.check_end()


def test_a_resumed_run_keeps_its_counts(logged):
    guard = NonFiniteGuard(2)
    for loss in (0.5, NAN, NAN):
        guard.accepts(1, loss, 1.0, [])
    other = NonFiniteGuard(2)
    other.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert other.skipped == 2
    other.check_end()
    with pytest.raises(ValueError, match="3 steps in a row"):
        other.accepts(4, NAN, 1.0, [])


def test_a_limit_below_zero():
    with pytest.raises(ValueError, match="limit is -1: expected"):
        NonFiniteGuard(-1)


def label_map(*values):
    array = np.zeros((2, 3, 3), dtype=np.uint8)
    for index, value in enumerate(values):
        array[index % 2, 0, index] = value
    return array


def test_labels_in_a_map():
    assert labels_in(label_map(2, 1, 1)) == {0, 1, 2}
    assert labels_in(np.full((1, 2, 2), 300, dtype=np.uint16)) == {300}
    assert labels_in(np.zeros((0, 2, 2), dtype=np.uint8)) == frozenset()


def test_training_cases_of_background_alone_and_labels_without_a_case(logged):
    watch = LabelChecks(LABELS)
    watch.training([("full", label_map(1, 2)), ("other", label_map(2))])
    assert logged == []
    cases = [("a", label_map(1)), ("empty", label_map()), ("void", label_map())]
    watch.training(cases)
    assert [line.split(":")[0] for line in logged] == [
        "the labels of empty, void are background alone",
        "no training case holds bar (label 2)",
    ]
    watch.training(cases)
    assert len(logged) == 2


def case(name, present, predicted):
    return CaseLabels(name, frozenset(present), frozenset(predicted))


def test_a_model_that_predicts_background_alone_is_logged_once(logged):
    watch = LabelChecks(LABELS)
    empty = [case("a", {0, 1}, {0}), case("b", {0, 2}, {0}), case("healthy", {0}, {0})]
    for step in (10, 20):
        watch.predictions(step, empty)
    (line,) = logged
    assert "after step 10 the model predicts background alone in every validation case (a, b)" in line


def test_one_case_of_background_alone_and_a_label_never_predicted(logged):
    watch = LabelChecks(LABELS)
    cases = [case("a", {0, 1, 2}, {0}), case("b", {0, 2}, {0, 1}), case("healthy", {0}, {0})]
    for step in (10, 20):
        watch.predictions(step, cases)
    assert logged == [
        "after step 10 a is predicted as background alone",
        "after step 10 predicted in no validation case: bar",
    ]


def test_correct_predictions_are_not_logged(logged):
    watch = LabelChecks(LABELS)
    watch.predictions(10, [case("healthy", {0}, {0}), case("a", {0, 1}, {0, 1})])
    assert logged == []
    watch.predictions(20, [])
    assert logged == []
