"""The final scores of a training are those that `evaluate` gives its adapter."""

import json

import pytest

from samed_hf.cli import main
from samed_hf.training.run import run_training


@pytest.mark.slow
def test_the_chosen_scores_are_those_of_evaluate(settings, tiny_data, tmp_path, capsys):
    scores = {"metrics": "iou,hd,lesions", "lesion_min_iou": 0.1}
    found = run_training(settings(max_train_steps=2, **scores))
    flags = [f"--{name}={value}" for name, value in scores.items()]
    run, out = tmp_path / "run", tmp_path / "scores"
    assert main(["evaluate", str(run), "--data", str(tiny_data), "--output", str(out), *flags]) == 0
    evaluated = json.loads((out / "metrics.json").read_text())
    assert list(found["mean"]) == ["iou", "hd", "lesion_tp", "lesion_fp", "lesion_fn", "lesion_f1"]
    assert {key: evaluated[key] for key in found} == found == json.loads((run / "metrics.json").read_text())
    low, high = found["intervals"]["mean"]["iou"]
    assert low <= found["mean"]["iou"] <= high
    assert (run / "metrics.csv").read_text() == (out / "metrics.csv").read_text()
    for page in ("README.md", "training_report.html"):
        assert f"{found['mean']['iou']:.4f}" in (run / page).read_text()
