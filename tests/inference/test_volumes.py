"""Whole scans through one model or several."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from threadpoolctl import threadpool_info, threadpool_limits

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor, samed_lora_config
from samed_hf.cli import main
from samed_hf.inference import Segmenter, predict_image, predict_slices, predict_volume, segment_volume
from samed_hf.volumes import Volume

from ..conftest import TINY_LABELS, TINY_SIZE, randomize_lora


@pytest.fixture(scope="module")
def second_adapter(tiny_sam, tmp_path_factory):
    """An adapter of the same labels and other weights than `tiny_adapter`."""
    torch.manual_seed(5)
    model = SamedForSemanticSegmentation.from_pretrained(tiny_sam, image_size=TINY_SIZE, id2label=TINY_LABELS)
    model.add_adapter(samed_lora_config(rank=2))
    randomize_lora(model, std=0.2)
    directory = tmp_path_factory.mktemp("second") / "adapter"
    model.save_pretrained(directory, image_processor=SamedImageProcessor(TINY_SIZE, (-50, 150)))
    return directory


@pytest.fixture(scope="module")
def scan():
    array = ndimage.gaussian_filter(np.random.default_rng(0).normal(50, 900, (40, 30, 3)), 2).astype(np.int16)
    return Volume(array, np.diag([-1.0, -1.0, 3.0, 1.0]))


@pytest.mark.slow
def test_the_second_model_of_an_ensemble_counts(tiny_adapter, second_adapter, scan, tmp_path):
    single = [
        segment_volume(Segmenter.load([str(adapter)]), scan, probabilities=tmp_path / f"{index}.raw")
        for index, adapter in enumerate((tiny_adapter, second_adapter))
    ]
    mean = (single[0].probabilities + single[1].probabilities) / 2
    both = Segmenter.load([str(tiny_adapter), str(second_adapter)])
    ensemble = segment_volume(both, scan, probabilities=tmp_path / "both.raw")
    np.testing.assert_allclose(ensemble.probabilities, mean, rtol=0, atol=1e-6)
    for one in single:
        assert abs(one.probabilities - ensemble.probabilities).max() > 0.01
    nib.save(nib.Nifti1Image(scan.array, scan.affine), tmp_path / "scan.nii.gz")
    command = ["predict", tiny_adapter, tmp_path / "scan.nii.gz", "--output", tmp_path / "out", "--probabilities"]
    assert main([*map(str, command), "--no_report", "--ensemble", str(second_adapter)]) == 0
    (written,) = (tmp_path / "out").rglob("*probabilities.nii.gz")
    np.testing.assert_allclose(np.asarray(nib.load(written).dataobj), mean, rtol=0, atol=1e-6)


def test_confidence_is_the_softmax_of_the_label(tiny_adapter, scan, tmp_path):
    segmenter = Segmenter.load([str(tiny_adapter)])
    found = segment_volume(segmenter, scan, probabilities=tmp_path / "all.raw", confidence_dtype=torch.float32)
    np.testing.assert_array_equal(found.labels, found.probabilities.argmax(axis=-1))
    np.testing.assert_array_equal(found.confidence, found.probabilities.max(axis=-1))
    half = segment_volume(segmenter, scan)
    assert (half.confidence.dtype, half.labels.dtype) == (np.float16, np.uint8)
    np.testing.assert_array_equal(half.confidence, found.confidence.astype(np.float16))


def test_progress_is_reported(tiny_adapter, scan):
    calls = []
    segmenter = Segmenter.load([str(tiny_adapter)])
    segment_volume(segmenter, scan, batch_size=2, progress=lambda *numbers: calls.append(numbers))
    assert calls == [(2, 3), (3, 3)]


def test_no_limit_of_threads_remains(tiny_adapter, scan, monkeypatch):
    """BLAS runs on one thread while slices are predicted, and as before afterwards."""

    def threads():
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    model = SamedForSemanticSegmentation.from_pretrained(tiny_adapter)
    inside = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: inside.append(threads()) or forward(*args, **kwargs))
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        assert set(before) == {2}
        predict_volume(model, scan)
        predict_image(model, scan.array[..., 0])
        predict_slices(model, np.zeros((1, 20, 20), np.float32), model.image_processor)
        assert threads() == before
    assert len(inside) >= 3
    assert {count for counts in inside for count in counts} == {1}
