"""nnU-Net's data sets: digits as names, regions, the ignore label, several channels, files listed anywhere."""

import json

import numpy as np
import pytest
from PIL import Image

from samed_hf import SamedImageProcessor
from samed_hf.data import make_processor
from samed_hf.data.cache import CaseStore
from samed_hf.data.layouts import read_data
from samed_hf.data.sampling import SliceDataset
from samed_hf.training.arguments import SamedTrainingArguments
from samed_hf.training.data import read_training_data
from samed_hf.transforms.augmentation import SAMED_AUGMENTATION

from ..data_folders import make_scans, save_nifti, write_decathlon, write_nnunet

SCANS = make_scans(count=2)
PICTURE = SamedImageProcessor(intensity_window=None, percentiles=None)


# -------------------------------------------------------------------------------------------------- digits as names


def test_names_are_keys_in_version_2_and_values_in_the_decathlon(tmp_path):
    newer = write_nnunet(tmp_path / "v2", SCANS, labels={"background": 0, "2": 1, "1": 2})
    older = write_decathlon(tmp_path / "v1", SCANS, labels={"0": "background", "2": "1", "1": "2"})
    assert read_data(newer).id2label == {0: "background", 1: "2", 2: "1"}
    assert read_data(older).id2label == {0: "background", 1: "2", 2: "1"}


@pytest.mark.parametrize("write", [write_nnunet, write_decathlon])
def test_a_background_called_0_leaves_the_order_to_the_layout(tmp_path, write):
    number_first = write is write_decathlon
    labels = {"0": "0", "1": "2", "2": "1"} if number_first else {"0": 0, "2": 1, "1": 2}
    assert read_data(write(tmp_path / "right", SCANS, labels=labels)).id2label == {0: "0", 1: "2", 2: "1"}
    wrong = {"0": 0, "1": 2, "2": 1} if number_first else {"0": "0", "1": "2", "2": "1"}
    with pytest.raises(ValueError, match=r"dataset\.json .*'2': .*can't be told apart"):
        read_data(write(tmp_path / "wrong", SCANS, labels=wrong))
    same = {"0": "0", "1": "1", "2": "2"}
    assert read_data(write(tmp_path / "same", SCANS, labels=same)).id2label == {0: "0", 1: "1", 2: "2"}


def test_version_1_labels_in_a_version_2_file(tmp_path):
    labels = {"0": "background", "1": "disc", "2": "bar"}
    assert read_data(write_nnunet(tmp_path / "data", SCANS, labels=labels)).id2label[2] == "bar"


# ------------------------------------------------------------------------------------------------------- regions


def write_values(root, values, **changes):
    """One scan whose label map holds the values 0 to n - 1, `values[i]` voxels of each."""
    label = np.repeat(np.arange(len(values)), values).astype(np.uint8).reshape(4, 4, 4)
    return write_nnunet(root, {"a": (label.astype(np.int16) * 10, label)}, **changes)


def counts_of(data, name="a"):
    label = data.read_raw(name, PICTURE).label
    return {value: int((label == value).sum()) for value in np.unique(label)}


def test_nested_regions_are_divided_into_exclusive_labels(tmp_path):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    data = read_data(write_values(tmp_path / "a", (30, 20, 8, 6), labels=labels, regions_class_order=[1, 2, 3]))
    assert data.id2label == {0: "background", 1: "whole", 2: "core", 3: "enhancing"}
    assert data.regions == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert counts_of(data) == {0: 30, 1: 20, 2: 8, 3: 6}
    assert any(
        "3 regions are trained as exclusive labels (1 whole, 2 core, 3 enhancing)" in note for note in data.notes
    )


def test_the_class_order_numbers_the_labels(tmp_path):
    """KiTS: cyst 3 and tumour 2 are masses, all are the kidney."""
    labels = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumour": 2}
    data = read_data(write_values(tmp_path / "a", (30, 20, 8, 6), labels=labels, regions_class_order=[1, 3, 2]))
    assert data.id2label == {0: "background", 1: "kidney", 2: "tumour", 3: "masses"}
    assert data.regions == {"kidney": (1, 2, 3), "masses": (2, 3), "tumour": (2,)}
    assert counts_of(data) == {0: 30, 1: 20, 2: 8, 3: 6}


def test_regions_that_overlap_stay_unions_of_labels(tmp_path):
    labels = {"background": 0, "left": [1, 2, 5], "right": [2, 3]}
    data = read_data(write_values(tmp_path / "a", (30, 10, 8, 6, 0, 10), labels=labels, regions_class_order=[1, 2]))
    assert data.id2label == {0: "background", 1: "left", 2: "left and right", 3: "right"}
    assert data.regions == {"left": (1, 2), "right": (2, 3)}
    assert counts_of(data) == {0: 30, 1: 20, 2: 8, 3: 6}


def test_regions_that_cover_another_one(tmp_path):
    labels = {"background": 0, "both": [1, 2], "a": 1, "b": 2}
    data = read_data(write_values(tmp_path / "a", (30, 20, 14), labels=labels, regions_class_order=[1, 2, 3]))
    assert data.id2label == {0: "background", 1: "a", 2: "b"}
    assert data.regions == {"both": (1, 2), "a": (1,), "b": (2,)}


@pytest.mark.parametrize("order", [[1, 2], [1, 2, 2], "1, 2, 3"])
def test_a_wrong_class_order(tmp_path, order):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    root = write_values(tmp_path / "a", (30, 20, 8, 6), labels=labels, regions_class_order=order)
    with pytest.raises(ValueError, match=r"regions_class_order .*expected 3 different numbers"):
        read_data(root)


def test_a_value_in_no_region_is_refused(tmp_path):
    root = write_values(tmp_path / "a", (30, 20, 14), labels={"background": 0, "a": [1], "b": [1]})
    with pytest.raises(ValueError, match="holds the label value 2"):
        read_data(root).read_raw("a", PICTURE)


# --------------------------------------------------------------------------------------------------------- ignore


@pytest.mark.parametrize("regions", [False, True])
def test_the_ignore_label_becomes_255(tmp_path, regions):
    labels = {"background": 0, "disc": [1, 2] if regions else 1, "bar": 2, "ignore": 3}
    data = read_data(write_values(tmp_path / "a", (30, 20, 8, 6), labels=labels))
    assert (data.id2label, data.ignore_index) == ({0: "background", 1: "disc", 2: "bar"}, 255)
    assert counts_of(data) == {0: 30, 1: 20, 2: 8, 255: 6}


@pytest.mark.parametrize("labels", [{"ignore": 0, "a": 1, "b": 2}, {"background": 0, "a": [1, 2], "ignore": 2}])
def test_an_ignore_label_of_another_label_is_refused(tmp_path, labels):
    with pytest.raises(ValueError, match="besides the ignore label"):
        read_data(write_values(tmp_path / "a", (30, 20, 14), labels=labels))


def test_255_without_an_ignore_label_is_refused(tmp_path):
    data = read_data(write_values(tmp_path / "a", (30, 34), labels={"background": 0, "a": 1}))
    save_nifti(tmp_path / "a" / "labelsTr" / "a.nii.gz", np.full((4, 4, 4), 255, np.uint8))
    with pytest.raises(ValueError, match="holds the label value 255"):
        data.read_raw("a", PICTURE)


def test_255_survives_cache_augmentation_and_zoom(tmp_path):
    label = np.zeros((20, 24, 5), np.uint8)
    label[4:10], label[10:16] = 1, 3
    scans = {name: (image, label) for name, (image, _) in make_scans(count=3).items()}
    root = write_nnunet(tmp_path / "data", scans, labels={"background": 0, "disc": 1, "bar": 2, "ignore": 3})
    args = SamedTrainingArguments(data_dir=str(root), image_size=32, num_validation_cases=1)
    data = read_training_data(args)
    store = CaseStore(data, make_processor(args, data, 32), tmp_path / "cache")
    store.prepare(data.train)
    dataset = SliceDataset(store, data.train, SAMED_AUGMENTATION, seed=1)
    items = [dataset[0, index]["labels"] for index in range(len(dataset))]
    assert {int(value) for item in items for value in item.unique()} == {0, 1, 255}
    assert all((item == 255).any() for item in items)


# ------------------------------------------------------------------------------------------------- several channels


def write_images(root, channels, suffix=".png", names=None, **changes):
    """Two images of 6×5 pixels; of image k, channel c is 10·k + 50·c in each file."""
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    for k in range(2):
        for c in range(channels):
            Image.fromarray(np.full((6, 5), 10 * k + 50 * c, np.uint8)).save(
                root / "imagesTr" / f"p{k}_{c:04d}{suffix}"
            )
        Image.fromarray(np.eye(6, 5, dtype=np.uint8)).save(root / "labelsTr" / f"p{k}{suffix}")
    content = {"channel_names": {str(c): f"c{c}" for c in range(channels)}, "file_ending": suffix, "numTraining": 2}
    (root / "dataset.json").write_text(json.dumps(content | {"labels": {"background": 0, "line": 1}} | changes))
    return root


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [2, 3, 5])
def test_images_with_a_file_for_each_channel(tmp_path, suffix, channels):
    data = read_data(write_images(tmp_path / "data", channels, suffix))
    assert (data.is_2d, len(data.channel_names)) == (True, channels)
    case = data.read_case("p1", PICTURE)
    assert case.image.shape == (1, channels, 6, 5)
    np.testing.assert_allclose(case.image[0, :, 0, 0] * 255, 10 + 50 * np.arange(channels), rtol=1e-6)
    assert case.label.sum() == 5


def test_stacks_with_a_file_for_each_channel(tmp_path):
    root = write_images(tmp_path / "data", 2, ".tif")
    for path in [*root.glob("imagesTr/*"), *root.glob("labelsTr/*")]:
        page = Image.open(path).copy()
        page.save(path, save_all=True, append_images=[page, page])
    case = read_data(root).read_case("p1", PICTURE)
    assert (case.image.shape, case.label.shape, case.label.sum()) == ((3, 2, 6, 5), (3, 6, 5), 15)


def test_a_missing_or_coloured_channel_file(tmp_path):
    root = write_images(tmp_path / "data", 2)
    Image.new("RGB", (5, 6)).save(root / "imagesTr" / "p1_0001.png")
    with pytest.raises(ValueError, match=r"p1_0001\.png has colours"):
        read_data(root).read_raw("p1", PICTURE)
    (root / "imagesTr" / "p1_0001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"p1_0001\.png, which does not exist"):
        read_data(root)


def test_files_that_no_case_has_are_noted(tmp_path):
    root = write_images(tmp_path / "data", 2, channel_names={"0": "c0"}, numTraining=3)
    (root / "imagesTs").mkdir()
    (root / "imagesTs" / "p9_0000.png").write_bytes(b"")
    notes = " | ".join(read_data(root).notes)
    assert "left out 2 files of imagesTr that no case has, e.g. p0_0001.png" in notes
    assert "left out 1 files of imagesTs that no case has, e.g. p9_0000.png" in notes
    assert "numTraining is 3, but there are 2 training cases" in notes


# --------------------------------------------------------------------------------------------------- listed files


def test_files_listed_anywhere(tmp_path):
    image, label = SCANS["case_00"]
    save_nifti(tmp_path / "elsewhere" / "scan.nii.gz", image)
    save_nifti(tmp_path / "data" / "truth" / "t.nii.gz", label)
    listed = {"P": {"images": [str(tmp_path / "elsewhere" / "scan.nii.gz")], "label": "truth/t.nii.gz"}}
    content = {"channel_names": {"0": "T1"}, "file_ending": ".nii.gz", "dataset": listed}
    content["labels"] = {"background": 0, "disc": 1, "bar": 2}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(content))
    data = read_data(tmp_path / "data")
    assert data.train == ["P"]
    assert int((data.read_raw("P", PICTURE).label == 1).sum()) == int((label == 1).sum()) > 0
    listed["P"]["images"] *= 2
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lists 2 images of P: expected one for each of 1 channels"):
        read_data(tmp_path / "data")
    del listed["P"]["label"]
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lists P as"):
        read_data(tmp_path / "data")


def test_a_fold_that_leaves_cases_out_says_so(tmp_path):
    root = write_nnunet(tmp_path / "data", make_scans(count=4))
    (root / "splits_final.json").write_text(json.dumps([{"train": ["case_00"], "val": ["case_01"]}]))
    data = read_data(root)
    assert (data.train, data.validation) == (["case_00"], ["case_01"])
    assert any("leaves out 2 cases, e.g. case_02" in note for note in data.notes)
