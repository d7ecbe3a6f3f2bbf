"""Whatever a data set's layout, the same scans are the same training."""

import io
import json

import datasets
import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from torch.utils.data import DataLoader

from samed_hf import SamedImageProcessor
from samed_hf.data import make_processor
from samed_hf.data.cache import CaseStore
from samed_hf.data.layouts import read_data
from samed_hf.data.sampling import EpochBatchSampler, SliceDataset
from samed_hf.data.splits import divide_cases
from samed_hf.training.arguments import SamedTrainingArguments
from samed_hf.training.data import read_training_data
from samed_hf.transforms.augmentation import SAMED_AUGMENTATION

from ..conftest import TINY_LABELS
from ..data_folders import (
    LABELS,
    make_scans,
    save_nifti,
    write_decathlon,
    write_folders,
    write_nnunet,
    write_pictures,
    write_rows,
)

SCANS = make_scans()
OF_SCANS = {"nnunet": write_nnunet, "decathlon": write_decathlon, "folders": write_folders, "rows": write_rows}


def batches(root, tmp_path, **settings) -> list[dict[str, torch.Tensor]]:
    """Two epochs of training batches, augmented, as a run makes them."""
    args = SamedTrainingArguments(data_dir=str(root), image_size=32, **settings)
    data = read_training_data(args)
    assert list(data.id2label.values()) == list(LABELS.values())
    store = CaseStore(data, make_processor(args, data, args.image_size), tmp_path / f"cache-{root.name}")
    store.prepare([*data.train, *data.validation])
    dataset = SliceDataset(store, data.train, SAMED_AUGMENTATION, seed=3)
    return list(DataLoader(dataset, batch_sampler=EpochBatchSampler(len(dataset), 4, 14, seed=3)))


def assert_same_batches(one, others):
    assert len(one) == 14
    assert len({batch["pixel_values"].numpy().tobytes() for batch in one}) == 14
    for other in others:
        for batch, twin in zip(one, other, strict=True):
            assert torch.equal(batch["pixel_values"], twin["pixel_values"])
            assert torch.equal(batch["labels"], twin["labels"])


def test_scans_give_the_same_batches_in_every_layout(tmp_path):
    settings = {"label_names": list(LABELS.values()), "preprocessing": "mr", "num_validation_cases": 1}
    made = [batches(write(tmp_path / name, SCANS), tmp_path, **settings) for name, write in OF_SCANS.items()]
    assert_same_batches(made[0], made[1:])


def test_slices_as_images_give_the_batches_of_the_scans(tmp_path):
    """8-bit values over 255, whether they are in PNGs, in rows of images or in an 8-bit scan."""
    scans = {name: (image.astype(np.uint8), label) for name, (image, label) in SCANS.items()}
    settings = {"label_names": list(LABELS.values()), "num_validation_cases": 1}
    made = [
        batches(write_pictures(tmp_path / "png", scans), tmp_path, **settings),
        batches(write_rows(tmp_path / "rows", scans, "images"), tmp_path, **settings),
        batches(write_nnunet(tmp_path / "nnunet", scans), tmp_path, preprocessing="picture", **settings),
    ]
    assert_same_batches(made[0], made[1:])


def test_the_files_own_order_of_axes_changes_nothing(tmp_path):
    """Every second image, and other labels, stored with turned and mirrored axes."""
    root = write_decathlon(tmp_path / "plain", SCANS)
    turned = write_decathlon(tmp_path / "turned", SCANS)
    for index, (name, (image, label)) in enumerate(SCANS.items()):
        for directory, array, is_turned in (("imagesTr", image, index % 2), ("labelsTr", label, index % 3)):
            if is_turned:  # (x, y, z) in LPS becomes (z, x, y) with x to the right
                affine = np.zeros((4, 4))
                affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = 3.0, 1.0, -1.5, 1
                affine[0, 3] = -(array.shape[0] - 1)
                save_nifti(turned / directory / f"{name}.nii.gz", np.transpose(array[::-1], (2, 0, 1)), affine)
    settings = {"num_validation_cases": 1}
    assert_same_batches(batches(root, tmp_path, **settings), [batches(turned, tmp_path, **settings)])


@pytest.mark.parametrize(
    ("write", "layout"),
    [
        (write_nnunet, "nnU-Net raw"),
        (write_decathlon, "Medical Segmentation Decathlon"),
        (write_folders, "directories of scans and label maps"),
        (write_pictures, "directories of images and masks"),
        (write_rows, "Hugging Face data set"),
    ],
)
def test_each_is_recognised(tmp_path, write, layout):
    data = read_data(write(tmp_path / "data", SCANS))
    assert data.layout == layout
    assert data.train == list(SCANS)
    assert list(data.id2label) == [0, 1, 2]


def test_the_synapse_layout_is_recognised(tiny_data):
    data = read_data(tiny_data)
    assert (data.layout, data.id2label) == ("Synapse", TINY_LABELS)
    assert (data.train, data.test) == ([f"case{index:04d}" for index in range(6)], ["case0006", "case0007"])


# ------------------------------------------------------------------------------------------------------------ channels


def two_channels(root, separate):
    scans = {name: (np.stack([image, 200 - image], axis=-1), label) for name, (image, label) in SCANS.items()}
    if not separate:
        return write_decathlon(root, scans, modality={"0": "T1", "1": "T2"})
    write_nnunet(root, SCANS, channel_names={"0": "T1", "1": "T2"})
    for name, (image, _) in scans.items():
        save_nifti(root / "imagesTr" / f"{name}_0001.nii.gz", image[..., 1])
    return root


def test_channels_become_colours(tmp_path):
    settings = {"num_validation_cases": 1, "augmentation": "none"}
    made = [batches(two_channels(tmp_path / str(way), way), tmp_path, **settings) for way in (False, True)]
    assert_same_batches(made[0], made[1:])
    red, green, blue = made[0][0]["pixel_values"][0]
    assert not torch.equal(red, green)
    torch.testing.assert_close(blue, (red + green) / 2, atol=1e-5, rtol=0)


def test_neighbouring_slices_fill_the_channels(tmp_path):
    args = SamedTrainingArguments(
        data_dir=str(write_decathlon(tmp_path / "data", SCANS)), image_size=32, context_slices=True
    )
    data = read_training_data(args)
    store = CaseStore(data, make_processor(args, data, args.image_size), tmp_path / "cache")
    store.prepare(data.train)
    items = [
        item["pixel_values"] for item in map(SliceDataset(store, data.train).__getitem__, [(0, i) for i in range(5)])
    ]
    for index, item in enumerate(items):
        assert torch.equal(item[0], items[max(0, index - 1)][1])
        assert torch.equal(item[2], items[min(4, index + 1)][1])


# -------------------------------------------------------------------------------------------------------------- splits


def test_declared_splits_are_respected(tmp_path):
    names = list(SCANS)
    decathlon = read_data(write_decathlon(tmp_path / "a", SCANS, validation_cases=[f"{names[1]}.nii.gz", names[4]]))
    divide_cases(decathlon)
    assert decathlon.validation == [names[1], names[4]]
    assert decathlon.evaluation_split == ("validation", decathlon.validation)
    rows = read_data(write_rows(tmp_path / "b", SCANS, splits={"train": names[:3], "test": names[3:]}))
    divide_cases(rows)
    assert (rows.train, rows.validation, rows.evaluation_split) == (names[:3], [], ("test", names[3:]))
    nnunet = write_nnunet(tmp_path / "c", SCANS)
    folds = [{"train": names[2:], "val": names[:2]}, {"train": names[:4], "val": names[4:]}]
    (nnunet / "splits_final.json").write_text(json.dumps(folds))
    assert read_data(nnunet).validation == names[:2]
    assert read_data(nnunet, fold=1).validation == names[4:]
    with pytest.raises(ValueError, match=r"splits_final\.json has no fold 2"):
        read_data(nnunet, fold=2)
    (nnunet / "splits_final.json").write_text(json.dumps([{"train": names, "val": names[:1]}]))
    with pytest.raises(ValueError, match="lists case_00 for training and for validation"):
        divide_cases(read_data(nnunet))


def test_images_in_directories_of_their_split(tmp_path):
    names = list(SCANS)
    for split, found in (("train", names[:4]), ("val", names[4:5]), ("test", names[5:])):
        write_pictures(tmp_path / "data" / split, {name: SCANS[name] for name in found})
    (tmp_path / "data" / "train" / "labels.txt").rename(tmp_path / "data" / "classes.txt")
    data = read_data(tmp_path / "data")
    assert (data.train, data.validation, data.test) == (names[:4], names[4:5], names[5:])


def test_folds_cover_every_case_once_and_are_divided_by_case(tmp_path):
    root = write_folders(tmp_path / "data", SCANS)
    held_out = []
    for fold in range(3):
        data = read_data(root)
        divide_cases(data, num_folds=3, fold=fold)
        assert not set(data.train) & set(data.validation)
        assert len(data.train) == 4
        held_out += data.validation
    assert sorted(held_out) == list(SCANS)
    for folds, fold in ((7, 0), (1, 0), (3, 3)):
        with pytest.raises(ValueError, match=r"expected (2 to 6 folds|one of them)"):
            divide_cases(read_data(root), num_folds=folds, fold=fold)


def test_a_case_in_two_splits_is_refused(tmp_path):
    for split in ("train", "test"):
        write_folders(tmp_path / "data" / split, SCANS)
    with pytest.raises(ValueError, match="has the case case_00 in two splits"):
        read_data(tmp_path / "data")


# -------------------------------------------------------------------------------------------------------------- labels


def test_masks_of_0_and_255_are_numbered_anew(tmp_path):
    scans = {name: (image, (label == 1).astype(np.uint8) * 255) for name, (image, label) in SCANS.items()}
    root = write_pictures(tmp_path / "data", scans)
    (root / "labels.txt").unlink()
    data = read_data(root)
    assert data.id2label == {0: "background", 1: "label_255"}
    assert "called after the values 0, 255" in data.notes[0]
    (root / "labels.csv").write_text("value,name\n0,background\n255,disc\n")
    data = read_data(root)
    assert data.id2label == {0: "background", 1: "disc"}
    (root / "labels.csv").unlink()
    (root / "labels.txt").write_text("background\ndisc\n")
    data = read_data(root)
    assert data.id2label == {0: "background", 1: "disc"}
    assert "0 background, 255 disc" in data.notes[0]
    args = SamedTrainingArguments(data_dir=str(root))
    assert set(np.unique(data.read_raw("case_00", make_processor(args, data, args.image_size)).label)) == {0, 1}


@pytest.mark.parametrize("names", [None, "background\ndisc\nbar\n"])
def test_masks_of_0_127_and_255_are_numbered_in_ascending_order(tmp_path, names):
    values = np.array([0, 127, 255], np.uint8)
    scans = {name: (image, np.minimum(label, 2)) for name, (image, label) in SCANS.items()}
    root = write_pictures(tmp_path / "data", {name: (image, values[label]) for name, (image, label) in scans.items()})
    (root / "labels.txt").unlink()
    if names is not None:
        (root / "labels.txt").write_text(names)
    args = SamedTrainingArguments(data_dir=str(root), image_size=64)
    data = read_data(root)
    found = data.read_raw("case_00", make_processor(args, data, args.image_size)).label
    counts = [np.count_nonzero(scans["case_00"][1] == index) for index in range(3)]
    assert len(set(counts)) == 3
    assert [np.count_nonzero(found == index) for index in range(3)] == counts


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "whole": [0, 1]}, "expected 0 to be the background, and in no region"),
        ({"background": 0, "whole": [1, "2"]}, "expected a whole number, or a list of them"),
        ({"background": 0, "ignore": 1}, "has 1 labels besides the ignore label 1"),
        ({"0": "0", "1": "2", "2": "1"}, "names and values can't be told apart"),
        ({"background": 0, "1": "disc"}, "one order for all labels"),
        ({"background": 0}, "expected the background and at least one label"),
        ({"background": 0, "a": 1, "b": 1}, "expected each number and each name once"),
        ({"a": 1, "b": 2}, "expected 0 to be the background"),
        ({"a": 0, "background": 1}, "expected the background to have the lowest number"),
        ([], r"holds \[\]: expected labels"),
        ({"background": 0, "a": "one"}, "expected a whole number and a name"),
    ],
)
def test_labels_that_cannot_be(tmp_path, labels, message):
    with pytest.raises(ValueError, match=rf"dataset\.json .*{message}"):
        read_data(write_nnunet(tmp_path / "data", SCANS, labels=labels))


# -------------------------------------------------------------------------------------------------------------- errors


def spoil_shape(root, name):
    save_nifti(root / "labelsTr" / f"{name}.nii.gz", np.zeros((20, 24, 4), np.uint8))


def spoil_spacing(root, name):
    save_nifti(root / "labelsTr" / f"{name}.nii.gz", SCANS[name][1], np.diag([-1.0, -1.5, 3.3, 1.0]))


def spoil_values(root, name):
    save_nifti(root / "labelsTr" / f"{name}.nii.gz", SCANS[name][1] + 3)


def spoil_numbers(root, name):
    save_nifti(root / "labelsTr" / f"{name}.nii.gz", SCANS[name][1] * np.float32(0.5))


def spoil_image(root, name):
    image = SCANS[name][0].astype(np.float32)
    image[0, 0, 0] = np.nan
    save_nifti(root / "imagesTr" / f"{name}.nii.gz", image)


def spoil_file(root, name):
    path = root / "imagesTr" / f"{name}.nii.gz"
    path.write_bytes(path.read_bytes()[:300])


SPOILT = {
    spoil_shape: "are on different grids: shape 20×24×5 against 20×24×4",
    spoil_spacing: r"are on different grids: the same voxel .* 1\.2 mm apart",
    spoil_values: "case_02, slice 0, holds the label value 5: expected values from 0 to 2",
    spoil_numbers: "between the whole numbers",
    spoil_image: "holds NaN or infinity in 1 of",
    spoil_file: "case_02",
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_bad_case_is_named_before_training(tmp_path, spoil):
    args = SamedTrainingArguments(data_dir=str(write_decathlon(tmp_path / "data", SCANS)))
    data = read_training_data(args)
    spoil(tmp_path / "data", "case_02")
    store = CaseStore(data, make_processor(args, data, args.image_size), tmp_path / "cache")
    with pytest.raises(ValueError, match=SPOILT[spoil]) as caught:
        store.prepare(data.train)
    assert "\n" not in str(caught.value)
    store.prepare([name for name in data.train if name != "case_02"])  # the others are as they were


def test_rows_on_two_grids_and_columns_that_are_missing(tmp_path):
    image, label = SCANS["case_00"]
    root = write_rows(tmp_path / "data", SCANS | {"case_00": (image, label[..., :4])})
    data = read_data(root)
    with pytest.raises(ValueError, match=r"the label of case_00 are on different grids: shape 20×24×5 against 20×24×4"):
        data.read_raw("case_00", make_processor(SamedTrainingArguments(data_dir=str(root)), data))
    for column in ("image_column", "label_column", "case_column"):
        with pytest.raises(ValueError, match=f"has the columns case, image, label: expected scan_x; give --{column}"):
            read_data(root, **{column: "scan_x"})


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="'nowhere' doesn't exist: expected the Synapse layout"):
        read_data("nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"isn't recognised: .*; it holds notes\.txt"):
        read_data(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"notes\.txt' is a file"):
        read_data(tmp_path / "notes.txt")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset\.json is no JSON"):
        read_data(tmp_path)


def test_files_that_are_missing(tmp_path):
    for write, image in ((write_nnunet, "imagesTr/case_01_0000.nii.gz"), (write_decathlon, "imagesTr/case_01.nii.gz")):
        root = write(tmp_path / write.__name__, SCANS)
        (root / image).unlink()
        with pytest.raises(FileNotFoundError, match=r"dataset\.json names .*case_01.*, which does not exist"):
            read_data(root)
    root = write_folders(tmp_path / "folders", SCANS)
    (root / "masks" / "case_03_mask.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"case_03\.nii\.gz has no mask in"):
        read_data(root)


# --------------------------------------------------------------------------------------------------------------- store


def test_a_case_is_decoded_once(tmp_path, monkeypatch):
    args = SamedTrainingArguments(data_dir=str(write_decathlon(tmp_path / "data", SCANS)))
    data = read_training_data(args)
    reads = []
    read_raw = data.read_raw
    monkeypatch.setattr(data, "read_raw", lambda name, processor: reads.append(name) or read_raw(name, processor))
    for _ in range(2):
        store = CaseStore(data, make_processor(args, data, args.image_size), tmp_path / "cache")
        store.prepare(data.train)
        assert isinstance(store.slices(data.train[0]).array, np.memmap)
    assert reads == data.train
    save_nifti(tmp_path / "data" / "labelsTr" / "case_01.nii.gz", SCANS["case_02"][1])
    store = CaseStore(data, make_processor(args, data, args.image_size), tmp_path / "cache")
    store.prepare(data.train)
    assert reads == [*data.train, "case_01"]
    assert np.array_equal(store.label("case_01"), np.transpose(SCANS["case_02"][1], (2, 1, 0)))


def test_other_numbers_of_the_labels_are_decoded_anew(tmp_path):
    scans = {name: (image, label * 2) for name, (image, label) in SCANS.items()}
    found = []
    for values in ({"0": "background", "2": "a", "4": "b"}, {"0": "background", "2": "a", "3": "c", "4": "b"}):
        args = SamedTrainingArguments(data_dir=str(write_decathlon(tmp_path / "data", scans, labels=values)))
        data = read_training_data(args)
        store = CaseStore(data, make_processor(args, data, args.image_size), tmp_path / "cache")
        store.prepare(data.train)
        found.append(set(np.unique(store.label("case_00"))))
    assert found == [{0, 1, 2}, {0, 1, 3}]


def test_a_case_of_the_store_is_that_of_the_files(tmp_path):
    args = SamedTrainingArguments(data_dir=str(write_decathlon(tmp_path / "data", SCANS)), plane="sagittal")
    data = read_training_data(args)
    processor = make_processor(args, data, args.image_size)
    store = CaseStore(data, processor, tmp_path / "cache")
    store.prepare(data.train)
    kept, read = store.case("case_00"), data.read_case("case_00", processor)
    assert np.array_equal(kept.image, read.image)
    assert np.array_equal(kept.label, read.label)
    assert kept.spacing == read.spacing == pytest.approx((1.0, 3.0, 1.5))
    assert kept.image.shape == (20, 5, 24)
    low, high = np.percentile(SCANS["case_00"][0], (0.5, 99.5))
    expected = (np.clip(SCANS["case_00"][0], low, high) - low) / (high - low)
    # The head is above: rows run downwards, and the scan's z upwards.
    np.testing.assert_allclose(kept.image[3], expected[3].T[::-1], atol=1e-6)


@pytest.mark.parametrize("column", ["image", "label", "thumbnail"])
def test_an_eps_in_rows_is_not_decoded(tmp_path, monkeypatch, column):
    """Pillow decodes EPS by starting Ghostscript."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"
    Image.fromarray(np.eye(20, dtype=np.uint8)).save(content := io.BytesIO(), format="PNG")
    row = {name: {"bytes": content.getvalue(), "path": None} for name in ("image", "label", "thumbnail")}
    row[column] = {"bytes": page, "path": None}
    features = datasets.Features({name: datasets.Image() for name in row})
    datasets.Dataset.from_list([row], features=features).save_to_disk(tmp_path / "rows")
    if column == "thumbnail":
        data = read_data(tmp_path / "rows")
        assert data.read_case(data.train[0], SamedImageProcessor()).label.sum() == 20
    else:
        with pytest.raises(ValueError, match=f"{column} of row 0 can't be read"):
            read_data(tmp_path / "rows")
