import numpy as np
import pytest
from medpy.metric import binary

from samed_hf.scoring.overlap import Counts, Lesions, match_lesions

from .test_hausdorff import random_mask

#        label        prediction
# 1 1 . .   1 . . .
# 1 1 . .   1 . . 1
# . . . .   . . . .
# . 1 . .   . . 1 .
LABEL = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=bool)
PREDICTION = np.array([[1, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]], dtype=bool)


def test_scores_of_counts_by_hand():
    counts = Counts.of(PREDICTION, LABEL)
    assert counts == (2, 2, 3, 9)
    assert counts.dice == 4 / 9
    assert counts.iou == 2 / 7
    assert counts.sensitivity == 2 / 5
    assert counts.precision == 2 / 4
    assert counts.specificity == 9 / 11


def test_cropped_masks_keep_the_true_negatives_of_the_case():
    assert Counts.of(PREDICTION[:2, :2], LABEL[:2, :2], size=100) == (2, 0, 2, 96)


def test_scores_of_empty_masks():
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    nothing, missed, invented = Counts.of(empty, empty), Counts.of(empty, full), Counts.of(full, empty)
    assert (nothing.dice, nothing.iou, nothing.sensitivity, nothing.precision) == (None, None, None, None)
    assert (missed.dice, missed.iou, missed.sensitivity, missed.precision, missed.specificity) == (0, 0, 0, None, None)
    assert (invented.dice, invented.sensitivity, invented.precision, invented.specificity) == (0, None, 0, 0)


@pytest.mark.parametrize("ndim", [2, 3])
def test_scores_of_counts_are_medpys(ndim):
    rng = np.random.default_rng(ndim)
    for _ in range(150):
        prediction, label = (random_mask(rng, (9,) * ndim) for _ in range(2))
        if prediction.any() and label.any():
            counts = Counts.of(prediction, label)
            assert counts.dice == pytest.approx(binary.dc(prediction, label), abs=1e-12)
            assert counts.iou == pytest.approx(binary.jc(prediction, label), abs=1e-12)
            assert counts.sensitivity == pytest.approx(binary.sensitivity(prediction, label), abs=1e-12)
            assert counts.precision == pytest.approx(binary.precision(prediction, label), abs=1e-12)
            if not label.all():
                assert counts.specificity == pytest.approx(binary.specificity(prediction, label), abs=1e-12)


def test_lesions_that_share_a_voxel_match():
    # The square is found; the lesion at the bottom has a predicted neighbour, but no voxel of it.
    assert match_lesions(PREDICTION, LABEL) == Lesions(1, 2, 1)
    assert match_lesions(PREDICTION, LABEL).f1 == 2 / 5


def test_lesions_match_by_their_iou():
    # The square and the left column share 2 of 4 voxels.
    assert match_lesions(PREDICTION, LABEL, min_iou=0.5) == Lesions(1, 2, 1)
    assert match_lesions(PREDICTION, LABEL, min_iou=0.51) == Lesions(0, 3, 2)


def test_one_predicted_lesion_over_two_is_one_match_by_iou():
    label = np.array([[1, 1, 0, 1, 1]], dtype=bool)
    prediction = np.ones((1, 5), bool)
    assert match_lesions(prediction, label) == Lesions(2, 0, 0)
    assert match_lesions(prediction, label, min_iou=0.4) == Lesions(1, 0, 1)
    # Of several possible pairs the largest number is matched: the first lesion to either part, the second to one.
    label = np.array([[1, 1, 1, 1, 1, 1, 0, 0]], dtype=bool)
    prediction = np.array([[1, 1, 0, 1, 1, 1, 0, 1]], dtype=bool)
    assert match_lesions(prediction, label, min_iou=0.3) == Lesions(1, 2, 0)


def test_lesions_touch_at_corners_and_may_be_absent():
    diagonal = np.eye(3, dtype=bool)
    assert match_lesions(diagonal, diagonal) == Lesions(1, 0, 0)
    empty = np.zeros((3, 3), bool)
    for min_iou in (None, 0.5):
        assert match_lesions(empty, diagonal, min_iou) == Lesions(0, 0, 1)
        assert match_lesions(diagonal, empty, min_iou) == Lesions(0, 1, 0)
        assert match_lesions(empty, empty, min_iou).f1 is None


def test_found_lesions_are_medpys():
    """medpy divides the objects that share a voxel by those of its first argument."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        blocks = [np.zeros((24, 24), bool) for _ in range(2)]
        for mask in blocks:
            for _ in range(rng.integers(1, 6)):
                row, column = rng.integers(0, 6, 2) * 4
                mask[row : row + 2, column : column + 2] = True  # never connected to another
        prediction, label = blocks
        lesions = match_lesions(prediction, label)
        found = lesions.true_positive / (lesions.true_positive + lesions.false_negative)
        assert found == pytest.approx(binary.obj_tpr(label, prediction))
        predicted = lesions.false_positive + match_lesions(label, prediction).true_positive
        assert lesions.false_positive / predicted == pytest.approx(binary.obj_fpr(label, prediction))
