import numpy as np
import pytest

from samed_hf.scoring.calibration import brier_score, expected_calibration_error


def test_calibration_by_hand():
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.6, 0.6])
    correct = np.array([True, True, True, False, True, False])
    expected = (4 * abs(0.75 - 0.9) + 2 * abs(0.5 - 0.6)) / 6
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected)
    assert expected_calibration_error(np.ones(4), np.ones(4, bool)) == 0


def test_the_softmax_of_chance_is_calibrated():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 100_000)
    assert expected_calibration_error(confidence, rng.random(100_000) < confidence) < 0.01


def test_brier_by_hand():
    probabilities = np.array([[[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]]], dtype=np.float32)
    expected = ((0.3**2 + 0.2**2 + 0.1**2) + 2) / 2
    assert brier_score(probabilities, np.array([[0, 1]])) == pytest.approx(expected)
    assert brier_score(np.eye(3)[None], np.array([[0, 1, 2]])) == 0
