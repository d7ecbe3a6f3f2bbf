import json
import zipfile

import h5py
import numpy as np
import pytest

from samed_hf import SamedImageProcessor
from samed_hf.data.dataset import Case, check_label_values
from samed_hf.data.layouts.synapse import (
    SYNAPSE_LABELS,
    SynapseData,
    read_slice,
    read_synapse,
    split_slice_name,
    write_case,
    write_lists,
    write_slice,
)

from ..conftest import TINY_LABELS, make_case

IMAGE = np.array([[0.0, 0.25], [0.5, 1.0], [0.1, 1 / 3]], dtype=np.float32)
LABEL = np.array([[0, 1], [2, 0], [1, 1]], dtype=np.uint8)
PROCESSOR = SamedImageProcessor(16)


def check(data, names=None):
    """Read cases as training and scoring do."""
    for name in data.sources if names is None else names:
        data.read_raw(name, PROCESSOR)


def files(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


@pytest.fixture
def data(tmp_path):
    """Cases a and b of two slices to train on, case c to score; a test can spoil it."""
    root = tmp_path / "synapse"
    generator = np.random.default_rng(0)
    names = []
    for case in ("b", "a"):
        volume = make_case(case, generator, slices=2, size=32)
        for index, (image, label) in enumerate(zip(volume.image, volume.label, strict=True)):
            names.append(f"{case}_slice{index:03d}")
            write_slice(root, names[-1], image, label)
    write_case(root, make_case("c", generator, slices=2, size=32))
    write_lists(root, names, ["c"], TINY_LABELS)
    return root


# ------------------------------------------------------------------------------------------------ reading and writing


def test_a_slice_is_read_as_it_was_written(tmp_path):
    write_slice(tmp_path, "case0005_slice012", IMAGE, LABEL)
    assert files(tmp_path) == ["train_npz/case0005_slice012.npz"]
    image, label = read_slice(tmp_path / "train_npz" / "case0005_slice012.npz")
    assert (image.dtype, label.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(label, LABEL)


def test_a_slice_written_again_replaces_the_first(tmp_path):
    write_slice(tmp_path, "a_slice000", IMAGE, LABEL)
    write_slice(tmp_path, "a_slice000", IMAGE[:2] / 2, LABEL[:2])
    assert files(tmp_path) == ["train_npz/a_slice000.npz"]
    np.testing.assert_array_equal(read_slice(tmp_path / "train_npz" / "a_slice000.npz")[0], IMAGE[:2] / 2)


@pytest.mark.parametrize("spacing", [(5.0, 0.7421875, 0.75), None])
def test_a_volume_is_read_as_it_was_written(tmp_path, spacing):
    case = Case("case0001", np.stack([IMAGE, 1 - IMAGE]), np.stack([LABEL, 2 - LABEL]), spacing)
    write_case(tmp_path, case)
    write_lists(tmp_path, [], ["case0001"], TINY_LABELS)
    assert "test_vol_h5/case0001.npy.h5" in files(tmp_path)
    again = SynapseData(tmp_path).read_test_case("case0001")
    assert (again.name, again.spacing) == ("case0001", spacing)
    assert (again.image.dtype, again.label.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(again.image, case.image)
    np.testing.assert_array_equal(again.label, case.label)


def test_the_lists_are_read_as_they_were_written(data):
    assert {name for name in files(data) if name.startswith("lists")} == {
        "lists_Synapse/labels.json",
        "lists_Synapse/test_vol.txt",
        "lists_Synapse/train.txt",
    }
    read = SynapseData(data)
    assert read.train_slices == ["b_slice000", "b_slice001", "a_slice000", "a_slice001"]
    assert read.test_cases == ["c"]
    assert read.id2label == TINY_LABELS
    assert read.declares_labels
    write_lists(data, [], [], TINY_LABELS)
    assert (SynapseData(data).train_slices, SynapseData(data).test_cases) == ([], [])


def test_a_directory_as_transunets_authors_share_it(tmp_path):
    """Other directories, other types and line ends, no spacing and no names."""
    for name in ("train_npz", "test_vol_h5", "lists/lists_Synapse"):
        (tmp_path / name).mkdir(parents=True)
    np.savez(tmp_path / "train_npz/case0005_slice000.npz", image=IMAGE.astype(np.float64), label=LABEL.astype("f4"))
    with h5py.File(tmp_path / "test_vol_h5/case0001.npy.h5", "w") as file:
        file["image"], file["label"] = IMAGE[None], LABEL[None].astype(np.float32)
    (tmp_path / "lists/lists_Synapse/train.txt").write_bytes(b"case0005_slice000\r\n\r\n")
    (tmp_path / "lists/lists_Synapse/test_vol.txt").write_bytes(b"  case0001")
    data = SynapseData(tmp_path)
    assert (data.train_slices, data.test_cases) == (["case0005_slice000"], ["case0001"])
    assert data.id2label == SYNAPSE_LABELS
    assert not data.declares_labels
    case = data.read_test_case("case0001")
    assert case.spacing is None
    for image, label in (read_slice(data.slice_path("case0005_slice000")), (case.image[0], case.label[0])):
        assert (image.dtype, label.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(image, IMAGE)
        np.testing.assert_array_equal(label, LABEL)


# ---------------------------------------------------------------------------------------------------- cases and sizes


def test_slices_belong_to_their_cases_in_order(data):
    assert SynapseData(data).slices_by_case() == {
        "a": ["a_slice000", "a_slice001"],
        "b": ["b_slice000", "b_slice001"],
    }


@pytest.mark.parametrize(
    ("name", "case", "index"),
    [("case0005_slice012", "case0005", 12), ("a_slice_b_slice1", "a_slice_b", 1), ("x y_slice1000", "x y", 1000)],
)
def test_the_case_of_a_slice(name, case, index):
    assert split_slice_name(name) == (case, index)


@pytest.mark.parametrize("name", ["case0005", "case0005_slice", "_slice001", "case0005_slice1a", "case0005_slice-1"])
def test_a_slice_of_no_case_is_refused(data, name):
    write_lists(data, ["a_slice000", name], [], TINY_LABELS)
    with pytest.raises(ValueError, match=f"'{name}': expected CASE_sliceNNN"):
        SynapseData(data)


def test_a_training_case_is_its_slices_stacked(data):
    read = SynapseData(data)
    write_lists(data, ["a_slice001", "b_slice000", "a_slice000"], [], TINY_LABELS)
    case = SynapseData(data).read_train_case("a")
    assert case.image.shape == case.label.shape == (2, 32, 32)
    for index in range(2):
        image, label = read_slice(read.slice_path(f"a_slice{index:03d}"))
        np.testing.assert_array_equal(case.image[index], image)
        np.testing.assert_array_equal(case.label[index], label)


def test_a_training_case_of_several_sizes_is_refused(data):
    write_slice(data, "a_slice001", IMAGE, LABEL)
    with pytest.raises(ValueError, match="slices of a differ in size"):
        SynapseData(data).read_train_case("a")


def test_the_size_of_the_training_slices(data):
    assert SynapseData(data).train_size() == 32
    write_slice(data, "b_slice000", np.zeros((16, 16)), np.zeros((16, 16)))
    assert SynapseData(data).train_size() is None
    for index in range(2):
        write_slice(data, f"b_slice{index:03d}", IMAGE, LABEL)
    write_lists(data, ["b_slice000", "b_slice001"], [], TINY_LABELS)
    assert SynapseData(data).train_size() is None
    write_lists(data, [], ["c"], TINY_LABELS)
    assert SynapseData(data).train_size() is None


def test_volumes_are_read_one_at_a_time(data):
    write_lists(data, [], ["c", "d"], TINY_LABELS)
    (data / "test_vol_h5" / "d.npy.h5").write_bytes(b"damaged")
    volumes = read_synapse(data)
    assert volumes.read_case("c", PROCESSOR).name == "c"
    with pytest.raises(ValueError, match=r"d\.npy\.h5 can't be read"):
        volumes.read_case("d", PROCESSOR)


# ------------------------------------------------------------------------------------------------------------- labels


def test_values_are_read_as_the_model_names_them_where_the_directory_does_not(data):
    (data / "lists_Synapse" / "labels.json").unlink()
    read = read_synapse(data)
    check(read)
    read.expect_labels({0: "background", 1: "tumour"})
    assert read.id2label == {0: "background", 1: "tumour"}
    for names in (read.train[:1], read.test):
        with pytest.raises(ValueError, match="holds the label value 2: expected values from 0 to 1 for 2 labels"):
            check(read, names)


def test_other_names_than_the_data_sets_are_refused(data):
    read = read_synapse(data)
    read.expect_labels(dict(TINY_LABELS))
    for names in (TINY_LABELS | {2: "rod"}, {0: "background", 1: "disc"}, {0: "background", 1: "bar", 2: "disc"}):
        with pytest.raises(ValueError, match=r"has the labels .*, but the model has .*expected the same"):
            read.expect_labels(names)
    assert read.id2label == TINY_LABELS


@pytest.mark.parametrize(("values", "shown"), [([0, 3], 3), ([-1, 2], -1), ([7, -5], 7), ([0, 1, 2], None), ([], None)])
def test_check_label_values(tmp_path, values, shown):
    label = np.array(values, dtype=np.int64)
    if shown is None:
        check_label_values(tmp_path / "x.npz", label, 3)
    else:
        with pytest.raises(ValueError, match=rf"x\.npz holds the label value {shown}: expected values from 0 to 2"):
            check_label_values(tmp_path / "x.npz", label, 3)


@pytest.mark.parametrize("content", ["{", "[1, 2]", '{"one": "disc"}', '"disc"', b"\xff\xfe"])
def test_names_that_cannot_be_read(data, content):
    path = data / "lists_Synapse" / "labels.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r'labels\.json can\'t be read: expected \{"0": "background"'):
        SynapseData(data)


def test_names_in_any_script(data):
    names = {0: "background", 1: "rate", 2: "脾臓", 3: "Niere, links"}
    write_lists(data, [], [], names)
    assert SynapseData(data).id2label == names
    assert json.loads((data / "lists_Synapse" / "labels.json").read_text()) == {str(k): v for k, v in names.items()}


# ------------------------------------------------------------------------------------------------------ missing files


def test_a_directory_in_another_layout(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_dir '.*nowhere' is not a directory.*samed-hf prepare synapse"):
        SynapseData(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no directory lists_Synapse.*samed-hf prepare synapse"):
        SynapseData(tmp_path)


@pytest.mark.parametrize("name", ["train.txt", "test_vol.txt"])
def test_a_missing_list(data, name):
    (data / "lists_Synapse" / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing: expected a text file"):
        SynapseData(data)


def test_lists_that_name_what_is_not_there(data):
    (data / "train_npz" / "a_slice000.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.txt names .*a_slice000\.npz, which does not exist"):
        SynapseData(data)
    (data / "train_npz" / "b_slice001.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"b_slice001\.npz, which does not exist \(nor do 1 others\)"):
        SynapseData(data)
    write_lists(data, [], ["d"], TINY_LABELS)
    with pytest.raises(FileNotFoundError, match=r"test_vol\.txt names .*d\.npy\.h5, which does not exist"):
        SynapseData(data)


# ------------------------------------------------------------------------------------------------------ damaged files

SPOILT = {
    "no label": ({"image": IMAGE}, "can't be read: expected an"),
    "no image": ({"label": LABEL}, "can't be read: expected an"),
    "shapes": ({"image": IMAGE, "label": LABEL[:2]}, r"3, 2\) and a label of shape \((1, )?2, 2\): expected the same"),
    "empty": ({"image": IMAGE[:0], "label": LABEL[:0]}, "expected the same shape"),
    "axes": ({"image": IMAGE[0], "label": LABEL[0]}, "expected the same shape with"),
    "nan": ({"image": np.where(IMAGE > 0.4, np.nan, IMAGE), "label": LABEL}, "holds NaN or infinity in 2 of"),
    "infinity": ({"image": np.where(IMAGE == 1, np.inf, IMAGE), "label": LABEL}, "holds NaN or infinity in 1 of"),
    "value": ({"image": IMAGE, "label": LABEL + 7}, "holds the label value 9: expected values from 0 to 2"),
    "negative": ({"image": IMAGE, "label": LABEL.astype(int) - 1}, r"holds labels from -1 to \d, .*: expected whole"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_bad_slice_is_named_before_training(data, kind):
    content, message = SPOILT[kind]
    check(read_synapse(data))
    write_slice(data, "a_slice000", IMAGE, LABEL)
    np.savez(data / "train_npz" / "a_slice001.npz", **content)
    with pytest.raises(ValueError, match=rf"(a_slice001\.npz|a|a, slice 1,) .*{message}"):
        check(read_synapse(data))


@pytest.mark.parametrize("kind", SPOILT)
def test_a_bad_volume_is_named_before_scoring(data, kind):
    content, message = SPOILT[kind]
    check(read_synapse(data))
    with h5py.File(data / "test_vol_h5" / "c.npy.h5", "w") as file:
        for name, array in content.items():
            file[name] = array[None]
    with pytest.raises(ValueError, match=rf"(c\.npy\.h5|c|c, slice 0,) .*{message}"):
        check(read_synapse(data))


def test_no_truncated_file_is_read(data):
    """Wherever a copy broke off, the file is named, in one line."""
    read = SynapseData(data)
    for path, reader in (
        (read.slice_path("a_slice000"), lambda: read_slice(read.slice_path("a_slice000"))),
        (read.case_path("c"), lambda: read.read_test_case("c")),
    ):
        whole = path.read_bytes()
        for length in range(0, len(whole), len(whole) // 40):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=rf"{path.name} can't be read: expected an") as caught:
                reader()
            assert "\n" not in str(caught.value)


def test_pickled_objects_are_not_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.array([[{}]], dtype=object), label=LABEL)
    with pytest.raises(ValueError, match=r"a\.npz can't be read"):
        read_slice(tmp_path / "a.npz")


@pytest.mark.parametrize("shape", [(1 << 20, 8), (100_000, 1 << 20), (30_000, 8, 8)])
def test_the_sizes_that_headers_claim_are_limited_before_memory_is_taken(data, shape):
    """Headers of up to 400 GB over no values at all."""
    read, limited = SynapseData(data), "expected at most [0-9,]+; make it smaller, or raise the limit: SAMED_MAX_"
    with zipfile.ZipFile(read.slice_path("a_slice000"), "w") as file:
        for name in ("image.npy", "label.npy"):
            with file.open(name, "w") as array:
                header = {"shape": shape, "fortran_order": False, "descr": "<f4"}
                np.lib.format.write_array_header_1_0(array, header)
    with pytest.raises(ValueError, match=rf"a_slice000\.npz has .*{limited}"):
        read_slice(read.slice_path("a_slice000"))
    with h5py.File(read.case_path("c"), "w") as file:
        for name in ("image", "label"):
            file.create_dataset(name, shape, "f4", chunks=True)
    with pytest.raises(ValueError, match=rf"c\.npy\.h5 has .*{limited}"):
        read.read_test_case("c")


def test_a_group_is_no_image(data):
    with h5py.File(SynapseData(data).case_path("c"), "w") as file:
        file.create_group("image")
        file["label"] = LABEL[None]
    with pytest.raises(ValueError, match=r"c\.npy\.h5 can't be read"):
        SynapseData(data).read_test_case("c")
