"""Directories of images and masks of public data sets and of archives, and with lists of splits."""

import json

import numpy as np
import pytest
from PIL import Image

from samed_hf import SamedImageProcessor
from samed_hf.data import read_data

from ..data_folders import make_scans, write_folders, write_nnunet

SCANS = make_scans(4)
PLAIN = SamedImageProcessor(intensity_window=None, percentiles=None)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def mask(rows: int) -> np.ndarray:
    """255 in `rows` × 5 pixels."""
    found = np.zeros((20, 24), np.uint8)
    found[2 : 2 + rows, 3:8] = 255
    return found


def write_pairs(root, image: str, label: str, count=3):
    for index in range(1, count + 1):
        save(root / image.format(index), np.full((20, 24, 3), 40 * index, np.uint8))
        save(root / label.format(index), mask(index))


def pixels(data) -> dict[str, int]:
    return {name: int((data.read_case(name, PLAIN).label == 1).sum()) for name in data.sources}


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("ISIC2018_Task1-2_Training_Input/ISIC_{}.jpg", "ISIC2018_Task1_Training_GroundTruth/ISIC_{}_segmentation.png"),
        ("Original/{}.tif", "Ground Truth/{}.tif"),
        ("CXR_png/M_{}_0.png", "ManualMask/M_{}_0.png"),
        ("JPEGImages/2007_{}.jpg", "SegmentationClass/2007_{}.png"),
        ("data/{}.png", "annotations_png/{}.png"),
    ],
)
def test_one_of_two_directories_has_a_word_for_masks(tmp_path, image, label):
    write_pairs(tmp_path, image, label)
    data = read_data(tmp_path)
    assert list(pixels(data).values()) == [5, 10, 15]
    assert len(data.train) == 3
    assert image.split("/")[0] in data.explanation
    assert label.split("/")[0] in data.explanation


def test_three_directories_are_not_guessed(tmp_path):
    write_pairs(tmp_path, "Original/{}.png", "Ground Truth/{}.png")
    write_pairs(tmp_path, "Filtered/{}.png", "Ground Truth/{}.png")
    with pytest.raises(FileNotFoundError, match=r"isn't recognised.*Ground Truth"):
        read_data(tmp_path)


def test_directories_of_splits_with_words(tmp_path):
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        write_pairs(tmp_path, f"{split}/{split}_{{}}.png", f"{split}_labels/{split}_{{}}_L.png", count)
    data = read_data(tmp_path)
    assert [len(data.train), len(data.validation), len(data.test)] == [3, 1, 2]
    assert pixels(data)["test_2"] == 10


def test_retinal_images_and_their_manual_masks(tmp_path):
    for split, numbers in (("training", "training/{}/2{{}}"), ("test", "test/{}/0{{}}")):
        for directory, end in (("1st_manual", "_manual1.png"), ("mask", f"_{split}_mask.png")):
            write_pairs(tmp_path, numbers.format("images") + f"_{split}.tif", numbers.format(directory) + end, count=2)
    save(tmp_path / "training" / "mask" / "21_training_mask.png", np.full((20, 24), 255, np.uint8))
    data = read_data(tmp_path)
    assert (data.train, data.test) == (["21_training", "22_training"], ["01_test", "02_test"])
    assert list(pixels(data).values()) == [5, 10, 5, 10]


def test_masks_of_a_format_that_is_not_read_are_named(tmp_path):
    write_pairs(tmp_path, "images/{}.png", "masks/{}.gif")
    for strict in (True, False):
        with pytest.raises(FileNotFoundError, match=r"1\.png has no mask.*\.gif.*PNG"):
            read_data(tmp_path, strict=strict)


def test_the_directory_of_an_archive(tmp_path):
    write_nnunet(tmp_path / "nn" / "Dataset012_X", SCANS)
    data = read_data(tmp_path / "nn")
    assert (data.layout, len(data.train)) == ("nnU-Net raw", 4)
    assert any("Dataset012_X" in note for note in data.notes)
    write_pairs(tmp_path / "k" / "Kvasir-SEG", "images/{}.jpg", "masks/{}.png")
    data = read_data(tmp_path / "k")
    assert (data.train, data.groups) == (["1", "2", "3"], {})
    write_nnunet(tmp_path / "nn" / "Dataset013_Y", SCANS)
    with pytest.raises(ValueError, match=r"Dataset012_X beside Dataset013_Y.*data_dir"):
        read_data(tmp_path / "nn")


@pytest.mark.parametrize("table", ["id,split\n{}", "n,file_name,split\n{}"], ids=["split", "metadata"])
def test_splits_of_a_table(tmp_path, table):
    root = write_folders(tmp_path / "data", SCANS)
    splits = zip(SCANS, ("train", "val", "test", "holdout"), strict=True)
    rows = [f"{name},{split}" if table[0] == "i" else f"7,images/{name}.nii.gz,{split}" for name, split in splits]
    (root / ("split.csv" if table[0] == "i" else "metadata.csv")).write_text(table.format("\n".join(rows)))
    data = read_data(root)
    assert (data.train, data.validation, data.test) == (["case_00"], ["case_01"], ["case_02"])
    assert list(data.sources) == ["case_00", "case_01", "case_02"]
    assert any("case_03" in note and "left out" in note for note in data.notes)


def test_a_table_of_splits_of_other_cases_is_refused(tmp_path):
    root = write_folders(tmp_path / "data", SCANS)
    (root / "splits.csv").write_text("id,split\nA,train\nB,test\n")
    with pytest.raises(ValueError, match=r"splits\.csv .*'split'.*case_00"):
        read_data(root)


def test_splits_of_text_files(tmp_path):
    root = write_folders(tmp_path / "data", SCANS)
    (root / "splits").mkdir()
    (root / "splits" / "train.txt").write_text("case_00\nimages/case_03.nii.gz masks/case_03.nii.gz\n")
    (root / "splits" / "test.txt").write_text("case_01\r\ncase_02\r\n\r\n")
    data = read_data(root)
    assert (data.train, data.validation, data.test) == (["case_00", "case_03"], [], ["case_01", "case_02"])
    (root / "splits" / "test.txt").write_text("case_00\n")
    with pytest.raises(ValueError, match=r"lists case_00, as test\.txt does"):
        read_data(root)


def test_lists_of_names_with_spaces_and_of_no_case(tmp_path):
    write_pairs(tmp_path, "images/benign ({}).png", "masks/benign ({}).png")
    (tmp_path / "train.txt").write_text("benign (1).png\nbenign (2).png\n")
    (tmp_path / "val.txt").write_text("benign (3).png\n")
    data = read_data(tmp_path)
    assert (data.train, data.validation) == (["benign (1)", "benign (2)"], ["benign (3)"])
    (tmp_path / "train.txt").write_text("other\n")
    (tmp_path / "val.txt").write_text("benign\n")
    data = read_data(tmp_path)
    assert len(data.train) == 3
    assert any("train.txt, val.txt" in note and "not used" in note for note in data.notes)


def test_directories_called_sets(tmp_path):
    write_pairs(tmp_path, "training_set/{}_HC.png", "training_set/{}_HC_Annotation.png", 3)
    write_pairs(tmp_path, "test_set/4{}_HC.png", "test_set/4{}_HC_Annotation.png", 1)
    data = read_data(tmp_path)
    assert [len(data.train), len(data.validation), len(data.test)] == [3, 0, 1]
    assert not any("patient" in note for note in data.notes)
    assert data.groups == {}


@pytest.mark.parametrize(
    "text",
    [
        '# ITK-SnAP\n0 0 0 0 0 0 0 "Clear Label"\n1 255 0 0 1 1 1 "Left kidney"\n2 0 255 0 1 1 1 "3rd ventricle"\n',
        "1: Left kidney\n2: 3rd ventricle\n",
        "0 Clear Label\n2 3rd ventricle\n1 Left kidney\n",
        "Left kidney\n3rd ventricle\n",
    ],
)
def test_names_of_labels_with_their_numbers(tmp_path, text):
    root = write_folders(tmp_path / "data", SCANS)
    (root / "labels.json").unlink()
    (root / "labels.txt").write_text(text)
    names = read_data(root).id2label
    assert (names[1], names[2], len(names)) == ("Left kidney", "3rd ventricle", 3)


def test_a_number_of_two_labels_is_refused(tmp_path):
    root = write_folders(tmp_path / "data", SCANS)
    (root / "labels.json").unlink()
    (root / "labels.txt").write_text("1 liver\n1 spleen\n")
    with pytest.raises(ValueError, match=r"labels\.txt.*each number.*once"):
        read_data(root)


def rows_of(root, *names) -> str:
    files = [",".join(str(path.relative_to(root)) for path in sorted(root.glob(f"*/*{name[-2:]}*"))) for name in names]
    return "\n".join(["image,label", *files])


def test_listings_beside_directories_decide(tmp_path):
    root = write_folders(tmp_path / "data", SCANS)
    (root / "train.csv").write_text(rows_of(root, "case_00", "case_01"))
    (root / "dev.csv").write_text(rows_of(root, "case_02"))
    (root / "test.csv").write_text(rows_of(root, "case_03"))
    data = read_data(root)
    assert (data.train, data.validation, data.test) == (["case_00", "case_01"], ["case_02"], ["case_03"])
    assert read_data(root / "test.csv").test == ["case_03"]
    (root / "other.csv").write_text(rows_of(root, "case_03"))
    with pytest.raises(ValueError, match=r"the listings dev\.csv and other\.csv"):
        read_data(root)


def test_a_table_of_diagnoses_is_no_listing(tmp_path):
    root = write_folders(tmp_path / "data", SCANS)
    (root / "info.csv").write_text("image,label\nimages/case_00.nii.gz,benign\n")
    (root / "info.json").write_text(json.dumps([{"image": "nowhere.nii.gz", "label": "masks/case_00.nii.gz"}]))
    assert read_data(root).train == list(SCANS)
