"""Data sets of `datasets`: types of columns, splits, names of columns, objects with outlines, limits."""

import builtins
import gzip
import json

import datasets
import nibabel as nib
import numpy as np
import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image

from samed_hf import SamedImageProcessor
from samed_hf.data import DataArguments, make_processor, read_data

SHAPE = (20, 30)
PROCESSOR = SamedImageProcessor(intensity_window=None, percentiles=None)
RAMP = np.arange(600).reshape(SHAPE) // 3  # 200 levels


def label_map() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[2:8, 3:9] = 1
    return label


def table(count=2, features=None, **columns) -> Dataset:
    """Rows with an image and a label, or the columns given; a value for each row, or one for all."""
    columns = {"image": RAMP.tolist(), "label": label_map().tolist()} | columns
    rows = {key: value if isinstance(value, tuple) else (value,) * count for key, value in columns.items()}
    return Dataset.from_dict({key: list(value) for key, value in rows.items()}, features=features)


def saved(root, data):
    data.save_to_disk(root)
    return read_data(root)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64", "lists"])
def test_columns_of_integers_keep_their_levels(tmp_path, dtype):
    feature = Array2D(SHAPE, dtype) if dtype != "lists" else datasets.Sequence(datasets.Sequence(Value("int64")))
    labels = Array2D(SHAPE, "uint8")
    data = saved(tmp_path / "rows", table(features=Features({"image": feature, "label": labels})))
    assert data.is_2d
    raw = data.read_raw(data.train[0], PROCESSOR)
    assert raw.image.dtype == ("int64" if dtype == "lists" else dtype)
    processor = make_processor(DataArguments(data_dir=str(tmp_path / "rows")), data)
    case = data.read_case(data.train[0], processor)
    assert case.image.max() == pytest.approx(199 / 255)
    assert len(np.unique(case.image)) == 200
    assert case.label.sum() == 36


def test_a_window_less_processor_keeps_the_levels_of_wide_integers(tmp_path):
    data = saved(tmp_path / "rows", table())
    assert len(np.unique(data.read_case(data.train[0], PROCESSOR).image)) == 200


def test_splits_of_other_names(tmp_path):
    names = ["training", "dev", "eval", "unsupervised", "extra"]
    data = saved(tmp_path / "rows", DatasetDict({name: table() for name in names}))
    assert data.train == ["training-00000", "training-00001"]
    assert data.validation == ["dev-00000", "dev-00001"]
    assert data.test == ["eval-00000", "eval-00001"]
    for name in names[3:]:
        assert any(name in note and "left out" in note for note in data.notes)
    for name in ("dev", "eval"):
        assert any(name in note for note in data.notes)
    with pytest.raises(ValueError, match="has the splits unlabelled: expected train, training, "):
        saved(tmp_path / "unknown", DatasetDict({"unlabelled": table()}))


def test_a_class_number_is_no_label_map(tmp_path):
    mask = [Image.fromarray(label_map())] * 2
    features = Features(
        {"image": datasets.Image(), "label": ClassLabel(names=["benign", "malignant"]), "mask": datasets.Image()}
    )
    images = [Image.fromarray(RAMP.astype(np.uint8))] * 2
    rows = Dataset.from_dict({"image": images, "label": [0, 1], "mask": mask}, features=features)
    data = saved(tmp_path / "rows", rows)
    assert data.read_case(data.train[1], PROCESSOR).label.sum() == 36
    with pytest.raises(ValueError, match=r"ClassLabel.* in its column label"):
        read_data(tmp_path / "rows", label_column="label")
    features = Features({name: datasets.Image() for name in ("image", "mask", "segmentation")})
    Dataset.from_dict(dict.fromkeys(features, mask), features=features).save_to_disk(tmp_path / "two")
    with pytest.raises(ValueError, match="mask and segmentation: choose with --label_column"):
        read_data(tmp_path / "two")


def test_slices_are_ordered_by_their_number(tmp_path):
    order = (10, 2, 0, 11)
    images = tuple((np.zeros(SHAPE, np.uint8) + 20 * number).tolist() for number in order)
    features = Features(
        {"image": Array2D(SHAPE, "uint8"), "label": Array2D(SHAPE, "uint8"), "case": Value("string")}
        | {"slice": Value("string")}
    )
    data = saved(tmp_path / "rows", table(4, features, image=images, case="p", slice=tuple(map(str, order))))
    assert (data.read_raw("p", PROCESSOR).image[:, 0, 0] // 20).tolist() == [0, 2, 10, 11]
    with pytest.raises(ValueError, match="p, column slice, has 3 numbers in 4 rows"):
        saved(tmp_path / "twice", table(4, features, image=images, case="p", slice=("1", "2", "3", "2")))


def test_colored_label_maps_and_deep_images(tmp_path):
    colors = np.array([(0, 0, 0), (255, 0, 0)], np.uint8)[label_map()]
    image = Image.fromarray((RAMP * 20).astype(np.uint16))
    features = Features({"image": datasets.Image(), "label": datasets.Image()})
    rows = table(features=features, image=image, label=Image.fromarray(colors))
    data = saved(tmp_path / "rows", rows)
    assert data.id2label == {0: "background", 1: "color_ff0000"}
    assert data.intensity_range == (0, 4095)
    assert data.read_case(data.train[0], PROCESSOR).label.sum() == 36
    (tmp_path / "rows" / "class_dict.csv").write_text("name,r,g,b\nliver,255,0,0\n")
    assert read_data(tmp_path / "rows").id2label[1] == "liver"


# ------------------------------------------------------------------------------------------------------------- objects

SQUARE = [3, 2, 9, 2, 9, 8, 3, 8]  # x from 3 to 9, y from 2 to 8: 36 pixels
# Columns of 20 pixels: 10 of column 0 and all of column 2.
RUNS = {"counts": [0, 10, 30, 20, 540], "size": [20, 30]}


def write_objects(root, rows):
    """`imagefolder` with metadata.jsonl, one line for each image."""
    root.mkdir()
    lines = []
    for index, row in enumerate(rows):
        Image.fromarray(RAMP.astype(np.uint8)).save(root / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", **row}))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return root


def test_polygons_and_runs_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    polygons = {"segmentation": [[SQUARE], [[20, 10, 24, 10, 24, 14, 20, 14]]], "category": ["liver", "cyst"]}
    data = read_data(write_objects(tmp_path / "a", [{"objects": polygons}] * 2), cache_dir=str(tmp_path / "cache"))
    assert data.id2label == {0: "background", 1: "cyst", 2: "liver"}
    label = data.read_case(data.train[0], PROCESSOR).label[0]
    assert (label[2:8, 3:9] == 2).all()
    assert np.bincount(label.ravel()).tolist() == [600 - 36 - 16, 16, 36]
    records = [{"segmentation": RUNS, "category_id": 7, "bbox": [0, 0, 3, 20]}]
    data = read_data(write_objects(tmp_path / "b", [{"annotations": records}] * 2), cache_dir=str(tmp_path / "cache"))
    label = data.read_case(data.train[1], PROCESSOR).label[0]
    assert data.id2label == {0: "background", 1: "category_7"}
    assert label.sum() == 30
    assert label[:10, 0].all()
    assert label[:, 2].all()


def test_directories_of_other_names_beside_those_of_splits(tmp_path):
    (tmp_path / "a").mkdir()
    for split in ("train", "validation", "unlabelled"):
        write_objects(tmp_path / "a" / split, [{"objects": {"segmentation": [[SQUARE]], "category": ["liver"]}}] * 2)
    data = read_data(tmp_path / "a", cache_dir=str(tmp_path / "cache"))
    assert (len(data.train), len(data.validation), len(data.test)) == (2, 2, 0)
    assert any("unlabelled" in note and "left out" in note for note in data.notes)


def objects(*segmentations, names=("liver", "cyst"), categories=None) -> Dataset:
    kind = Value("float64") if isinstance(segmentations[0], list) else None
    outline = (
        datasets.Sequence(datasets.Sequence(kind))
        if kind
        else {"counts": datasets.Sequence(Value("int64")), "size": datasets.Sequence(Value("int64"))}
    )
    features = Features(
        {
            "image": datasets.Image(),
            "objects": datasets.Sequence({"segmentation": outline, "category": ClassLabel(names=list(names))}),
        }
    )
    values = list(categories or range(len(segmentations)))
    rows = {"image": [Image.fromarray(RAMP.astype(np.uint8))] * 2}
    rows["objects"] = [{"segmentation": list(segmentations), "category": values}] * 2
    return Dataset.from_dict(rows, features=features)


def test_overlaps_are_noted_and_the_last_object_counts(tmp_path):
    data = saved(tmp_path / "rows", objects([SQUARE], [[6, 2, 12, 2, 12, 8, 6, 8]]))
    assert data.id2label == {0: "background", 1: "liver", 2: "cyst"}
    label = data.read_case(data.train[0], PROCESSOR).label
    assert np.bincount(label.ravel())[1:].tolist() == [18, 36]
    assert any("overlap in 2 rows" in note for note in data.notes)


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ([[1.0, 2, 3, 4]], "the polygon"),
        ([[0.0, 0, 1e9, 0, 1e9, 5]], "the polygon"),
        ([[float("nan"), 0, 1, 0, 1, 5]], "the polygon"),
        ([], "without segmentation"),
        ({"counts": [600, 600], "size": [20, 30]}, "run lengths of 1200 pixels: expected 600"),
        ({"counts": [-5, 605], "size": [20, 30]}, "run lengths of 600 pixels"),
        ({"counts": [600], "size": [30, 20]}, r"run lengths for \[30, 20\] pixels"),
    ],
)
def test_damaged_outlines_are_refused(tmp_path, outline, message):
    with pytest.raises(ValueError, match=rf"objects of row 0 .*{message}"):
        saved(tmp_path / "rows", objects(outline))


def test_damaged_compressed_runs_are_refused(tmp_path):
    records = [{"segmentation": {"counts": "PPYo0~~~~", "size": [20, 30]}, "category": "liver"}]
    with pytest.raises(ValueError, match="damaged run lengths"):
        read_data(write_objects(tmp_path / "a", [{"objects": records}]), cache_dir=str(tmp_path / "cache"))


def test_without_pycocotools_the_extra_is_named(tmp_path, monkeypatch):
    find = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return find(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match=r"pip install 'samed-hf\[coco\]'"):
        saved(tmp_path / "rows", objects([SQUARE]))


def test_masks_named_in_metadata(tmp_path):
    root = write_objects(tmp_path / "a", [{"mask_file_name": "masks/0.png"}, {"mask_file_name": "masks/1.png"}])
    (root / "masks").mkdir()
    for index in range(2):
        Image.fromarray(label_map() * np.uint8(255)).save(root / "masks" / f"{index}.png")
    data = read_data(root, label_names=["background", "lesion"], cache_dir=str(tmp_path / "cache"))
    assert [int(data.read_case(name, PROCESSOR).label.sum()) for name in data.train] == [36, 36]


# -------------------------------------------------------------------------------------------------------------- limits


def test_a_scan_in_rows_is_limited_before_memory_is_taken(tmp_path, monkeypatch):
    scan = nib.Nifti1Image(np.zeros((4, 4, 3), np.uint8), np.eye(4))
    large = nib.Nifti1Header()
    large.set_data_shape((4, 4, 30_000))
    large.set_data_dtype(np.float64)
    large["vox_offset"], large["magic"] = 352, b"n+1"
    content = gzip.compress(large.binaryblock + bytes(4) + bytes(8 * 4 * 4 * 30_000))
    features = Features({"image": datasets.Nifti(), "label": datasets.Nifti()})
    rows = [{"image": {"bytes": content, "path": None}, "label": {"bytes": scan.to_bytes(), "path": None}}]
    Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "rows")
    monkeypatch.setenv("SAMED_MAX_VOXELS", "10000")
    with pytest.raises(ValueError, match="image of row 0 has 480,000 voxels, expected at most 10,000"):
        read_data(tmp_path / "rows")


def test_an_image_in_rows_is_limited(tmp_path, monkeypatch):
    features = Features({"image": datasets.Image(), "label": datasets.Image()})
    image = Image.fromarray(RAMP.astype(np.uint8))
    table(features=features, image=image, label=Image.fromarray(label_map())).save_to_disk(tmp_path / "rows")
    monkeypatch.setenv("SAMED_MAX_PIXELS", "500")
    with pytest.raises(ValueError, match="image of row 0 has 600 pixels, expected at most 500"):
        read_data(tmp_path / "rows")
