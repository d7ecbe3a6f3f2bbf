"""Models of several planes: their softmax is averaged on the scan's own grid, as in evaluation."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from samed_hf import SamedImageProcessor
from samed_hf.data.dataset import Case
from samed_hf.data.processor import PLANES
from samed_hf.inference import Segmenter, segment_volume
from samed_hf.scoring import evaluate_cases
from samed_hf.transforms import cut_slices
from samed_hf.volumes import Volume, reorient


class Corner:
    """A toy model: the logit of label 1 is ten times the slice's first pixel, that of the background 5, everywhere."""

    config = SimpleNamespace(num_labels=2, id2label={0: "background", 1: "disc"}, regions=None)
    device, dtype = torch.device("cpu"), torch.float32

    def __call__(self, pixel_values):
        logit = 10 * pixel_values[:, :1, :1, :1].expand(-1, 1, 4, 4)
        return SimpleNamespace(logits=torch.cat([torch.full_like(logit, 5.0), logit], dim=1))


@pytest.fixture
def segmenter():
    sides = {"axial": 16, "coronal": 32, "sagittal": 16}
    processors = [
        SamedImageProcessor(sides[plane], (0.0, 1.0), axis_order=order, orientation=orientation)
        for plane, (order, orientation) in PLANES.items()
    ]
    return Segmenter((Corner(),) * 3, tuple(processors))


@pytest.fixture
def scan():
    """A scan in LPS with thick slices, of which coronal and sagittal ones are three rows high."""
    return Volume(np.random.default_rng(0).random((7, 6, 3)), np.diag([-1.0, -1.0, 5.0, 1.0]))


def by_hand(array):
    """The mean probability of label 1 `(x, y, z)`: the first pixels are at (0, 0, z), (0, y, top) and (x, 0, top)."""
    first = [array[:1, :1, :], array[:1, :, -1:], array[:, :1, -1:]]
    return sum(1 / (1 + np.exp(5 - 10 * one)) for one in first) / 3


def test_the_softmax_is_averaged_on_the_grid(segmenter, scan, tmp_path):
    found = segment_volume(
        segmenter, scan, batch_size=2, probabilities=tmp_path / "p.raw", confidence_dtype=torch.float32
    )
    expected = by_hand(scan.array)
    np.testing.assert_allclose(found.probabilities[..., 1], expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.labels, expected > 0.5)
    np.testing.assert_allclose(found.confidence, np.maximum(expected, 1 - expected), rtol=0, atol=1e-5)
    assert 0.2 < found.labels.mean() < 0.8
    for turned in (reorient(scan, "RAS"), reorient(scan, "SPR")):
        again = segment_volume(segmenter, turned, batch_size=2)
        assert again.probabilities is None
        np.testing.assert_array_equal(
            again.labels, reorient(Volume(found.labels, scan.affine), turned.orientation).array
        )


def test_evaluation_scores_the_same_labels(segmenter, scan):
    labels = segment_volume(segmenter, scan, batch_size=2).labels
    image, label = (cut_slices(Volume(one, scan.affine), segmenter.processor) for one in (scan.array, labels))
    case = Case("a", image.astype(np.float32), label, (5.0, 1.0, 1.0))
    metrics = evaluate_cases(segmenter, [case], segmenter.processor, batch_size=2)
    assert metrics["per_case"]["a"]["disc"] == {"dice": 1.0, "hd95": 0.0}
    for wrong in ({"protocol": "samed"}, {"input_size": 32}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            evaluate_cases(segmenter, [case], segmenter.processor, **wrong)


def test_what_has_slices_of_one_plane_is_refused(segmenter, scan):
    image = Volume(scan.array[..., :1], np.eye(4), is_image=True)
    for one in (image, Volume(scan.array[..., :1], scan.affine)):
        with pytest.raises(ValueError, match="7×6×1"):
            segment_volume(segmenter, one)
