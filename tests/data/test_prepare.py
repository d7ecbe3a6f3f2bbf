import logging

import numpy as np
import pytest
from scipy import ndimage

from samed_hf.data import prepare
from samed_hf.data.layouts.synapse import SYNAPSE_LABELS, SynapseData, read_slice
from samed_hf.data.prepare import prepare_phantom, prepare_synapse

from ..volumes.test_nifti import oblique_affine, save_scan

SHAPE = (7, 6, 3)
SPACING = (0.7, 0.8, 3.0)
# BTCV's organs by number, and what they are called; the others have no name of Synapse's.
BTCV = {
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gallbladder",
    5: "oesophagus",
    6: "liver",
    7: "stomach",
    8: "aorta",
    9: "inferior vena cava",
    10: "portal and splenic vein",
    11: "pancreas",
    12: "right adrenal gland",
    13: "left adrenal gland",
}


def make_btcv(directory, numbers, shape=SHAPE):
    """Raw scans in BTCV's layout, a third of the voxels outside the window on each side; images and labels."""
    (directory / "img").mkdir(parents=True)
    (directory / "label").mkdir()
    scans = {}
    for number in numbers:
        generator = np.random.default_rng(number)
        image = generator.integers(-525, 676, shape).astype(np.int16)
        label = generator.permutation(np.resize(np.arange(14), np.prod(shape))).reshape(shape).astype(np.uint8)
        save_scan(directory / "img" / f"img{number:04d}.nii.gz", image, oblique_affine(SPACING))
        save_scan(directory / "label" / f"label{number:04d}.nii.gz", label, oblique_affine(SPACING))
        scans[number] = image, label
    return scans


def in_unit_range(image):
    """Hounsfield units in the window [-125, 275] as [0, 1], the slices first."""
    return np.transpose((np.clip(image.astype(np.float64), -125, 275) + 125) / 400, (2, 1, 0))


def renumbered(label):
    """BTCV's numbers as Synapse's, by the organs' names, the slices first."""
    codes = {name: code for code, name in SYNAPSE_LABELS.items()}
    table = np.array([0, *(codes.get(BTCV[number], 0) for number in range(1, 14))])
    return np.transpose(table[label], (2, 1, 0))


# ------------------------------------------------------------------------------------------------------------ raw BTCV


def test_cases_are_split_as_transunet_does(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    make_btcv(tmp_path / "raw", [*range(1, 11), *range(21, 41)], shape=(3, 4, 2))
    prepare_synapse(tmp_path / "raw", tmp_path / "out", train_size=None)
    data = SynapseData(tmp_path / "out")
    assert data.test_cases == [f"case{n:04d}" for n in (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)]
    trained = [5, 6, 7, 9, 10, 21, 23, 24, 26, 27, 28, 30, 31, 33, 34, 37, 39, 40]
    assert data.train_slices == [f"case{n:04d}_slice{index:03d}" for n in trained for index in range(2)]
    assert data.id2label == SYNAPSE_LABELS
    assert sorted(np.unique(data.read_test_case("case0001").label)) == list(range(9))
    assert len(caplog.messages) == 31
    assert "case0001: 2 slices of 4×3, test volume" in caplog.messages
    assert "case0005: 2 slices of 4×3, training slices" in caplog.messages
    assert caplog.messages[-1] == f"36 training slices and 12 test volumes in {tmp_path / 'out'}"


def test_a_test_volume_by_hand(tmp_path):
    image, label = np.zeros((2, 3, 2), np.int16), np.zeros((2, 3, 2), np.uint8)
    image[:, 0, 0] = -2000, -125
    image[:, 1, 0] = 75, 275
    image[0, 2, 1] = 3000
    label[:, 0, 0] = 11, 6
    label[1, 2, 1] = 13
    for name in ("img", "label"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    save_scan(tmp_path / "raw" / "img" / "img0001.nii.gz", image, np.diag([-0.7, 0.8, 3.0, 1.0]))
    save_scan(tmp_path / "raw" / "label" / "label0001.nii.gz", label, np.diag([-0.7, 0.8, 3.0, 1.0]))
    case = SynapseData(prepare_synapse(tmp_path / "raw", tmp_path / "out")).read_test_case("case0001")
    zero = 125 / 400
    # Rows along y, columns along x.
    first, second = [[0, 0], [0.5, 1], [zero, zero]], [[zero, zero], [zero, zero], [1, zero]]
    np.testing.assert_allclose(case.image, [first, second], atol=1e-7)
    assert case.label.tolist() == [[[8, 5], [0, 0], [0, 0]], [[0, 0], [0, 0], [0, 0]]]
    assert case.spacing == pytest.approx((3.0, 0.8, 0.7), rel=1e-6)


def test_test_volumes_keep_the_scans_own_grid(tmp_path):
    scans = make_btcv(tmp_path / "raw", [1, 38])
    data = SynapseData(prepare_synapse(tmp_path / "raw", tmp_path / "out", train_size=4))
    assert data.train_slices == []
    for number, case in zip((1, 38), map(data.read_test_case, data.test_cases), strict=True):
        image, label = scans[number]
        assert case.image.shape == (3, 6, 7)
        np.testing.assert_allclose(case.image, in_unit_range(image), atol=1e-6)
        np.testing.assert_array_equal(case.label, renumbered(label))
        assert set(np.unique(case.label)) == set(range(9))
        assert case.spacing == pytest.approx((3.0, 0.8, 0.7), rel=1e-6)


def test_training_slices_keep_their_size_where_that_is_asked_for(tmp_path):
    image, label = make_btcv(tmp_path / "raw", [5])[5]
    data = SynapseData(prepare_synapse(tmp_path / "raw", tmp_path / "out", train_size=None))
    case = data.read_train_case("case0005")
    np.testing.assert_allclose(case.image, in_unit_range(image), atol=1e-6)
    np.testing.assert_array_equal(case.label, renumbered(label))


@pytest.mark.parametrize("size", [4, 16])
def test_training_slices_are_zoomed_as_scipy_does(tmp_path, size):
    image, label = make_btcv(tmp_path / "raw", [5])[5]
    data = SynapseData(prepare_synapse(tmp_path / "raw", tmp_path / "out", train_size=size))
    case = data.read_train_case("case0005")
    assert data.train_size() == size
    factors = (size / SHAPE[1], size / SHAPE[0])
    expected = [ndimage.zoom(one, factors, order=3) for one in in_unit_range(image)]
    np.testing.assert_allclose(case.image, expected, atol=3e-6)
    expected = [ndimage.zoom(one, factors, order=0) for one in renumbered(label)]
    np.testing.assert_array_equal(case.label, expected)


def test_training_slices_are_samed_s_224_unless_told_otherwise(tmp_path):
    make_btcv(tmp_path / "raw", [5])
    data = SynapseData(prepare_synapse(tmp_path / "raw", tmp_path / "out"))
    assert data.train_size() == 224
    assert read_slice(data.slice_path("case0005_slice002"))[1].shape == (224, 224)


def test_the_output_is_a_directory_that_others_can_read(tmp_path):
    make_btcv(tmp_path / "raw", [1])
    (tmp_path / "out").mkdir()
    assert prepare_synapse(tmp_path / "raw", tmp_path / "out") == tmp_path / "out"
    assert (tmp_path / "out").stat().st_mode & 0o055 == 0o055
    assert prepare_synapse(str(tmp_path / "raw"), str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out", "raw"]


def refuse(tmp_path, error, message):
    """The second scan is bad: an error, and nothing but the raw scans is left."""
    with pytest.raises(error, match=message):
        prepare_synapse(tmp_path / "raw", tmp_path / "out", train_size=4)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_scan_without_label(tmp_path):
    make_btcv(tmp_path / "raw", [1, 5])
    (tmp_path / "raw" / "label" / "label0005.nii.gz").unlink()
    refuse(tmp_path, FileNotFoundError, r"img0005\.nii\.gz has no label: expected .*label0005\.nii\.gz")


def test_a_label_of_another_shape(tmp_path):
    make_btcv(tmp_path / "raw", [1, 5])
    save_scan(tmp_path / "raw" / "label" / "label0005.nii.gz", np.zeros((7, 6, 4), np.uint8))
    refuse(
        tmp_path,
        ValueError,
        r"img0005\.nii\.gz and .*label0005\.nii\.gz are on different grids \(shape 7×6×3 against 7×6×4\)",
    )


def test_all_scans_are_brought_into_the_orientation_of_the_first(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    raw = tmp_path / "raw"
    image, label = make_btcv(raw, [1, 5])[5]
    first = SynapseData(prepare_synapse(raw, tmp_path / "one", train_size=None))
    # The same voxels with x mirrored in the image alone, and y in the label alone.
    affine = oblique_affine(SPACING)
    for name, array, axis in (("img", image, 0), ("label", label, 1)):
        flipped = affine.copy()
        flipped[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
        flipped[:3, axis] *= -1
        save_scan(raw / name / f"{name}0005.nii.gz", np.flip(array, axis), flipped)
    other = SynapseData(prepare_synapse(raw, tmp_path / "other", train_size=None))
    assert any(line.startswith("case0005") and "brought to" in line for line in caplog.messages)
    one, two = (data.read_train_case("case0005") for data in (first, other))
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.label, two.label)
    assert first.source["orientation"] == other.source["orientation"]


def test_a_label_value_that_is_not_of_btcv(tmp_path):
    label = make_btcv(tmp_path / "raw", [1, 5])[5][1]
    label[0, 0, 0] = 77
    save_scan(tmp_path / "raw" / "label" / "label0005.nii.gz", label, oblique_affine(SPACING))
    refuse(
        tmp_path,
        ValueError,
        r"label0005\.nii\.gz holds values from 0 to 77: expected BTCV's whole numbers from 0 to 13",
    )


def test_two_scans_of_one_number(tmp_path):
    make_btcv(tmp_path / "raw", [1, 5])
    for kind in ("img", "label"):
        (tmp_path / "raw" / kind / f"{kind}5.nii.gz").write_bytes(b"")
    refuse(tmp_path, ValueError, r"img0005\.nii\.gz and .*img5\.nii\.gz have the same number")


def test_the_current_directory_can_be_the_output(tmp_path, monkeypatch):
    make_btcv(tmp_path / "raw", [1])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    prepare_synapse(tmp_path / "raw", ".")
    assert SynapseData(tmp_path / "here").test_cases == ["case0001"]


@pytest.mark.parametrize("name", ["img/img0005.nii.gz", "label/label0005.nii.gz"])
def test_a_damaged_scan(tmp_path, name):
    make_btcv(tmp_path / "raw", [1, 5])
    path = tmp_path / "raw" / name
    path.write_bytes(path.read_bytes()[:-20])
    refuse(tmp_path, ValueError, f"{path.name} cannot be read as NIfTI")


def test_nan_in_a_scan(tmp_path):
    make_btcv(tmp_path / "raw", [1, 5])
    save_scan(tmp_path / "raw" / "img" / "img0005.nii.gz", np.full(SHAPE, np.nan, np.float32))
    refuse(tmp_path, ValueError, r"img0005\.nii\.gz holds NaN or infinity in 126 of 126 voxels")


def test_a_scan_with_another_name(tmp_path):
    make_btcv(tmp_path / "raw", [1])
    save_scan(tmp_path / "raw" / "img" / "localizer.nii.gz", np.zeros(SHAPE, np.int16))
    refuse(tmp_path, ValueError, r"localizer\.nii\.gz isn't named imgNNNN\.nii\.gz")


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    make_btcv(tmp_path / "raw", [1, 5])

    def interrupt(directory, case, size):
        assert case.name == "case0005"
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "_write_slices", interrupt)
    refuse(tmp_path, KeyboardInterrupt, None)


@pytest.mark.parametrize("present", [[], ["img"], ["label"], ["img", "label"]])
def test_a_directory_that_is_not_btcvs(tmp_path, present):
    (tmp_path / "raw").mkdir()
    for name in present:
        (tmp_path / "raw" / name).mkdir()
    empty = len(present) == 2
    refuse(tmp_path, FileNotFoundError, "raw/(img|label) holds no" if empty else "raw has no directories img and label")


# ---------------------------------------------------------------------------------------------------------- the output


def make_synapse(tmp_path, output):
    make_btcv(tmp_path / "raw", [1])
    return prepare_synapse(tmp_path / "raw", output)


def make_phantom(tmp_path, output):
    return prepare_phantom(output, num_train=1, num_test=0, shape=(8, 48, 48))


@pytest.mark.parametrize("prepare", [make_synapse, make_phantom])
def test_an_output_that_is_taken_is_left_alone(tmp_path, prepare):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("more work")
    for index, name in enumerate(("out", "file")):
        with pytest.raises(ValueError, match=rf"output '.*{name}' exists and is not an empty directory"):
            prepare(tmp_path / str(index), tmp_path / name)
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["years of work"]
    assert (tmp_path / "file").read_text() == "more work"


# --------------------------------------------------------------------------------------------------------- the phantom


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    directory = tmp_path_factory.mktemp("phantom") / "data"
    return SynapseData(prepare_phantom(directory, num_train=2, num_test=1, seed=5, shape=(8, 48, 60)))


def test_a_phantom_directory(phantom):
    assert list(phantom.slices_by_case()) == ["phantom0000", "phantom0001"]
    assert phantom.train_slices == [f"phantom{case:04d}_slice{index:03d}" for case in range(2) for index in range(8)]
    assert phantom.test_cases == ["phantom0002"]
    assert phantom.id2label == SYNAPSE_LABELS
    case = phantom.read_test_case("phantom0002")
    assert case.image.shape == case.label.shape == (8, 60, 48)
    assert case.spacing == (24.0, 6.0, 7.5)
    assert (case.image.min(), case.image.max()) == (0.0, 1.0)


def test_a_patient_is_the_same_whether_trained_on_or_scored(phantom, tmp_path):
    again = SynapseData(prepare_phantom(tmp_path / "again", num_train=0, num_test=2, seed=5, shape=(8, 48, 60)))
    for name in ("phantom0000", "phantom0001"):
        trained, scored = phantom.read_train_case(name), again.read_test_case(name)
        np.testing.assert_array_equal(trained.image, scored.image)
        np.testing.assert_array_equal(trained.label, scored.label)


def test_patients_and_seeds_differ(phantom, tmp_path):
    other = SynapseData(prepare_phantom(tmp_path / "other", num_train=0, num_test=1, seed=6, shape=(8, 48, 60)))
    cases = [*map(phantom.read_train_case, ("phantom0000", "phantom0001")), phantom.read_test_case("phantom0002")]
    assert len({case.label.tobytes() for case in [*cases, other.read_test_case("phantom0000")]}) == 4


@pytest.mark.parametrize(
    ("options", "message"), [({"shape": (8, 48, 4)}, "shape must be three integers"), ({"seed": -1}, "seed must be")]
)
def test_a_patient_that_cannot_be_made_leaves_nothing(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_phantom(tmp_path / "out", num_train=1, num_test=0, **options)
    assert list(tmp_path.iterdir()) == []
