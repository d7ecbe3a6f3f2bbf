"""BIDS: raw images, label maps in derivatives, names in dseg.tsv."""

import json

import numpy as np
import pytest

from samed_hf.data import divide_cases, read_data

from ..data_folders import make_scans, save_nifti
from .test_patients import counts

SCANS = make_scans(3)
VOXELS = [np.bincount(label.ravel(), minlength=3).tolist() for _, label in SCANS.values()]
NAMES = {0: "background", 1: "disc", 2: "bar"}


def write(root, image="sub-NN_T1w", label="derivatives/manual/sub-NN/anat/sub-NN_desc-manual_dseg", table=True):
    for index, (scan, labels) in enumerate(SCANS.values(), 1):
        number = f"{index:02d}"
        save_nifti(root / f"sub-{number}" / "anat" / f"{image.replace('NN', number)}.nii.gz", scan)
        save_nifti(root / f"{label.replace('NN', number)}.nii.gz", labels)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "tiny", "BIDSVersion": "1.9.0"}))
    if table:
        path = root / "derivatives" / "manual" / "dseg.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("index\tname\tcolor\n2\tbar\t#000000\n1\tdisc\t#ffffff\n")
    return root


def test_raw_images_and_derivatives(tmp_path):
    data = read_data(write(tmp_path))
    assert (data.layout, data.id2label, data.channel_names) == ("BIDS", NAMES, ("T1w",))
    assert counts(data) == {f"sub-0{index}": found for index, found in enumerate(VOXELS, 1)}
    assert "3 subjects, image *_T1w, label derivatives/manual/*_dseg" in data.explanation
    assert "derivatives/manual/dseg.tsv" in data.explanation


@pytest.mark.parametrize(
    "label",
    [
        "derivatives/labels/sub-NN/anat/sub-NN_T1w_seg",
        "derivatives/sub-NN/anat/sub-NN_space-T1w_label-lesion_mask",
        "sub-NN/anat/sub-NN_dseg",
        "derivatives/sub-NN/sub-NN_msk",
    ],
)
def test_other_places_and_names_of_labels(tmp_path, label):
    write(tmp_path, label=label, table=False)
    if "mask" in label:
        for index, (_, labels) in enumerate(SCANS.values(), 1):
            path = tmp_path / f"{label.replace('NN', f'{index:02d}')}.nii.gz"
            save_nifti(path, (labels == 1).astype(np.uint8))
    data = read_data(tmp_path)
    if "mask" in label:
        assert data.id2label == {0: "background", 1: "lesion"}
        assert [found[1] for found in counts(data).values()] == [found[1] for found in VOXELS]
    else:
        assert list(counts(data).values()) == VOXELS


def test_contrasts_are_chosen_not_guessed(tmp_path):
    write(tmp_path)
    for index, (scan, _) in enumerate(SCANS.values(), 1):
        save_nifti(tmp_path / f"sub-0{index}" / "anat" / f"sub-0{index}_FLAIR.nii.gz", scan + 7)
    with pytest.raises(ValueError, match=r"images of the kinds FLAIR, T1w: .*--image_column"):
        read_data(tmp_path)
    assert read_data(tmp_path, image_column="FLAIR").channel_names == ("FLAIR",)
    data = read_data(tmp_path, image_column="T1w,FLAIR")
    assert data.channel_names == ("T1w", "FLAIR")
    assert data.sources["sub-02"].images[1].name == "sub-02_FLAIR.nii.gz"
    with pytest.raises(ValueError, match=r"no image \*_T2w: expected one of FLAIR, T1w"):
        read_data(tmp_path, image_column="T2w")


def test_two_pipelines_are_chosen_not_guessed(tmp_path):
    write(tmp_path)
    write(tmp_path, label="derivatives/auto/sub-NN/anat/sub-NN_desc-auto_dseg")
    with pytest.raises(ValueError, match=r"sub-01_T1w\.nii\.gz could have the label .*desc-auto.* or .*desc-manual"):
        read_data(tmp_path)
    for name in ("manual", "desc-manual"):
        data = read_data(tmp_path, label_column=name)
        assert all("desc-manual" in str(source.label) for source in data.sources.values())
        assert data.id2label == NAMES


def test_sessions_and_runs(tmp_path):
    """Two sessions of a subject are cases of one patient; a label without run can't choose between two."""
    for session in ("1", "2"):
        write(
            tmp_path,
            f"sub-NN_ses-{session}_run-1_T1w",
            f"derivatives/manual/sub-NN/ses-{session}/sub-NN_ses-{session}_dseg",
        )
    data = read_data(tmp_path)
    assert data.train[:2] == ["sub-01_ses-1_run-1", "sub-01_ses-2_run-1"]
    divide_cases(data, num_folds=3, fold=1)
    assert len({name[:6] for name in data.validation}) == 1
    assert len(data.validation) == 2
    save_nifti(tmp_path / "sub-01" / "anat" / "sub-01_ses-1_run-2_T1w.nii.gz", SCANS["case_00"][0])
    with pytest.raises(ValueError, match=r"sub-01_ses-1_dseg.*could be the label of .*run-1.* or .*run-2"):
        read_data(tmp_path)


def test_images_without_a_label_are_said_and_labels_without_an_image_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "derivatives" / "manual" / "sub-02" / "anat" / "sub-02_desc-manual_dseg.nii.gz").unlink()
    data = read_data(tmp_path)
    assert data.train == ["sub-01", "sub-03"]
    assert any("1 images without a label" in note and "sub-02_T1w" in note for note in data.notes)
    (tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"sub-01_desc-manual_dseg\.nii\.gz has no image \*_T1w"):
        read_data(tmp_path)


def test_splits_of_participants(tmp_path):
    write(tmp_path)
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsplit\nsub-01\t3\ttrain\nsub-02\t4\ttest\n")
    data = read_data(tmp_path)
    assert (data.train, data.test) == (["sub-01"], ["sub-02"])
    assert any("sub-03" in note for note in data.notes)


def test_manual_labels_of_the_spinal_cord_toolbox(tmp_path):
    for subject, (image, label) in zip("12", make_scans(2).values(), strict=True):
        stem = f"sub-{subject}/anat/sub-{subject}_T2w"
        save_nifti(tmp_path / f"{stem}.nii.gz", image)
        save_nifti(tmp_path / "derivatives" / "labels" / f"{stem}_lesion-manual.nii.gz", label)
    data = read_data(tmp_path)
    assert (data.train, data.channel_names) == (["sub-1", "sub-2"], ("T2w",))
    assert data.sources["sub-1"].files()[1].name == "sub-1_T2w_lesion-manual.nii.gz"
    save_nifti(tmp_path / "derivatives" / "labels" / f"{stem}_seg-manual.nii.gz", label)
    with pytest.raises(ValueError, match=r"lesion-manual, seg-manual.*--label_column"):
        read_data(tmp_path)
    assert read_data(tmp_path, label_column="seg-manual").train == ["sub-2"]
