import numpy as np
import pytest

from samed_hf.evaluate_metric import SamedMetric
from samed_hf.scoring import score_case
from samed_hf.scoring.measures import METRICS, Measures

EVERY = Measures(tuple(name for name in METRICS if name != "calibration"), nsd_tolerance_mm=1.0)
EMPTY, ONE = np.zeros((2, 4, 4, 4), bool)
ONE[1, 1, 1] = True


def score(prediction, label, measures=EVERY, **options):
    return score_case(prediction, label, 2, measures=measures, **options)["1"]


def test_all_scores_of_two_cubes_by_hand():
    pytest.importorskip("monai.metrics", reason="the areas of surface elements are MONAI's")
    label, prediction = np.zeros((2, 8, 8, 8), bool)
    label[1:3, 1:3, 1:3] = True
    prediction[1:3, 1:3, 2:4] = True  # one voxel further
    found = score(prediction, label, spacing=(10.0, 10.0, 5.0))
    assert found == {
        "dice": 0.5,
        "iou": 4 / 12,
        "sensitivity": 0.5,
        "precision": 0.5,
        "specificity": 500 / 504,
        "hd95": 5.0,
        "hd": 5.0,
        "assd": 2.5,
        "nsd": pytest.approx(found["nsd"]),
        "volume_ml": 4.0,
        "label_volume_ml": 4.0,
        "volume_error_ml": 0.0,
        "relative_volume_error": 0.0,
        "lesion_tp": 1,
        "lesion_fp": 0,
        "lesion_fn": 0,
        "lesion_f1": 1.0,
    }
    assert 0 < found["nsd"] < 1
    assert score(prediction, label, Measures(("nsd",), {"1": 5.0}), spacing=(10.0, 10.0, 5.0)) == {"nsd": 1.0}


@pytest.mark.parametrize(
    ("prediction", "label", "defined"),
    [
        (ONE, EMPTY, {"dice": 0, "iou": 0, "precision": 0, "specificity": 63 / 64, "nsd": 0, "lesion_f1": 0}),
        (EMPTY, ONE, {"dice": 0, "iou": 0, "sensitivity": 0, "specificity": 1, "nsd": 0, "lesion_f1": 0}),
        (EMPTY, EMPTY, {}),
    ],
)
def test_scores_of_empty_masks(prediction, label, defined):
    pytest.importorskip("monai.metrics", reason="the areas of surface elements are MONAI's")
    counted = ("volume", "lesion_tp", "lesion_fp", "lesion_fn", "label_volume", "relative")
    found = score(prediction, label, spacing=(1.0, 1.0, 1.0))
    shares = {key: value for key, value in found.items() if not key.startswith(counted) and value is not None}
    assert shares == defined
    if not defined:
        assert set(found.values()) == {None}
        return
    assert found["label_volume_ml"] == label.sum() / 1000
    assert (found["relative_volume_error"] is None) == (not label.any())
    assert (found["lesion_tp"], found["lesion_fp"], found["lesion_fn"]) == (0, prediction.sum(), label.sum())


def test_volumes_in_ml_need_a_spacing_and_their_ratio_none():
    found = score(ONE, ONE, Measures(("dice", "volume")))
    assert found == {"dice": 1.0, **dict.fromkeys(METRICS["volume"]), "relative_volume_error": 0.0}
    assert score(np.eye(4) > 0, np.eye(4) > 1, Measures(("volume",)))["relative_volume_error"] is None
    assert score(np.eye(4) > 0, np.eye(4, k=1) > 0, Measures(("volume",)))["relative_volume_error"] == 1 / 3


@pytest.mark.parametrize(
    ("measures", "protocol", "named"),
    [
        (Measures(()), "strict", "empty"),
        (Measures(("dice", "kappa")), "strict", "'kappa'"),
        (Measures(("dice", "nsd")), "samed", "'nsd'"),
        (Measures(("dice", "iou", "dice")), "strict", "dice, iou, dice"),
        (Measures(("nsd",), {"2": 1.0}), "strict", "1, 2"),
        (Measures(nsd_tolerance_mm=-1.0), "strict", "-1.0"),
        (Measures(lesion_min_iou=1.5), "strict", "1.5"),
    ],
)
def test_other_measures_are_refused(measures, protocol, named):
    with pytest.raises(ValueError, match=named):
        score(ONE, ONE, measures, protocol=protocol)


def test_the_metric_of_evaluate_takes_them():
    found = SamedMetric().compute(predictions=[ONE], references=[ONE], id2label=2, metrics=["iou", "lesions"])
    assert found["mean"] == {"iou": 1.0, "lesion_tp": 1.0, "lesion_fp": 0.0, "lesion_fn": 0.0, "lesion_f1": 1.0}
