import numpy as np
import pytest
import torch

from samed_hf import SamedForSemanticSegmentation
from samed_hf.evaluate_metric import SamedMetric
from samed_hf.inference.slices import predict_slices
from samed_hf.scoring.calibration import BINS, Calibration
from samed_hf.scoring.measures import Measures


def scores(softmax, label, members, batch=2, **options):
    calibration = Calibration(label, members, **options)
    for first in range(0, len(label), batch):
        indices = torch.arange(first, min(first + batch, len(label)))
        calibration.add(calibration.count(torch.from_numpy(softmax)[indices], indices).numpy())
    return calibration.scores()


def brute_force(probability, truth):
    """ECE and Brier score of one class by their definitions."""
    error = 0.0
    for number in range(BINS):
        low, high = number / BINS, (number + 1) / BINS
        members = (probability > low) & (probability <= high) | (number == 0) & (probability == 0)
        if members.any():
            error += members.mean() * abs(truth[members].mean() - probability[members].mean())
    return [error, np.square(probability - truth).mean()]


def softmax_and_label(shape=(5, 24, 20), num_labels=4, seed=0):
    rng = np.random.default_rng(seed)
    softmax = torch.from_numpy(rng.normal(0, 2, (shape[0], num_labels, *shape[1:]))).softmax(1).float().numpy()
    label = np.zeros(shape, np.uint8)
    label[1:3, 4:9, 3:7], label[2:, 15:, 12:] = 1, 2  # 3 is nowhere
    return softmax, label


def test_scores_by_hand():
    label = np.array([[[1, 1, 1, 0, 1, 0]]], np.uint8)
    probability = np.array([0.9, 0.9, 0.9, 0.9, 0.62, 0.62], np.float32)
    softmax = np.stack([1 - probability, probability])[None, :, None]
    found = scores(softmax, label, {"disc": (1,)})["disc"]
    expected = {"ece": (4 * abs(0.75 - 0.9) + 2 * abs(0.5 - 0.62)) / 6}
    expected["brier"] = (3 * 0.1**2 + 0.9**2 + 0.38**2 + 0.62**2) / 6
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert (found["ece_near"], found["brier_near"]) == (found["ece"], found["brier"])
    sure = scores(np.eye(2, dtype=np.float32)[label[0]].transpose(0, 2, 1)[:, :, None], label, {"disc": (1,)})
    assert set(sure["disc"].values()) == {0.0}


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_scores_are_those_of_the_definition(batch):
    softmax, label = softmax_and_label()
    members = {"a": (1,), "both": (1, 2), "absent": (3,)}
    found = scores(softmax, label, members, batch, spacing=(10.0, 5.0, 5.0))
    # 1 slice and 2 pixels around each box
    near = {"a": np.s_[0:4, 2:11, 1:9], "both": np.s_[0:5, 2:24, 1:20]}
    for name, labels in members.items():
        probability, truth = softmax[:, list(labels)].sum(1).astype(np.float64), np.isin(label, labels)
        expected = [*brute_force(probability, truth)]
        expected += brute_force(probability[near[name]], truth[near[name]]) if name in near else [None, None]
        assert list(found[name].values()) == pytest.approx(expected, abs=1e-7), name


def test_ignored_voxels_do_not_count():
    softmax, label = softmax_and_label()
    label[0] = label[:, :4] = 9
    known = label != 9
    found = scores(softmax, label, {"a": (1,)}, ignore_index=9)["a"]
    expected = brute_force(softmax[:, 1][known].astype(np.float64), label[known] == 1)
    assert [found["ece"], found["brier"]] == pytest.approx(expected, abs=1e-7)


def test_chance_is_calibrated_and_a_wrong_certainty_is_not():
    rng = np.random.default_rng(0)
    probability = rng.random((4, 100, 100)).astype(np.float32)
    label = (rng.random(probability.shape) < probability).astype(np.uint8)
    softmax = np.stack([1 - probability, probability], axis=1)
    assert scores(softmax, label, {"a": (1,)})["a"]["ece"] < 0.01
    wrong = scores(np.stack([label, 1 - label], axis=1).astype(np.float32), label, {"a": (1,)})["a"]
    assert wrong == {"ece": 1.0, "brier": 1.0, "ece_near": 1.0, "brier_near": 1.0}


def test_a_batch_that_lacked_memory_counts_once(tiny_adapter, monkeypatch):
    """Each slice once, in batches whose size falls, and labels that don't depend on it."""
    images = np.random.default_rng(0).random((6, 20, 24), np.float32)
    label = (images > 0.5).astype(np.uint8)
    model = SamedForSemanticSegmentation.from_pretrained(tiny_adapter)
    options = (model, images, model.image_processor)
    whole, failing = (Calibration(label, {"a": (1,)}) for _ in range(2))
    expected = predict_slices(*options, batch_size=6, observer=whole)
    count, failed = failing.count, []

    def lacks_memory(softmax, indices):
        if len(indices) > 2:
            failed.append(len(indices))
            raise MemoryError
        return count(softmax, indices)

    failing.count = lacks_memory
    monkeypatch.setattr("samed_hf.inference.batching.choose_batch_size", lambda *_: 4)
    assert np.array_equal(predict_slices(*options, observer=failing), expected)
    assert failed == [4]
    assert failing.scores()["a"] == pytest.approx(whole.scores()["a"], abs=1e-6)
    assert np.array_equal(predict_slices(*options, batch_size=6), expected)


def test_label_maps_have_no_probability():
    maps = [np.ones((4, 4), np.uint8)]
    with pytest.raises(ValueError, match="calibration"):
        SamedMetric().compute(predictions=maps, references=maps, id2label=2, metrics=["dice", "calibration"])


def test_it_is_a_score_of_strict_alone():
    with pytest.raises(ValueError, match="'calibration'"):
        Measures(("calibration",)).check("samed")
