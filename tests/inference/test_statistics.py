import json
from dataclasses import replace

import numpy as np
import pytest

from samed_hf.inference import statistics as case_statistics
from samed_hf.inference.statistics import measure_labels
from samed_hf.volumes.geometry import Volume, reorient

NAMES = {0: "background", 1: "liver", 2: "left kidney", 4: "cyst"}
# 2 × 1.5 × 5 mm; x runs to the left, y to the back, z upwards.
AFFINE = np.array([[-2.0, 0, 0, 10], [0, -1.5, 0, 20], [0, 0, 5, -30], [0, 0, 0, 1]])


@pytest.fixture
def scan():
    """Intensities 1000 x + 10 y + z, so that the intensity of a voxel encodes its position."""
    x, y, z = np.indices((6, 5, 4))
    return Volume((1000 * x + 10 * y + z).astype(np.int16), AFFINE)


@pytest.fixture
def labels():
    array = np.zeros((6, 5, 4), dtype=np.uint8)
    array[0, 1:3, 3] = 1
    array[2:4, 2, 1:3] = 2
    return array


def test_by_hand(scan, labels):
    confidence = np.full(scan.grid, 0.25, dtype=np.float16)
    confidence[0, 1, 3] = 0.75
    measured = measure_labels(labels, scan, NAMES, confidence=confidence)
    assert list(measured) == ["liver", "left kidney", "cyst"]
    liver, kidney, cyst = measured.values()
    # Intensities 13 and 23; two voxels of 0.015 ml.
    assert liver == {
        "index": 1,
        "voxels": 2,
        "ml": pytest.approx(0.03),
        "mean_intensity": 18.0,
        "sd_intensity": 5.0,
        "mean_confidence": 0.5,
        "touches_border": True,
        "border_faces": ["right", "superior"],
        "bounding_box": [[0, 0], [1, 2], [3, 3]],
        "center_ras_mm": pytest.approx([10, 20 - 1.5 * 1.5, -30 + 15]),
    }
    # 2021, 2022, 3021, 3022.
    assert kidney["mean_intensity"] == 2521.5
    assert kidney["sd_intensity"] == pytest.approx((500**2 + 0.5**2) ** 0.5)
    assert (kidney["voxels"], kidney["ml"]) == (4, pytest.approx(0.06))
    assert (kidney["touches_border"], kidney["border_faces"]) == (False, [])
    assert kidney["bounding_box"] == [[2, 3], [2, 2], [1, 2]]
    assert kidney["center_ras_mm"] == pytest.approx([10 - 5, 20 - 3, -30 + 7.5])
    assert (cyst["voxels"], cyst["ml"], cyst["touches_border"]) == (0, 0.0, False)
    assert [cyst[key] for key in cyst if key.startswith(("mean", "sd", "center", "bounding"))] == [None] * 5


def test_the_volume_of_a_sheared_voxel_is_the_determinant(labels):
    affine = AFFINE.copy()
    affine[1, 2] = 3.0  # gantry tilt: the spacing along z grows, the volume of a voxel doesn't
    scan = Volume(np.zeros((6, 5, 4)), affine)
    assert scan.spacing[2] > 5.8
    assert measure_labels(labels, scan, NAMES)["left kidney"]["ml"] == pytest.approx(0.06)


def test_no_confidence_is_reported_without_a_map(scan, labels):
    assert "mean_confidence" not in measure_labels(labels, scan, NAMES)["liver"]


@pytest.mark.parametrize("orientation", ["RAS", "PIR", "ASL", "LPI"])
def test_the_order_of_the_axes_changes_only_the_bounding_box(scan, labels, orientation):
    expected = measure_labels(labels, scan, NAMES)
    reoriented = reorient(scan, orientation)
    found = measure_labels(reorient(Volume(labels, scan.affine), orientation).array, reoriented, NAMES)
    for name, row in expected.items():
        assert sorted(found[name].pop("border_faces")) == sorted(row.pop("border_faces"))
        box, own = found[name].pop("bounding_box"), row.pop("bounding_box")
        assert (box is None) == (own is None)
        center = row.pop("center_ras_mm")
        assert found[name].pop("center_ras_mm") == (None if center is None else pytest.approx(center))
        assert found[name] == pytest.approx(row)


def test_each_channel_is_measured(scan, labels):
    two = Volume(np.stack([scan.array, -2.0 * scan.array], axis=-1), scan.affine)
    single, both = measure_labels(labels, scan, NAMES), measure_labels(labels, two, NAMES)
    assert both["liver"]["mean_intensity"] == pytest.approx([18.0, -36.0])
    assert both["liver"]["sd_intensity"] == pytest.approx([5.0, 10.0])
    assert both["liver"]["center_ras_mm"] == pytest.approx(single["liver"]["center_ras_mm"])


def test_images_have_pixels_and_edges():
    image = Volume(np.arange(24, dtype=np.uint8).reshape(6, 4, 1), np.diag([-2.0, -0.5, 1, 1]), is_image=True)
    labels = np.zeros((6, 4, 1), dtype=np.uint8)
    labels[0:2, 3, 0] = 1
    labels[3, 2, 0] = 2
    measured = measure_labels(labels, image, NAMES)
    assert measured["liver"]["pixels"] == 2
    assert measured["liver"]["mm2"] == 2
    assert "mm2" not in measure_labels(labels, replace(image, is_calibrated=False), NAMES)["liver"]
    assert measured["liver"]["border_faces"] == ["left", "bottom"]
    assert measured["left kidney"]["border_faces"] == []
    assert not {"ml", "voxels", "center_ras_mm"} & set(measured["liver"])


@pytest.mark.parametrize("shape", [(70, 11, 5), (5, 80, 9), (9, 3, 60)])
def test_parts_give_the_same_as_the_whole(monkeypatch, shape):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, shape).astype(np.uint16)
    # An SD of 1 around a mean of 1e8, which sums of squares in float64 can't resolve.
    scan = Volume(1e8 + generator.normal(0, 1, shape), np.diag([1.0, 1, 2, 1]))
    confidence = generator.random(shape, dtype=np.float32)
    whole = measure_labels(labels, scan, NAMES, confidence=confidence)
    monkeypatch.setattr(case_statistics, "_VOXELS_AT_ONCE", 300)
    parts = measure_labels(labels, scan, NAMES, confidence=confidence)
    for index, name in ((1, "liver"), (2, "left kidney")):
        values = scan.array[labels == index]
        for measured in (whole[name], parts[name]):
            assert measured["mean_intensity"] == pytest.approx(values.mean(), rel=1e-14)
            assert measured["sd_intensity"] == pytest.approx(values.std(), rel=1e-6)
            assert measured["mean_confidence"] == pytest.approx(confidence[labels == index].mean(), rel=1e-5)
            assert measured["voxels"] == (labels == index).sum()
            assert measured["bounding_box"] == whole[name]["bounding_box"]


def test_values_without_a_name_are_ignored(scan, labels):
    expected = measure_labels(labels, scan, NAMES)
    labels[5, 4, 0] = 9
    assert measure_labels(labels, scan, NAMES) == expected


def test_other_shapes_are_refused(scan, labels):
    with pytest.raises(ValueError, match=r"labels has shape \(6, 5, 3\), expected \(6, 5, 4\)"):
        measure_labels(labels[..., :3], scan, NAMES)
    with pytest.raises(ValueError, match="confidence has shape"):
        measure_labels(labels, scan, NAMES, confidence=np.zeros((6, 5)))


def test_the_result_is_plain_json(scan, labels):
    measured = measure_labels(labels, scan, NAMES, confidence=np.ones(scan.grid, np.float16))
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
