"""Scans segmented in shared batches, and adapters that share their base's weights."""

from __future__ import annotations

import numpy as np
import pytest

from samed_hf.inference import Segmenter, segment_volume
from samed_hf.inference.shared_batches import segment_volumes
from samed_hf.serving import worker
from samed_hf.serving.adapters import AdapterPool
from samed_hf.serving.jobs import Request, WorkerSettings, name_adapters
from samed_hf.volumes import ScanFile, read_volume, write_volume

from .served import make_adapters, write_scan


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    shapes = [(40, 44, 5), (33, 20, 3), (64, 64, 1), (12, 50, 6)]
    return [read_volume(write_scan(root / f"{seed}.nii.gz", shape, seed)) for seed, shape in enumerate(shapes)]


def test_labels_do_not_depend_on_other_scans(tiny_adapter, scans):
    segmenter = Segmenter.load(tiny_adapter)
    alone = [segment_volumes(segmenter, [scan], batch_size=4)[0] for scan in scans]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 0, 1]):
        shared = segment_volumes(segmenter, [scans[index] for index in order], batch_size=4)
        for index, labels in zip(order, shared, strict=True):
            np.testing.assert_array_equal(labels, alone[index])
    assert all(len(np.unique(labels)) > 1 for labels in alone)


def test_labels_are_those_of_prediction(tiny_adapter, scans):
    segmenter = Segmenter.load(tiny_adapter)
    shared = segment_volumes(segmenter, scans, batch_size=3)
    for scan, labels in zip(scans, shared, strict=True):
        np.testing.assert_array_equal(labels, segment_volume(segmenter, scan, batch_size=3).labels)


def test_a_failure_does_not_stop_other_scans(tiny_adapter, scans, tmp_path):
    segmenter = Segmenter.load(tiny_adapter)
    line = read_volume(write_scan(tmp_path / "line.nii.gz", (1, 1, 9)))
    failed, labels = segment_volumes(segmenter, [line, scans[0]], batch_size=2)
    assert isinstance(failed, ValueError)
    assert labels.shape == scans[0].grid


@pytest.fixture(scope="module")
def adapters(tiny_sam, tmp_path_factory):
    return {name: str(path) for name, path in make_adapters(tiny_sam, tmp_path_factory.mktemp("adapters"), 3).items()}


def test_the_base_is_in_memory_once(adapters, scans):
    pool = AdapterPool(adapters)
    models = [pool.get(name).models[0] for name in adapters]
    own = [sum(weight.nbytes for weight in model.parameters()) for model in models]
    weights = [{weight.data_ptr(): weight.nbytes for weight in model.parameters()} for model in models]
    shared = weights[0].keys() & weights[1].keys()
    assert sum(weights[0][pointer] for pointer in shared) > 0.5 * own[0]
    assert pool.weight_bytes < sum(own) / 2
    for name in adapters:
        expected = segment_volume(Segmenter.load(adapters[name]), scans[0]).labels
        np.testing.assert_array_equal(segment_volume(pool.get(name), scans[0]).labels, expected)


def test_the_adapter_unused_for_longest_is_dropped(adapters):
    pool = AdapterPool(adapters, max_loaded=2)
    for name in ("adapter-0", "adapter-1", "adapter-0", "adapter-2"):
        pool.get(name)
    assert pool.loaded == ["adapter-0", "adapter-2"]
    assert (pool.hits, pool.misses) == (1, 3)
    with pytest.raises(KeyError):
        pool.get("another")


def test_names_of_adapters(tmp_path):
    (tmp_path / "organs").mkdir()
    given = [f"{tmp_path}/organs", "lab/spleen", f"mine={tmp_path}/organs"]
    assert name_adapters(given) == {
        "organs": f"{tmp_path}/organs",
        "spleen": "lab/spleen",
        "mine": f"{tmp_path}/organs",
    }
    for wrong in (["lab/spleen", "other/spleen"], ["a b"], ["=lab/spleen"], ["x="]):
        with pytest.raises(ValueError):
            name_adapters(wrong)


def test_a_scan_that_fails_unexpectedly_fails_alone(tiny_adapter, scans, monkeypatch, tmp_path):
    for number, scan in enumerate(scans):
        write_volume(tmp_path / f"{number}.nii.gz", scan)
    original = worker.segment_volumes

    def fail(segmenter, volumes, **options):
        if any(volume.grid == scans[1].grid for volume in volumes):
            raise RuntimeError("can't allocate memory")
        return original(segmenter, volumes, **options)

    monkeypatch.setattr(worker, "segment_volumes", fail)
    monkeypatch.setattr(worker, "_worker", worker._Worker(WorkerSettings({"adapter": str(tiny_adapter)})))
    requests = [
        Request("adapter", ScanFile(str(number), tmp_path / f"{number}.nii.gz", "nifti"), tmp_path / f"{number}.nrrd")
        for number in range(len(scans))
    ]
    replies, statistics = worker.segment(requests)
    assert [reply.is_fault for reply in replies] == [False, True, False, False]
    assert [(tmp_path / f"{number}.nrrd").exists() for number in range(4)] == [True, False, True, True]
    assert statistics["misses"] == 1
