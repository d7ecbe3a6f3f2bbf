"""Images and labels beside each other: flat, a directory for each patient, a mask for each class."""

import numpy as np
import pytest
from PIL import Image

from samed_hf import SamedImageProcessor
from samed_hf.data import DataArguments, divide_cases, make_processor, read_data
from samed_hf.data.cache import CaseStore

from ..data_folders import make_scans, save_nifti

SCANS = make_scans(3)
VOXELS = {name: np.bincount(label.ravel(), minlength=3).tolist() for name, (_, label) in SCANS.items()}


def counts(data) -> dict[str, list[int]]:
    """The voxels of each label by case."""
    num_labels = len(data.id2label)
    processor = make_processor(DataArguments(data_dir="."), data)
    return {
        name: np.bincount(data.read_case(name, processor).label.ravel(), minlength=num_labels).tolist()
        for name in (*data.train, *data.validation, *data.test)
    }


def write(root, pattern: str, label_pattern: str, scans=SCANS):
    """Write each scan and its label under names made of the case's, NAME in the patterns."""
    for name, (image, label) in scans.items():
        save_nifti(root / pattern.replace("NAME", name), image)
        save_nifti(root / label_pattern.replace("NAME", name), label)
    return root


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("NAME_T1w.nii.gz", "NAME_T1w_seg.nii.gz"),
        ("NAME.nii.gz", "NAME_mask.nii.gz"),
        ("NAME.nii.gz", "NAME-label.nii"),
        ("NAME.nii.gz", "NAME_label.nii.gz"),
        ("NAME.nii.gz", "NAME.seg.nii.gz"),
        ("img_NAME.nii.gz", "label_NAME.nii.gz"),
        ("volume-NAME.nii", "segmentation-NAME.nii"),
        ("NAME/image.nii.gz", "NAME/label.nii.gz"),
        ("NAME/imaging.nii.gz", "NAME/segmentation.nii.gz"),
        ("NAME/NAME.nii.gz", "NAME/NAME_gt.nii.gz"),
        ("NAME/scan_of_today.nii.gz", "NAME/roi.nii.gz"),
        ("NAME/NAME_flair.nii.gz", "NAME/NAME_seg.nii.gz"),
        ("NAME/anat/t1.nii.gz", "NAME/anat/mask.nii.gz"),
        ("NAME/ct.nii.gz", "NAME/labels/NAME.nii.gz"),
        ("NAME.nii.gz", "masks/NAME.nii.gz"),
    ],
)
def test_each_image_has_its_label(tmp_path, image, label):
    data = read_data(write(tmp_path, image, label))
    assert sorted(counts(data).values()) == sorted(VOXELS.values())
    assert all(case in name for case, name in zip(SCANS, data.train, strict=True))
    assert "image *" in data.explanation
    assert label.rpartition("NAME")[2].split("/")[-1].lstrip("-_.") in data.explanation


def test_sequences_become_channels_and_others_are_said(tmp_path):
    for name, (image, label) in SCANS.items():
        for index, sequence in enumerate(("flair", "t1", "t1ce")):
            save_nifti(tmp_path / "three" / name / f"{name}_{sequence}.nii.gz", image + index)
            save_nifti(tmp_path / "four" / f"{name}_{sequence}.nii.gz", image + index)
        save_nifti(tmp_path / "four" / f"{name}_t2.nii.gz", image)
        for path in (tmp_path / "three" / name, tmp_path / "four"):
            save_nifti(path / f"{name}_seg.nii.gz", label)
    data = read_data(tmp_path / "three")
    assert data.channel_names == ("flair", "t1", "t1ce")
    assert data.read_case("case_01", SamedImageProcessor(channel_names=data.channel_names)).image.shape == (
        5,
        3,
        24,
        20,
    )
    data = read_data(tmp_path / "four")
    assert (data.channel_names, data.train) == (("flair", "t1", "t1ce"), list(SCANS))
    assert any("t2 not used" in note for note in data.notes)
    data = read_data(tmp_path / "four", image_column="t2,t1")
    assert data.channel_names == ("t2", "t1")
    assert counts(data) == VOXELS
    (tmp_path / "three" / "case_01" / "case_01_t1.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"case_01 has the images flair, t1ce, .*t1 isn't in all"):
        read_data(tmp_path / "three")
    assert read_data(tmp_path / "three", image_column="flair").channel_names == ("flair",)


def masks(root, scans=SCANS, **changes):
    """TotalSegmentator's layout, its classes called disc and bar."""
    for name, (image, label) in scans.items():
        save_nifti(root / name / "ct.nii.gz", image)
        for value, of in ((1, "disc"), (2, "bar")):
            save_nifti(root / name / "segmentations" / f"{of}.nii.gz", (label == value).astype(np.uint8))
    return root


def test_a_mask_for_each_class_is_one_label_map(tmp_path):
    data = read_data(masks(tmp_path))
    assert (data.id2label, data.channel_names) == ({0: "background", 1: "bar", 2: "disc"}, ("ct",))
    assert counts(data) == {name: [found[0], found[2], found[1]] for name, found in VOXELS.items()}
    (tmp_path / "labels.json").write_text('{"0": "background", "1": "disc", "2": "bar"}')
    assert counts(read_data(tmp_path)) == VOXELS
    data = read_data(tmp_path, label_names=["bar"])
    assert counts(data) == {name: [found[0] + found[1], found[2]] for name, found in VOXELS.items()}
    assert any("1 classes have masks but no label" in note and "disc" in note for note in data.notes)


def test_a_missing_mask_is_absent_and_an_overlap_is_counted(tmp_path, caplog):
    masks(tmp_path)
    (tmp_path / "case_00" / "segmentations" / "bar.nii.gz").unlink()
    save_nifti(tmp_path / "case_01" / "segmentations" / "bar.nii.gz", np.ones((20, 24, 5), np.uint8))
    data = read_data(tmp_path)
    assert any("bar in 1" in note for note in data.notes)
    found = counts(data)
    assert found["case_00"] == [2400 - VOXELS["case_00"][1], 0, VOXELS["case_00"][1]]
    assert found["case_01"] == [0, 2400 - VOXELS["case_01"][1], VOXELS["case_01"][1]]
    overlap = f"disc.nii.gz covers {VOXELS['case_01'][1]} voxels"
    assert any(overlap in record.getMessage() and "case_01" in record.getMessage() for record in caplog.records)


def test_a_case_without_any_mask_is_left_out_and_said(tmp_path):
    masks(tmp_path)
    for path in (tmp_path / "case_02" / "segmentations").iterdir():
        path.unlink()
    data = read_data(tmp_path)
    assert data.train == ["case_00", "case_01"]
    assert any("1 images without a label" in note and "case_02/ct.nii.gz" in note for note in data.notes)


def test_a_mask_of_two_values_or_of_another_grid_is_refused(tmp_path):
    masks(tmp_path)
    path = tmp_path / "case_01" / "segmentations" / "disc.nii.gz"
    save_nifti(path, SCANS["case_01"][1])
    with pytest.raises(ValueError, match=r"disc\.nii\.gz holds the values 1, 2 besides 0"):
        counts(read_data(tmp_path))
    save_nifti(path, np.ones((20, 24, 4), np.uint8))
    with pytest.raises(ValueError, match=r"disc\.nii\.gz is on another grid"):
        counts(read_data(tmp_path))


def test_other_classes_are_decoded_anew(tmp_path):
    masks(tmp_path / "data")
    (tmp_path / "data" / "case_00" / "segmentations" / "bar.nii.gz").unlink()
    found = []
    for names in (["bar", "disc"], ["disc", "bar"]):
        store = CaseStore(read_data(tmp_path / "data", label_names=names), SamedImageProcessor(), tmp_path / "cache")
        store.prepare(["case_00"])
        found.append(set(np.unique(store.label("case_00")).tolist()))
    assert found == [{0, 2}, {0, 1}]


def test_masks_beside_the_image_are_classes_only_when_named(tmp_path):
    for name, (image, label) in SCANS.items():
        save_nifti(tmp_path / name / "image.nii.gz", image)
        for value, of in ((1, "disc"), (2, "bar")):
            save_nifti(tmp_path / name / f"{of}_mask.nii.gz", (label == value).astype(np.uint8))
    with pytest.raises(ValueError, match=r"image\.nii\.gz could have the label (bar or disc|disc or bar)"):
        read_data(tmp_path)
    assert counts(read_data(tmp_path, label_names=["disc", "bar"])) == VOXELS
    data = read_data(tmp_path, label_column="bar")
    assert counts(data) == {name: [found[0] + found[1], found[2]] for name, found in VOXELS.items()}


@pytest.mark.parametrize("names", [("rater1", "rater2"), ("1", "2"), ("manual", "auto")])
def test_readings_of_several_raters_are_no_classes(tmp_path, names):
    for name, (image, label) in SCANS.items():
        save_nifti(tmp_path / name / "image.nii.gz", image)
        for rater in names:
            save_nifti(tmp_path / name / "masks" / f"{rater}.nii.gz", (label > 0).astype(np.uint8))
    with pytest.raises(ValueError, match=f"{min(names)}.*{max(names)}.*several readings"):
        read_data(tmp_path)


def test_two_labels_or_two_images_are_refused(tmp_path):
    write(tmp_path, "NAME.nii.gz", "NAME_seg.nii.gz")
    save_nifti(tmp_path / "case_01_mask.nii.gz", SCANS["case_01"][1])
    with pytest.raises(ValueError, match=r"case_01\.nii\.gz could have the label (seg or mask|mask or seg)"):
        read_data(tmp_path)
    (tmp_path / "case_01_mask.nii.gz").unlink()
    save_nifti(tmp_path / "case_01.nii", SCANS["case_01"][0])
    with pytest.raises(ValueError, match=r"case_01\.nii and .*case_01\.nii\.gz"):
        read_data(tmp_path)


def test_images_without_a_label_are_said(tmp_path):
    write(tmp_path, "NAME_T1w.nii.gz", "NAME_T1w_seg.nii.gz")
    save_nifti(tmp_path / "case_01_T2w.nii.gz", SCANS["case_01"][0])
    save_nifti(tmp_path / "other_seg.nii.gz", SCANS["case_01"][1])
    data = read_data(tmp_path)
    assert len(data.train) == 3
    assert any("1 images without a label" in note and "case_01_T2w.nii.gz" in note for note in data.notes)
    assert any("1 labels without an image" in note and "other_seg.nii.gz" in note for note in data.notes)


def test_several_cases_of_a_patient_stay_in_one_split(tmp_path):
    """As in ACDC: two phases with labels and the whole 4-D series in the patient's directory."""
    for patient in range(6):
        for phase, (image, label) in zip(("01", "12"), SCANS.values(), strict=False):
            directory = tmp_path / f"patient{patient:03d}"
            save_nifti(directory / f"patient{patient:03d}_frame{phase}.nii.gz", image)
            save_nifti(directory / f"patient{patient:03d}_frame{phase}_gt.nii.gz", label)
        save_nifti(directory / f"patient{patient:03d}_4d.nii.gz", np.stack([image] * 2, axis=-1))
    data = read_data(tmp_path)
    assert len(data.train) == 12
    assert data.train[:2] == ["patient000_frame01", "patient000_frame12"]
    assert any("6 images without a label" in note for note in data.notes)
    for fold in range(3):
        divide_cases(data, num_folds=3, fold=fold)
        assert len(data.validation) == 4
        assert not {name[:10] for name in data.train} & {name[:10] for name in data.validation}
    data = read_data(tmp_path)
    divide_cases(data)
    assert [name[:10] for name in data.validation] == [data.validation[0][:10]] * 2


def test_directories_of_splits(tmp_path):
    for split, name in (("train", "case_00"), ("val", "case_01"), ("unlabelled", "case_02")):
        write(tmp_path / split, "NAME/image.nii.gz", "NAME/label.nii.gz", {name: SCANS[name]})
    data = read_data(tmp_path)
    assert (data.train, data.validation, data.test) == (["case_00"], ["case_01"], [])
    assert any("unlabelled" in note for note in data.notes)


def test_images_of_two_dimensions(tmp_path):
    for name, (_, label) in SCANS.items():
        for index in range(12):
            path = tmp_path / name / f"{name}_slice{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((20, 24), 10 * index, np.uint8)).save(path)
            Image.fromarray(label[..., index % 5]).save(path.with_name(f"{name}_slice{index}_mask.png"))
    data = read_data(tmp_path)
    assert len(data.train) == 3
    case = data.read_case(data.train[0], SamedImageProcessor(intensity_window=None, percentiles=None))
    np.testing.assert_allclose(case.image[:, 0, 0] * 255, range(0, 120, 10), atol=1e-3)


@pytest.mark.parametrize("pattern", ["masks/CLASS/NAME", "masks/NAME/CLASS", "masks/CLASS/NAME_mask"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".png"])
def test_a_directory_for_each_class_or_for_each_image(tmp_path, pattern, suffix):
    def save(path, array):
        if suffix == ".png":
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array[..., 2].astype(np.uint8).T).save(path)
        else:
            save_nifti(path, array)

    for name, (image, label) in SCANS.items():
        save(tmp_path / "images" / f"{name}{suffix}", image)
        for value, of in ((1, "disc"), (2, "bar")):
            path = tmp_path / f"{pattern.replace('CLASS', of).replace('NAME', name)}{suffix}"
            save(path, (label == value).astype(np.uint8) * 255)
    data = read_data(tmp_path, label_names=["disc", "bar"])
    labels = {name: label[..., 2] if suffix == ".png" else label for name, (_, label) in SCANS.items()}
    assert counts(data) == {name: np.bincount(label.ravel(), minlength=3).tolist() for name, label in labels.items()}
    assert read_data(tmp_path).id2label == {0: "background", 1: "bar", 2: "disc"}
    for of in ("disc", "bar"):
        (tmp_path / f"{pattern.replace('CLASS', of).replace('NAME', 'case_01')}{suffix}").unlink()
    data = read_data(tmp_path)
    assert data.train == ["case_00", "case_02"]
    assert any("1 images without a mask" in note and "case_01" in note for note in data.notes)


def test_overlaps_of_two_dimensional_masks_are_counted(tmp_path, caplog):
    for path, size in (("images/x", 20), ("masks/a/x", 20), ("masks/b/x", 5)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.pad(np.ones((size, 20), np.uint8), ((0, 20 - size), (0, 0)))).save(tmp_path / f"{path}.png")
    assert counts(read_data(tmp_path)) == {"x": [0, 300, 100]}
    assert any("covers 100 voxels" in record.getMessage() for record in caplog.records)


def test_numbered_masks_of_an_image_are_merged(tmp_path):
    """As in BUSI: `benign (1).png`, `benign (1)_mask.png`, `benign (1)_mask_1.png`."""
    for name in ("benign (1)", "benign (2)"):
        (tmp_path / "benign").mkdir(exist_ok=True)
        for suffix, columns in (("", 0), ("_mask", 3), ("_mask_1", 4)):
            pixels = np.zeros((20, 24), np.uint8)
            pixels[:, 20 - columns * 4 :][:, :columns] = 255
            Image.fromarray(pixels).save(tmp_path / "benign" / f"{name}{suffix}.png")
    data = read_data(tmp_path)
    assert counts(data) == {f"benign ({index})": [480 - 140, 140] for index in (1, 2)}
    assert any("2 images with several numbered masks" in note for note in data.notes)
    assert any("1 directories hold several cases" in note for note in data.notes)


def test_a_mixture_of_contrasts_is_said(tmp_path):
    for index, (image, label) in enumerate((*SCANS.values(), *SCANS.values())):
        save_nifti(tmp_path / f"p{index}" / ("t1.nii.gz" if index < 4 else "t2.nii.gz"), image)
        save_nifti(tmp_path / f"p{index}" / "ManualSegmentation.nii.gz", label)
    data = read_data(tmp_path)
    assert data.channel_names == ("image",)
    assert any("t1 in 4, t2 in 2" in note for note in data.notes)


def test_two_images_of_unknown_names_are_refused(tmp_path):
    write(tmp_path, "NAME/first.nii.gz", "NAME/label.nii.gz")
    write(tmp_path, "NAME/second.nii.gz", "NAME/label.nii.gz")
    with pytest.raises(ValueError, match=r"has the images first, second: .*--image_column"):
        read_data(tmp_path)
    assert counts(read_data(tmp_path, image_column="second")) == VOXELS
    assert read_data(tmp_path, image_column="second,first").channel_names == ("second", "first")


@pytest.mark.parametrize("suffix", [".nii.gz", ".png"])
def test_images_and_masks_in_the_directory_of_a_patient(tmp_path, suffix):
    if suffix == ".png":
        for index in range(5):
            for name, (image, label) in SCANS.items():
                for directory, array in (("images", image), ("masks", label)):
                    (tmp_path / name / directory).mkdir(parents=True, exist_ok=True)
                    pixels = Image.fromarray(array[..., index].astype(np.uint8).T)
                    pixels.save(tmp_path / name / directory / f"{index}.png")
    else:
        write(tmp_path, "NAME/images/x.nii.gz", "NAME/labels/x_label.nii.gz")
    data = read_data(tmp_path, label_names=["disc", "bar"])
    found = counts(data)
    assert {
        name: np.sum([c for n, c in found.items() if n.startswith(name)], axis=0).tolist() for name in SCANS
    } == VOXELS
    assert len(set(data.groups.values())) == (3 if suffix == ".png" else 0)


def test_masks_of_named_classes_in_one_directory(tmp_path):
    for name, (image, label) in SCANS.items():
        save_nifti(tmp_path / "images" / f"{name}.nii.gz", image)
        for value, of in ((1, "disc"), (2, "bar")):
            save_nifti(tmp_path / "masks" / f"{name}_{of}.nii.gz", (label == value).astype(np.uint8))
    with pytest.raises(ValueError, match="case_00_bar"):
        read_data(tmp_path)
    assert counts(read_data(tmp_path, label_names=["disc", "bar"])) == VOXELS
    (tmp_path / "labels.json").write_text('{"background": 0, "disc": 1, "bar": 2}')
    assert counts(read_data(tmp_path)) == VOXELS
