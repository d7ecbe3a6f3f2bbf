import csv
import json
import threading

import numpy as np
import pytest

from samed_hf import SamedForSemanticSegmentation
from samed_hf.data.dataset import Case
from samed_hf.data.layouts import read_data
from samed_hf.scoring import evaluation as module
from samed_hf.scoring.evaluation import evaluate_cases, score_cases, write_metrics

NAMES = {0: "background", 1: "disc", 2: "bar"}


class Oracle:
    """A model whose predictions are given."""

    class config:  # noqa: N801 - as on a model
        id2label, regions = NAMES, None


@pytest.fixture
def cases(monkeypatch) -> list[Case]:
    """Two cases of one 4×4 slice: in "a" the disc is found and two pixels too large and the bar missed; in "b" there is
    only a disc, found exactly."""
    label = np.zeros((2, 1, 4, 4), dtype=np.int64)
    label[0, 0, 0:2, 0:2] = 1
    label[0, 0, 3, :] = 2
    label[1, 0, 0, 0] = 1
    predictions = {}
    for index, name in enumerate("ab"):
        predictions[name] = np.where(label[index] == 1, 1, 0)
    predictions["a"][0, 0:2, 2] = 1
    images = iter(predictions.values())
    monkeypatch.setattr(module, "predict_slices", lambda *args, **kwargs: next(images))
    spacing = (5.0, 2.0, 3.0)
    return [Case(name, np.zeros((1, 4, 4), np.float32), label[i], spacing) for i, name in enumerate("ab")]


def test_strict_leaves_out_what_is_absent_and_counts_what_is_missed(cases):
    metrics = evaluate_cases(Oracle, cases, None)
    assert metrics["per_case"]["a"] == {"disc": {"dice": 0.8, "hd95": 3.0}, "bar": {"dice": 0.0, "hd95": None}}
    assert metrics["per_case"]["b"] == {"disc": {"dice": 1.0, "hd95": 0.0}, "bar": {"dice": None, "hd95": None}}
    assert metrics["per_class"]["disc"] == {"dice": 0.9, "hd95": 1.5, "cases": 2, "hd95_undefined": 0}
    assert metrics["per_class"]["bar"] == {"dice": 0.0, "hd95": None, "cases": 1, "hd95_undefined": 1}
    assert metrics["mean"] == {"dice": 0.45, "hd95": 1.5}
    assert (metrics["protocol"], metrics["distance_unit"]) == ("strict", "mm")


def test_samed_measures_in_voxels_and_defines_everything(cases):
    metrics = evaluate_cases(Oracle, cases, None, protocol="samed")
    assert metrics["per_case"]["a"] == {"disc": {"dice": 0.8, "hd95": 1.0}, "bar": {"dice": 0.0, "hd95": 0.0}}
    assert metrics["per_case"]["b"]["bar"] == {"dice": 0.0, "hd95": 0.0}
    assert (metrics["protocol"], metrics["distance_unit"]) == ("samed", "voxel")


def test_the_files_hold_the_scores(cases, tmp_path):
    metrics = evaluate_cases(Oracle, cases, None)
    write_metrics(tmp_path / "new", metrics)
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == metrics
    rows = list(csv.reader((tmp_path / "new" / "metrics.csv").open()))
    assert rows == [
        ["case", "label", "dice", "hd95"],
        ["a", "disc", "0.8", "3.0"],
        ["a", "bar", "0.0", ""],
        ["b", "disc", "1.0", "0.0"],
        ["b", "bar", "", ""],
    ]


def one_voxel_cases(monkeypatch, *names, labels=None) -> list[Case]:
    """Cases of one pixel whose prediction is 1; `labels` holds those that are not 1."""
    monkeypatch.setattr(module, "predict_slices", lambda *args, **kwargs: np.ones((1, 1, 1), np.uint8))
    labels = {name: np.full((1, 1, 1), (labels or {}).get(name, 1)) for name in names}
    return [Case(name, np.zeros((1, 1, 1), np.float32), labels[name]) for name in names]


def outcomes_of(cases, read=lambda case: case):
    """What `score_cases` reports, and the cases that were drawn."""
    found, drawn = [], []
    score_cases(
        Oracle,
        cases,
        read,
        None,
        predicted=lambda case, prediction: drawn.append((case.name, prediction.shape)),
        done=lambda case, outcome: found.append((case.name, outcome)),
    )
    return found, drawn


def test_a_case_is_scored_while_the_next_is_predicted(monkeypatch):
    cases = one_voxel_cases(monkeypatch, "a", "b", "c")
    predicting = [threading.Event() for _ in cases]
    overlapped, scored, begun = [], [], []
    score, predict = module.score_case, module.predict_slices

    def score_beside(*args, **options):
        scored.append(threading.current_thread())
        if len(scored) < len(cases):
            overlapped.append(predicting[len(scored)].wait(timeout=20))
        return score(*args, **options)

    def tell(*args, **kwargs):
        begun.append(threading.get_ident())
        predicting[len(begun) - 1].set()
        return predict(*args, **kwargs)

    monkeypatch.setattr(module, "score_case", score_beside)
    monkeypatch.setattr(module, "predict_slices", tell)
    found, drawn = outcomes_of(cases)
    assert [name for name, _ in found] == ["a", "b", "c"]
    assert [outcome.result.scores["disc"]["dice"] for _, outcome in found] == [1.0] * 3
    assert drawn == [(name, (1, 1, 1)) for name in "abc"]
    assert overlapped == [True, True]
    assert threading.get_ident() not in {thread.ident for thread in scored}


def test_a_case_that_cannot_be_scored_or_read_does_not_stop_the_others(monkeypatch):
    def read(case):
        if case.name == "c":
            raise ValueError("c is damaged")
        return case

    found, drawn = outcomes_of(one_voxel_cases(monkeypatch, "a", "b", "c", "d", labels={"b": 7}), read)
    errors = {name: str(outcome.error or "") for name, outcome in found}
    assert list(errors) == ["a", "b", "c", "d"]
    assert errors["a"] == errors["d"] == ""
    assert "label holds values from 7 to 7, expected 0 to 2" in errors["b"]
    assert errors["c"] == "c is damaged"
    assert [name for name, _ in drawn] == ["a", "d"]


def test_evaluate_cases_names_the_case_that_cannot_be_scored(monkeypatch):
    cases = one_voxel_cases(monkeypatch, "a", "b", "c", labels={"b": 7})
    with pytest.raises(ValueError, match="Case b cannot be scored: label holds values from 7 to 7, expected 0 to 2"):
        evaluate_cases(Oracle, cases, None)


def test_each_protocol_goes_its_own_way_back(tiny_adapter, tiny_data, monkeypatch):
    data = read_data(tiny_data)
    model = SamedForSemanticSegmentation.from_pretrained(tiny_adapter)
    ways = []
    predict = module.predict_slices

    def watch(*args, **kwargs):
        ways.append((kwargs["reference_zoom"], kwargs["input_size"]))
        return predict(*args, **kwargs)

    monkeypatch.setattr(module, "predict_slices", watch)
    for protocol in ("strict", "samed"):
        volumes = [data.read_case(name, model.image_processor) for name in data.test]
        evaluate_cases(model, volumes, model.image_processor, protocol=protocol, input_size=32)
    assert ways == [(False, 32)] * 2 + [(True, 32)] * 2
