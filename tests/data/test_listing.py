"""Listings of cases: tables, JSON, MONAI's datalist."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from samed_hf import SamedImageProcessor
from samed_hf.data import divide_cases, read_data

from ..data_folders import make_scans, save_nifti
from .test_patients import counts

SCANS = make_scans(5)
VOXELS = [np.bincount(label.ravel(), minlength=3).tolist() for _, label in SCANS.values()]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    for index, (image, label) in enumerate(SCANS.values()):
        save_nifti(root / "a" / str(index) / "scan.nii.gz", image)
        save_nifti(root / "b" / str(index) / "organs.nii.gz", label)
        for value, name in ((1, "disc"), (2, "bar")):
            save_nifti(root / "b" / str(index) / f"{name}.nii.gz", (label == value).astype(np.uint8))
    return root


@pytest.fixture
def root(files, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(files / name)
    return tmp_path


def rows(**columns) -> list[dict]:
    """Five rows; a column's values are given as a list."""
    made = [{"image": f"a/{index}/scan.nii.gz", "label": f"b/{index}/organs.nii.gz"} for index in range(5)]
    for name, values in columns.items():
        for row, value in zip(made, values, strict=True):
            row[name] = value
    return made


def write_table(path, entries, delimiter=","):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, entries[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(entries)
    return path


def splits(data) -> list[list[str]]:
    return [data.train, data.validation, data.test]


SPLITS = ["train", "Training", "val", "dev", "test"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "semicolons", "json", "jsonl", "directory", "datalist"])
def test_rows_with_splits(root, kind):
    entries = rows(split=SPLITS)
    path = root / f"cases.{'csv' if kind in ('semicolons', 'directory') else 'json' if kind == 'datalist' else kind}"
    if kind == "json":
        path.write_text(json.dumps(entries))
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, entries)))
    elif kind == "datalist":
        plain = rows()
        content = {"training": plain[:2], "validation": plain[2:4], "testing": plain[4:], "numTraining": 2}
        path.write_text(json.dumps(content))
    else:
        write_table(path, entries, {"tsv": "\t", "semicolons": ";"}.get(kind, ","))
    data = read_data(root if kind == "directory" else path)
    assert splits(data) == [["0", "1"], ["2", "3"], ["4"]]
    assert list(counts(data).values()) == VOXELS
    assert path.name in data.explanation
    assert "image from 'image'" in data.explanation


def test_entries_that_are_not_used_are_said(root):
    entries = rows(split=["train", "unlabelled", "", "test", "train"])
    entries[4]["label"] = ""
    data = read_data(write_table(root / "cases.csv", entries))
    assert splits(data) == [["0"], [], ["3"]]
    for reason in ("'unlabelled' is unknown", "no split", "no label"):
        assert any(
            f"1 entries of cases.csv left out: {reason}" in n.replace("the split ", "").replace("they have ", "")
            for n in data.notes
        )


def test_columns_by_usual_names_and_by_flags(root):
    entries = [
        {"ScanPath": row["image"], "Mask Path": row["label"], "subset": split, "Patient ID": "AABBC"[index]}
        for index, (row, split) in enumerate(zip(rows(), SPLITS, strict=True))
    ]
    data = read_data(write_table(root / "cases.csv", entries))
    assert splits(data) == [["0", "1"], ["2", "3"], ["4"]]
    assert data.groups == dict(zip("0123", "AABB", strict=True))
    entries = [
        {"x": row["image"], "y": row["label"], "z": split, "mask": "?"}
        for row, split in zip(rows(), SPLITS, strict=True)
    ]
    path = write_table(root / "cases.csv", entries)
    with pytest.raises(ValueError, match=r"has the columns x, y, z, mask: expected image .*--image_column"):
        read_data(path)
    data = read_data(path, image_column="x", label_column="y", split_column="z")
    assert splits(data) == [["0", "1"], ["2", "3"], ["4"]]
    with pytest.raises(ValueError, match="has no column 'w'"):
        read_data(path, image_column="w", label_column="y")
    with pytest.raises(ValueError, match=r"columns label and mask, which could both be the label: give --label_column"):
        read_data(write_table(path, rows(mask=["?"] * 5)))


def test_folds_of_a_datalist(root):
    content = {"labels": {"0": "background", "1": "disc", "2": "bar"}, "training": rows(fold=[0, 1, 2, 0, 1])}
    path = root / "dataset.json"
    path.write_text(json.dumps(content))
    data = read_data(root)
    assert (data.layout, data.declares_folds, data.id2label[2]) == ("listing", True, "bar")
    assert splits(data) == [["1", "2", "4"], ["0", "3"], []]
    assert splits(read_data(path, fold=1)) == [["0", "2", "3"], ["1", "4"], []]
    with pytest.raises(ValueError, match="has no fold 3: expected one of its 3 folds"):
        read_data(path, fold=3)


def test_masks_of_classes_and_channels_in_columns(root):
    table = [
        {
            "t1": f"a/{i}/scan.nii.gz",
            "t2": f"a/{4 - i}/scan.nii.gz",
            "case": f"p{i}",
            "disc": f"b/{i}/disc.nii.gz",
            "bar": f"b/{i}/bar.nii.gz" if i else "",
        }
        for i in range(5)
    ]
    path = write_table(root / "cases.csv", table)
    with pytest.raises(ValueError, match=r"a/2/scan\.nii\.gz twice"):
        read_data(write_table(path, [table[2] | {"case": "q"}, table[2]]), image_column="t1", label_column="disc")
    data = read_data(write_table(path, table), image_column="t1,t2", label_column="disc,bar")
    assert data.channel_names == ("t1", "t2")
    assert data.id2label == {0: "background", 1: "bar", 2: "disc"}
    assert counts(data)["p3"] == [VOXELS[3][0], VOXELS[3][2], VOXELS[3][1]]
    assert counts(data)["p0"][1] == 0
    entries = [
        {"image": [row["t1"], row["t2"]], "label": [row["disc"], f"b/{i}/bar.nii.gz"]} for i, row in enumerate(table)
    ]
    path = root / "list.json"
    path.write_text(json.dumps({"training": entries}))
    with pytest.raises(ValueError, match=r"lists the labels disc\.nii\.gz and bar\.nii\.gz of one image"):
        read_data(path)
    data = read_data(path, label_names=["disc", "bar"])
    assert list(counts(data).values()) == VOXELS
    assert len(data.channel_names) == 2


def test_a_case_of_several_rows(root):
    """Slices of one case by number; several scans of one patient are cases that stay together."""
    for index in range(12):
        Image.fromarray(np.full((20, 24), 10 * index, np.uint8)).save(root / f"s{index}.png")
        Image.fromarray(SCANS["case_00"][1][..., index % 5]).save(root / f"m{index}.png")
    order = sorted(range(12), key=str)
    table = [{"image": f"s{i}.png", "label": f"m{i}.png", "case": "x"} for i in order]
    data = read_data(write_table(root / "cases.csv", table))
    case = data.read_case("x", SamedImageProcessor(intensity_window=None, percentiles=None))
    np.testing.assert_allclose(case.image[:, 0, 0] * 255, range(0, 120, 10), atol=1e-3)
    table = [row | {"slice": 11 - i} for row, i in zip(table, order, strict=True)]
    data = read_data(write_table(root / "cases.csv", table))
    case = data.read_case("x", SamedImageProcessor(intensity_window=None, percentiles=None))
    np.testing.assert_allclose(case.image[:, 0, 0] * 255, range(110, -1, -10), atol=1e-3)
    data = read_data(write_table(root / "cases.csv", rows(case=["a/1", "a/1", "b", "c", "c"])))
    assert data.train == ["a-1-0", "a-1-1", "b", "c-3", "c-4"]
    divide_cases(data, num_validation=1)
    assert data.validation in (["a-1-0", "a-1-1"], ["b"], ["c-3", "c-4"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\n", "columns none"),
        ("image,label\na,b,c\n", "line 2, has more cells"),
        ("image,image\na,b\n", "two columns of one name"),
        ('image,label\n"a\n', "is no table"),
        ("image,label\na/0/scan.nii.gz,b/9/organs.nii.gz\n", r"b/9/organs\.nii\.gz, which does not exist"),
        ("image,label,split\na/0/scan.nii.gz,b/0/organs.nii.gz,later\n", "no case with an image and a label"),
    ],
)
def test_bad_tables(root, text, message):
    (root / "cases.csv").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_data(root / "cases.csv", label_names=["disc", "bar"])


@pytest.mark.parametrize("text", ["3", "[1]", '{"training": [1, {}]}', "[" * 100_000])
def test_bad_json(root, text):
    (root / "cases.json").write_text(text)
    with pytest.raises(ValueError, match=r"cases\.json"):
        read_data(root / "cases.json")


def test_two_listings_in_a_directory(root):
    write_table(root / "cases.csv", rows())
    write_table(root / "cases.tsv", rows(), "\t")
    with pytest.raises(ValueError, match=r"the listings cases\.csv and cases\.tsv"):
        read_data(root)


def test_a_column_of_splits_is_known_by_its_cells(root):
    data = read_data(write_table(root / "cases.csv", rows(phase=SPLITS)))
    assert splits(data) == [["0", "1"], ["2", "3"], ["4"]]
    with pytest.raises(ValueError, match="columns phase and usage, both of splits: give --split_column"):
        read_data(write_table(root / "cases.csv", rows(phase=SPLITS, usage=SPLITS)))
    assert splits(read_data(root / "cases.csv", split_column="usage")) == splits(data)


def test_unicode_text_of_excel(root):
    text = "image\tlabel\tsplit\r\na/0/scan.nii.gz\tb/0/organs.nii.gz\ttrain\r\n"
    (root / "cases.csv").write_bytes(text.encode("utf-16"))
    assert read_data(root).train == ["scan"]
    (root / "cases.csv").write_bytes(text.replace("train", "Müller").encode("cp1252"))
    with pytest.raises(ValueError, match=r"cases\.csv.*UTF-8"):
        read_data(root)
