"""Each fault of a data set is found, and nothing else."""

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from samed_hf.cli import main
from samed_hf.data import DataArguments, make_processor
from samed_hf.data.dataset import Case
from samed_hf.data.layouts import read_data
from samed_hf.data.layouts.synapse import write_case, write_lists, write_slice
from samed_hf.validation.case_checks import opposites
from samed_hf.validation.problems import KINDS, SEVERITIES, Problem, sort_problems
from samed_hf.validation.run import validate_data

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

SMALL = {"model_type": "sam", "vision_config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}}


@pytest.fixture(autouse=True)
def small_base(monkeypatch, request):
    """The memory of a small base model, in the tests that are not about it: that of ViT-B takes ten seconds."""
    if "slow" not in request.keywords:
        monkeypatch.setattr("samed_hf.diagnostics.memory.read_base_config", lambda *_, **__: SMALL)


AFFINE = np.diag([-1.0, -1.5, 3.0, 1.0])
SHAPE = (20, 24, 5)


@pytest.fixture
def scans():
    return make_scans(6, SHAPE)


def check(root, tolerance=0.1, **settings):
    """Validate the data set of a directory."""
    data = read_data(root, geometry_tolerance=tolerance)
    processor = make_processor(DataArguments(data_dir=str(root), **settings), data)
    return validate_data(data, processor, images_per_split=0)


def found(validation, *severities):
    """Severity, kind and case of the problems, without notes."""
    severities = severities or ("error", "warning")
    return [(one.severity, one.kind, one.case) for one in validation.problems if one.severity in severities]


def text(validation, kind):
    (problem,) = [one for one in validation.problems if one.kind == kind and one.severity != "note"]
    return problem.line


@pytest.mark.parametrize("write", [write_nnunet, write_decathlon, write_folders, write_pictures, write_rows])
def test_correct_data_have_no_problem_in_any_layout(write, scans, tmp_path):
    validation = check(write(tmp_path / "data", scans))
    assert found(validation) == []
    assert len(validation.cases) == 6
    for facts, (_, label) in zip(validation.cases, scans.values(), strict=True):
        assert facts.voxels == tuple(np.bincount(label.ravel(), minlength=3))
        assert facts.shape == (5, 24, 20)


def test_every_layout_measures_the_same(scans, tmp_path):
    """The same scans as NIfTI of two types, as pictures and as rows: equal contents are equal digests."""
    digests = []
    for index, write in enumerate((write_nnunet, write_folders, write_pictures, write_rows)):
        cases = scans if index != 1 else {name: (one.astype(np.float32), label) for name, (one, label) in scans.items()}
        validation = check(write(tmp_path / str(index), cases))
        digests.append([facts.image_digest for facts in validation.cases])
    assert digests[0] == digests[1] == digests[2] == digests[3]
    assert len(set(digests[0])) == 6


def test_a_file_cut_short(scans, tmp_path):
    root = write_nnunet(tmp_path, scans)
    path = root / "imagesTr" / "case_01_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:600])
    validation = check(root)
    assert found(validation) == [("error", "unreadable", "case_01")]
    assert text(validation, "unreadable").startswith(f"case_01: {path} cannot be read as NIfTI")
    assert [facts.name for facts in validation.cases if facts.sample is None] == ["case_01"]


def test_a_damaged_image_and_a_damaged_label_are_both_reported(scans, tmp_path):
    root = write_nnunet(tmp_path, scans)
    for path in (root / "imagesTr" / "case_01_0000.nii.gz", root / "labelsTr" / "case_01.nii.gz"):
        path.write_bytes(b"<html>")
    assert found(check(root)) == [("error", "unreadable", "case_01")] * 2


def test_a_shifted_label_and_the_tolerance(scans, tmp_path):
    root = write_nnunet(tmp_path, scans)
    shifted = AFFINE.copy()
    shifted[0, 3] = 0.4  # of a voxel of 1 mm
    save_nifti(root / "labelsTr" / "case_02.nii.gz", scans["case_02"][1], shifted)
    validation = check(root)
    assert found(validation) == [("error", "geometry", "case_02")]
    assert "0.4 mm apart" in text(validation, "geometry")
    assert found(check(root, tolerance=0.5)) == []
    # A label map on another grid selects no intensities.
    (facts,) = [facts for facts in validation.cases if facts.name == "case_02"]
    assert facts.foreground.size == 0
    assert facts.voxels == tuple(np.bincount(scans["case_02"][1].ravel(), minlength=3))


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        (lambda label: (label, np.eye(4)), "has no geometry"),
        (lambda label: (label.transpose(1, 0, 2), AFFINE), "in another order"),
        (lambda label: (label[..., 1:], AFFINE), "Resample"),
        (lambda label: (label, AFFINE + np.diag([0, 0, 3.0, 0])), "under two headers"),
    ],
)
def test_another_grid_and_the_advice(change, advice, scans, tmp_path):
    root = write_nnunet(tmp_path, scans)
    save_nifti(root / "labelsTr" / "case_02.nii.gz", *change(scans["case_02"][1]))
    validation = check(root)
    assert ("error", "geometry", "case_02") in found(validation)
    assert advice in text(validation, "geometry")


def test_a_label_with_its_axes_in_another_order_fits(scans, tmp_path):
    """Its header states the order of the axes."""
    root = write_nnunet(tmp_path, scans)
    affine = AFFINE[:, [1, 0, 2, 3]]
    save_nifti(root / "labelsTr" / "case_02.nii.gz", scans["case_02"][1].transpose(1, 0, 2), affine)
    assert found(check(root)) == []


def test_label_values_without_a_name(scans, tmp_path):
    image, label = scans["case_03"]
    label = label.copy()
    label[:3, 0, 0], label[0, 0, 1] = 7, 200
    scans["case_03"] = image, label
    validation = check(write_nnunet(tmp_path, scans))
    assert found(validation) == [("error", "label-values", "case_03")]
    assert "7 (3 voxels), 200 (1 voxels)" in text(validation, "label-values")
    (facts,) = [facts for facts in validation.cases if facts.name == "case_03"]
    assert sum(facts.voxels) == label.size


def test_a_mask_of_0_and_255(scans, tmp_path):
    masks = {name: (image, np.where(label == 1, 255, 0).astype(np.uint8)) for name, (image, label) in scans.items()}
    validation = check(write_nnunet(tmp_path, masks, labels={"background": 0, "disc": 1}))
    assert [one.kind for one in validation.problems if one.case == "case_00" and one.severity == "error"] == [
        "label-values"
    ]
    assert "saved in black and white" in validation.problems[0].line


def test_labels_that_are_no_whole_numbers(scans, tmp_path):
    root = write_nnunet(tmp_path, scans)
    save_nifti(root / "labelsTr" / "case_00.nii.gz", scans["case_00"][1] * np.float32(0.5))
    validation = check(root)
    assert found(validation) == [("error", "no-labels-between", "case_00")]
    assert "between the whole numbers" in text(validation, "no-labels-between")


def test_nan_in_a_scan(scans, tmp_path):
    image = scans["case_00"][0].astype(np.float32)
    image[0, 0, 0] = np.nan
    scans["case_00"] = image, scans["case_00"][1]
    validation = check(write_nnunet(tmp_path, scans))
    assert [one[0::2] for one in found(validation)] == [("error", "case_00")]
    assert "NaN" in validation.problems[0].text


def test_a_constant_scan_and_an_empty_label(scans, tmp_path):
    scans["case_00"] = np.full(SHAPE, 40, np.int16), scans["case_00"][1]
    scans["case_01"] = scans["case_01"][0], np.zeros(SHAPE, np.uint8)
    validation = check(write_nnunet(tmp_path, scans))
    assert found(validation) == [("error", "constant", "case_00"), ("warning", "empty", "case_01")]


def test_the_same_scan_in_two_splits_whatever_its_file(scans, tmp_path):
    """As floats, mirrored with its header, under another name; a scan that differs in one voxel is another one."""
    root = write_nnunet(tmp_path, scans)
    image, label = scans["case_00"]
    mirrored = AFFINE @ np.array([[-1, 0, 0, 19], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    save_nifti(root / "imagesTs" / "other_0000.nii.gz", image[::-1].astype(np.float32), mirrored)
    save_nifti(root / "labelsTs" / "other.nii.gz", label[::-1], mirrored)
    changed = scans["case_01"][0].copy()
    changed[3, 3, 3] += 1
    save_nifti(root / "imagesTs" / "changed_0000.nii.gz", changed)
    save_nifti(root / "labelsTs" / "changed.nii.gz", scans["case_01"][1])
    validation = check(root)
    assert found(validation) == [("error", "leak", "case_00"), ("warning", "same-label", "case_01")]
    assert "case_00: (train) is the same scan as other (test)" in text(validation, "leak")


def test_the_same_scan_twice_in_one_split(scans, tmp_path):
    scans["copy"] = scans["case_02"]
    validation = check(write_nnunet(tmp_path, scans))
    assert found(validation) == [("warning", "duplicate", "case_02")]


def test_one_case_listed_for_two_splits(scans, tmp_path):
    root = write_nnunet(tmp_path, scans)
    names = list(scans)
    (root / "splits_final.json").write_text(json.dumps([{"train": names[:4], "val": names[3:5]}]))
    validation = check(root)
    assert ("error", "leak", "case_03") in found(validation)
    assert ("note", "splits", None) in found(validation, "note")  # case_05 is in none
    assert [facts.name for facts in validation.cases] == names[:5]


def test_labels_missing_from_splits(scans, tmp_path):
    names = {name: index for index, name in LABELS.items()} | {"ghost": 3}
    root = write_nnunet(tmp_path, scans, labels=names)
    image, label = make_scans(1, SHAPE, seed=9)["case_00"]
    save_nifti(root / "imagesTs" / "t_0000.nii.gz", image)
    save_nifti(root / "labelsTs" / "t.nii.gz", np.where(label == 1, 1, 0).astype(np.uint8))
    missing = [one for one in check(root).problems if one.kind == "missing-class"]
    assert [(one.severity, one.split) for one in missing] == [("error", "train"), ("warning", "test")]
    assert "ghost" in missing[0].text
    assert "bar, ghost" in missing[1].text


def test_hounsfield_units(scans, tmp_path):
    ct = {name: (image - np.int16(500), label) for name, (image, label) in scans.items()}
    ct["case_04"] = (scans["case_04"][0] + np.int16(1024), scans["case_04"][1])
    ct["case_05"] = ((scans["case_05"][0] / np.float32(255)), scans["case_05"][1])
    validation = check(write_nnunet(tmp_path, ct, channel_names={"0": "CT"}))
    assert found(validation) == [("warning", "units", "case_04"), ("warning", "units", "case_05")]
    lines = [one.text for one in validation.problems if one.kind == "units"]
    assert "offset of 1024" in lines[0]
    assert "rescaled to [0, 1]" in lines[1]


def two_sides(swap):
    """A scan in LPS with a left organ on the left, or the other way round."""
    label = np.zeros(SHAPE, np.uint8)
    label[2:7, 5:15, 1:4], label[13:18, 5:15, 1:4] = (1, 2) if swap else (2, 1)  # x runs to the left
    return label


@pytest.mark.parametrize("orientation", [None, "RAS", "PIR"])
def test_left_and_right(orientation, scans, tmp_path):
    cases = {name: (image, two_sides(name == "case_02")) for name, (image, _) in scans.items()}
    for number, (_, label) in enumerate(cases.values()):
        label[0, 0, 0] = number % 2  # no two alike
        label[1, 0, :number] = 1
    names = {"background": 0, "left lung": 1, "right lung": 2}
    validation = check(write_nnunet(tmp_path, cases, labels=names), orientation=orientation)
    assert [one for one in found(validation) if one[1] != "size"] == [("warning", "swapped", "case_02")]
    assert re.search(r"left lung \d+ mm on the wrong side of right lung", text(validation, "swapped"))


def test_opposites():
    names = ["background", "left upper lobe", "left lower lobe", "right upper lobe", "Anterior", "Posterior", "cleft"]
    assert sorted(opposites(dict(enumerate(names)))) == [(1, 2, "S"), (1, 3, "L"), (4, 5, "A")]


def test_labels_in_single_slices(scans, tmp_path):
    cases = make_scans(6, (20, 24, 16))
    image, label = cases["case_01"]
    sparse = label.copy()
    sparse[..., [index for index in range(16) if index % 3]] = 0
    cases["case_01"] = image, sparse
    validation = check(write_nnunet(tmp_path, cases))
    assert found(validation) == [("warning", "sparse", "case_01")]
    assert "in 5 of the 13 slices" in text(validation, "sparse")


def test_tiny_labels_and_no_background(scans, tmp_path):
    image, label = scans["case_00"]
    slip = np.where(label == 1, 1, 0).astype(np.uint8)
    slip[0, 0, :3] = 2
    full = np.ones(SHAPE, np.uint8)
    full[:, :, 0][:3, :3] = 2
    full[0, 0, 1:3] = 2
    full[0, 0, 4] = 0
    scans["case_00"], scans["case_01"] = (image, slip), (scans["case_01"][0], full)
    validation = check(write_nnunet(tmp_path, scans))
    assert found(validation) == [("warning", "tiny", "case_00"), ("warning", "mostly-labelled", "case_01")]
    assert "bar 3" in text(validation, "tiny")


def test_spacings_sizes_and_orientations(scans, tmp_path):
    root = write_nnunet(tmp_path, scans)
    image, label = scans["case_00"]
    for folder, name, array in (("imagesTr", "case_00_0000", image), ("labelsTr", "case_00", label)):
        save_nifti(root / folder / f"{name}.nii.gz", array, np.diag([-1, -1.5, 30, 1.0]))
    wide = make_scans(1, (60, 24, 5), seed=3)["case_00"]
    for folder, name, array in (("imagesTr", "case_01_0000", wide[0]), ("labelsTr", "case_01", wide[1])):
        save_nifti(root / folder / f"{name}.nii.gz", array, np.diag([1, 1.5, 3, 1.0]))
    validation = check(root)
    assert set(found(validation)) == {
        ("warning", "spacing", "case_00"),
        ("warning", "spacing", None),
        ("warning", "size", "case_01"),
    }
    notes = [one.text for one in validation.problems if one.kind == "orientation"]
    assert notes == ["The files have LPS in 5, RAS in 1: all are brought into one orientation before they are cut."]


def test_headers(scans, tmp_path):
    root = write_nnunet(tmp_path, scans)
    for name, qform, sform in (("case_00", 0, 0), ("case_01", 1, 1)):
        path = root / "imagesTr" / f"{name}_0000.nii.gz"
        scan = nib.load(path)
        array, header = np.asarray(scan.dataobj), scan.header.copy()
        other = AFFINE.copy()
        other[2, 3] += 6
        header.set_qform(other if qform else None, qform)
        header.set_sform(AFFINE if sform else None, sform)
        if not qform:
            header["qform_code"] = header["sform_code"] = 0
        nib.save(nib.Nifti1Image(array, None, header), path)
    validation = check(root)
    header = [one for one in validation.problems if one.kind == "header"]
    assert [(one.severity, one.case) for one in header] == [("warning", "case_00"), ("warning", "case_01")]
    assert "neither sform nor qform" in header[0].text
    assert "6 mm apart" in header[1].text


def test_unused_files_types_and_few_cases(scans, tmp_path):
    few = dict(list(scans.items())[:3])
    few["case_00"] = few["case_00"][0] + np.float32(0.5), few["case_00"][1].astype(np.float32)
    root = write_nnunet(tmp_path, few)
    save_nifti(root / "imagesTr" / "case_00_0001.nii.gz", scans["case_05"][0])
    (root / "imagesTr" / "notes.txt").write_text("no scan")
    validation = check(root)
    assert found(validation) == [("warning", "splits", None)]
    notes = {kind: one.text for one in validation.problems if one.severity == "note" for kind in [one.kind]}
    assert notes["unused"].endswith("1 file that no case uses: case_00_0001.nii.gz.")
    texts = [one.text for one in validation.problems if one.kind == "types"]
    assert any("float32 in 1" in one and "of 2 cases are whole numbers" in one for one in texts)
    assert any(one.startswith("1 case is stored with label maps of type float") for one in texts)


def test_images(scans, tmp_path):
    root = write_pictures(tmp_path, scans)
    (root / "images" / "case_00_slice001.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "masks" / "case_01_slice002.png")
    Image.fromarray(np.full((24, 20), 9, np.uint8)).save(root / "masks" / "case_02_slice003.png")
    validation = check(root)
    assert found(validation, "error") == [
        ("error", "unreadable", "case_00"),
        ("error", "geometry", "case_01"),
        ("error", "label-values", "case_02"),
    ]
    # The other slices of these cases are read.
    assert [facts.shape[0] for facts in validation.cases] == [4, 4, 5, 5, 5, 5]


def test_images_of_one_patient_in_two_splits(scans, tmp_path):
    for split, start in (("train", 0), ("test", 3)):
        for number in range(start, start + 3):
            for folder, array in zip(("images", "masks"), scans[f"case_{number:02d}"], strict=True):
                path = tmp_path / split / folder / f"patient7_{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array[..., 2].T.astype(np.uint8)).save(path)
    (tmp_path / "labels.txt").write_text("background\ndisc\nbar")
    validation = check(tmp_path)
    assert ("warning", "leak", None) in found(validation)
    assert "patient7" in text(validation, "leak")


def synapse(root, scale=1 / 255):
    slices = []
    scans = make_scans(7, (24, 24, 4))
    for name, (image, label) in list(scans.items())[:6]:
        for index in range(4):
            slices.append(f"{name}_slice{index:03d}")
            write_slice(root, slices[-1], image[..., index].T * scale, label[..., index].T)
    image, label = (array.transpose(2, 1, 0) for array in scans["case_06"])
    write_case(root, Case("case_06", image.astype(np.float32) / 255, label, (5.0, 1.0, 1.0)))
    write_lists(root, slices, ["case_06"], LABELS)
    return root


def test_synapse(tmp_path):
    validation = check(synapse(tmp_path))
    assert found(validation) == []
    assert [(facts.name, facts.split) for facts in validation.cases][-1] == ("case_06", "test")


def test_synapse_without_its_window(tmp_path):
    validation = check(synapse(tmp_path, scale=1))
    assert [(one.severity, one.kind, one.case) for one in validation.problems if one.kind == "range"] == [
        ("error", "range", f"case_{number:02d}") for number in range(6)
    ]
    assert "expected [0, 1]" in validation.problems[0].text


def test_synapse_with_a_damaged_slice(tmp_path):
    root = synapse(tmp_path)
    (root / "train_npz" / "case_01_slice002.npz").write_bytes(b"PK")
    (root / "train_npz" / "spare_slice000.npz").write_bytes(b"PK")
    validation = check(root)
    assert found(validation) == [("error", "unreadable", "case_01")]
    assert [facts.shape[0] for facts in validation.cases[:3]] == [4, 3, 4]
    assert any("spare_slice000.npz" in one.text for one in validation.problems if one.kind == "unused")


def test_several_channels(scans, tmp_path):
    root = write_nnunet(tmp_path, scans, channel_names={"0": "T1", "1": "CT"})
    for name, (image, _) in scans.items():
        save_nifti(root / "imagesTr" / f"{name}_0001.nii.gz", image[::-1] - np.int16(900))
    save_nifti(root / "imagesTr" / "case_03_0001.nii.gz", scans["case_03"][0])
    validation = check(root)
    assert found(validation) == [("warning", "units", "case_03")]
    assert text(validation, "units").startswith("case_03: channel 1 has intensities from 0")


@pytest.mark.slow
def test_more_channels_than_three_are_checked_and_projected(scans, tmp_path, capsys):
    root = write_nnunet(tmp_path / "data", scans, channel_names={str(index): f"T{index}" for index in range(4)})
    for name, (image, _) in scans.items():
        for index in range(1, 4):
            save_nifti(root / "imagesTr" / f"{name}_{index:04d}.nii.gz", image)
    main(["validate", str(root), "--output", str(tmp_path / "checked")])
    shown = capsys.readouterr()
    assert "--channel_projection" in shown.out + shown.err
    fingerprint = json.loads((tmp_path / "checked" / "fingerprint.json").read_text())
    assert fingerprint["data"]["channels"] == ["T0", "T1", "T2", "T3"]


def test_problems_are_sorted_and_have_one_line():
    problems = [
        Problem("note", "spacing", "c"),
        Problem("warning", "empty", "b", "x"),
        Problem("error", "leak", "a\nb", "y\n", "test"),
        Problem("error", "unreadable", "z", "z"),
    ]
    assert [one.kind for one in sort_problems(problems)] == ["unreadable", "leak", "empty", "spacing"]
    assert problems[2].line == "y\\n: a\\nb"
    assert set(problems[2].to_dict()) == {"severity", "kind", "case", "split", "text"}
    assert SEVERITIES[0] == "error"
    assert all(heading for heading in KINDS.values())


def run(capfd, *argv):
    capfd.readouterr()
    status = main(["validate", *map(str, argv)])
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err
    return status, captured.out, captured.err


@pytest.mark.slow
def test_the_command_prints_and_writes_its_results(scans, tmp_path, capfd):
    root = write_nnunet(tmp_path / "data", scans)
    status, out, err = run(capfd, root, "--output", tmp_path / "out")
    assert (status, err) == (0, "")
    assert f"data        {root}: nnU-Net raw, 6 cases to train on, 0 for validation, 0 to test on" in out
    assert "found       0 errors, 0 warnings, 1 note" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"fingerprint.json", "validation.html"}


@pytest.mark.slow
def test_the_command_fails_for_errors_and_reports_them(scans, tmp_path, capfd):
    root = write_nnunet(tmp_path / "data", scans)
    (root / "imagesTr" / "case_00_0000.nii.gz").write_bytes(b"")
    status, out, err = run(capfd, root, "--output", tmp_path / "out")
    assert (status, err) == (1, "")
    assert len(re.findall(r"^error       case_00: ", out, re.M)) == 1
    problems = json.loads((tmp_path / "out" / "fingerprint.json").read_text())["problems"]
    assert [one["case"] for one in problems if one["severity"] == "error"] == ["case_00"]


@pytest.mark.slow
def test_many_problems_of_a_kind_are_counted(tmp_path, capfd):
    scans = {name: (image, label * 3) for name, (image, label) in make_scans(25, (16, 18, 2)).items()}
    status, out, _ = run(capfd, write_nnunet(tmp_path / "data", scans), "--output", tmp_path / "out")
    assert status == 1
    assert len(re.findall(r"^error       case_\d\d: ", out, re.M)) == 20
    assert "error       and 5 more of the kind 'label-values': see validation.html" in out


def test_nothing_readable(scans, tmp_path, capfd):
    root = write_nnunet(tmp_path / "data", scans)
    for path in (root / "imagesTr").iterdir():
        path.write_bytes(b"")
    status, _, err = run(capfd, root, "--output", tmp_path / "out")
    assert status == 2
    assert err == f"error: no scan of {root} could be read.\n"
    assert not (tmp_path / "out").exists()


def test_a_layout_that_cannot_be_read(scans, tmp_path, capfd):
    root = write_nnunet(tmp_path / "data", scans)
    (root / "dataset.json").write_text("{")
    for argv in ((root,), (tmp_path / "nowhere",), (root, "--tolerance", "-1"), (root, "--orientation", "ABC")):
        status, _, err = run(capfd, *argv, "--output", tmp_path / "out")
        assert status == 2
        assert re.fullmatch(r"error: .+\n", err)
    assert not (tmp_path / "out").exists()


def test_a_plane_of_slices_is_refused(scans, tmp_path, capfd):
    root = write_pictures(tmp_path / "data", scans)
    status, _, err = run(capfd, root, "--plane", "coronal")
    assert status == 2
    assert "plane is coronal" in err


@pytest.mark.slow
def test_the_data_set_is_not_changed(scans, tmp_path, capfd):
    root = write_nnunet(tmp_path / "data", scans)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    run(capfd, root, "--output", tmp_path / "out")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    shutil.rmtree(tmp_path / "out")
