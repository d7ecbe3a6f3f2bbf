import os
import shutil

import numpy as np
import pytest
from PIL import Image

from samed_hf.volumes import ScanFile, Volume, case_name, find_scans, read_scan, read_volume, write_labels, write_volume
from samed_hf.volumes.discovery import search_scans

from ..dicom_files import stored_scan, write_enhanced, write_series
from .test_nifti import ODD_NAMES, SHAPE, int_scan, oblique_affine

VOLUMES = [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"]


def save(path, array=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, Volume(int_scan() if array is None else array, oblique_affine()))
    return path


def save_picture(path, coloured=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((3, 4, 3) if coloured else (3, 4), np.uint8)).save(path)
    return path


def find(*paths, **options):
    """The scans' names, and the notes."""
    found, notes = search_scans(paths, **options)
    return [scan.name for scan in found], notes


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("x/img0001.nii.gz", "img0001"),
        ("img.0001.nii", "img.0001"),
        ("A.NII.GZ", "A"),
        ("case0001", "case0001"),
        ("a.nrrd", "a"),
        ("a.b.mha", "a.b"),
        ("a.MHD", "a"),
        ("IM0001.dcm", "IM0001"),
        ("1.2.840.113619.2", "1.2.840.113619.2"),
        ("photo.JPEG", "photo"),
        ("a.tiff", "a"),
        ("a.gz", "a.gz"),
        (".nii.gz", ".nii.gz"),
    ],
)
def test_case_name(path, name):
    assert case_name(path) == name


@pytest.mark.parametrize("suffix", VOLUMES)
def test_a_file(tmp_path, suffix):
    path = save(tmp_path / f"scan{suffix.upper()}")
    kind = "nifti" if "nii" in suffix else "itk"
    assert find_scans(path) == [ScanFile("scan", path, kind, (), suffix)]
    for given in (path, str(path), find_scans(str(path))[0]):
        volume = read_scan(given)
        np.testing.assert_array_equal(volume.array, int_scan())
        assert volume.path == path


def test_a_picture(tmp_path):
    path = save_picture(tmp_path / "photo.tif")
    assert find_scans(path) == [ScanFile("photo", path, "image", (), ".png")]
    assert read_scan(find_scans(path)[0], num_channels=3).array.shape == (4, 3, 1, 3)


def test_a_folder_gives_its_own_files_in_order(tmp_path):
    for name in ("b.nrrd", "a.nii.gz", "c.mhd", "sub/d.nii", ".hidden.nii"):
        save(tmp_path / name)
    for name in ("notes.txt", "z.csv", "Readme"):
        (tmp_path / name).write_text("no scan")
    names, said = find(tmp_path)
    assert names == ["a", "b", "c"]
    assert said == [
        f"left out 1 directories with scans in {tmp_path}, e.g. sub: name them",
        "skipped 3 files of another format (Readme, notes.txt, z.csv)",
    ]


def test_each_once(tmp_path, monkeypatch):
    path = save(tmp_path / "a" / "scan.nii")
    monkeypatch.chdir(tmp_path)
    for same in ("a/scan.nii", "a/../a/scan.nii", "a"):
        assert len(find_scans([path, same])) == 1


def test_pictures_beside_volumes_are_no_scans(tmp_path):
    save_picture(tmp_path / "b.png")
    save_picture(tmp_path / "a.jpg")
    assert find(tmp_path) == (["a", "b"], [])
    save(tmp_path / "c.nii")
    assert find(tmp_path) == (
        ["c"],
        ["skipped 2 images beside scans, taken for screenshots (a.jpg, b.png)"],
    )
    assert find(tmp_path, tmp_path / "b.png")[0] == ["b", "c"]
    (tmp_path / "c.nii").unlink()
    write_series(tmp_path / "series")
    assert find(tmp_path) == (
        ["series"],
        ["skipped 2 images beside scans, taken for screenshots (a.jpg, b.png)"],
    )


def test_a_folder_without_scans_gives_those_of_the_folders_in_it(tmp_path):
    for name in ("p2/scan.nii", "p1/scan.nii", "p3/deep/scan.nii"):
        save(tmp_path / name)
    (tmp_path / "list.csv").touch()
    assert find(tmp_path) == (["p1_scan", "p2_scan"], ["skipped 1 file of another format (list.csv)"])


def test_refuses_what_is_not_there_or_no_scan(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist, expected a scan or a directory of scans"):
        find_scans(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no scan, expected NIfTI, NRRD, MetaImage, DICOM or image"):
        find_scans(tmp_path)
    (tmp_path / "notes.txt").write_text("no scan " * 100)
    (tmp_path / "Makefile").write_text("all:")
    with pytest.raises(FileNotFoundError, match=r"holds no scan, .*; it holds 2 files of another format"):
        find_scans(tmp_path)
    for name in ("notes.txt", "Makefile"):
        for function in (find_scans, read_volume):
            with pytest.raises(ValueError, match=rf"{name} is of no known format, expected NIfTI"):
                function(tmp_path / name)


def test_odd_files_in_a_folder(tmp_path):
    save(tmp_path / "scan.nii")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "empty").touch()
    (tmp_path / "folder.nii").mkdir()
    assert find(tmp_path) == (["scan"], ["skipped 1 file of another format (empty)"])


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
def test_odd_names(tmp_path, name):
    (tmp_path / "in").mkdir()
    path = save(tmp_path / "in" / f"{name}.nii")
    assert [scan.name for scan in find_scans(path)] == [name]
    if name != ".hidden":
        assert [scan.name for scan in find_scans(tmp_path / "in")] == [name]
    (tmp_path / "in" / name).write_text("foreign")
    with pytest.raises(ValueError, match="is of no known format") as caught:
        find_scans(tmp_path / "in" / name)
    assert "\n" not in str(caught.value)
    if name != ".hidden":
        (said,) = find(tmp_path / "in")[1]
        assert "\n" not in said
        said.encode()


# ------------------------------------------------------------------------------------------------------- equal names


def test_the_folder_goes_before_equal_names(tmp_path):
    for name in ("a/scan.nii.gz", "b/scan.nii.gz", "b/other.nii.gz"):
        save(tmp_path / name)
    assert find(tmp_path / "b", tmp_path / "a")[0] == ["a_scan", "other", "b_scan"]


def test_formats_go_behind_equal_names_in_a_folder(tmp_path):
    for name in ("scan.nii.gz", "scan.nii", "scan.mha", "b.mha"):
        save(tmp_path / name)
    assert find(tmp_path)[0] == ["b", "scan_mha", "scan_nii", "scan_nii_gz"]


def test_skipped_files_of_each_suffix_are_named(tmp_path):
    save(tmp_path / "scan.nii")
    for name in ("a.mgz", "b.mgz", "c.mgz", "d.gif"):
        (tmp_path / name).write_bytes(b"x")
    _, (note,) = search_scans([tmp_path])
    assert "4 files" in note
    assert "a.mgz" in note
    assert "d.gif" in note


def test_images_of_equal_names_are_scans_of_their_own(tmp_path):
    for value, name in enumerate(("a.png", "a.jpg", "a.tif")):
        Image.fromarray(np.full((5, 6), 40 * value, np.uint8)).save(tmp_path / name)
    for num_channels in (1, 3):
        scans = find_scans(tmp_path, num_channels=num_channels)
        assert [scan.name for scan in scans] == ["a_jpg", "a_png", "a_tif"]
        assert [read_scan(scan).array.max() for scan in scans] == [40, 0, 80]


def test_equal_names_in_folders_of_equal_names(tmp_path):
    for name in ("1/img/scan.nii", "2/img/scan.nii", "2/other/scan.nii"):
        save(tmp_path / name)
    folders = (tmp_path / "1" / "img", tmp_path / "2" / "img", tmp_path / "2" / "other")
    assert find(*folders)[0] == ["1_img_scan", "2_img_scan", "other_scan"]


def test_no_two_names_differ_by_their_capitals_alone(tmp_path):
    for name in ("scan.nii", "SCAN.nii", "x/scan.nii", "x_scan.nii"):
        save(tmp_path / name)
    names = find(tmp_path, tmp_path / "x")[0]
    assert len(names) == len({name.casefold() for name in names}) == 4
    assert names == find(tmp_path / "x", tmp_path)[0]


# ------------------------------------------------------------------------------------------------------------ channels


def test_channels_of_nnunet(tmp_path):
    arrays = [int_scan() + 100 * number for number in range(2)]
    for case in ("b", "a"):
        for number, array in enumerate(arrays):
            save(tmp_path / f"{case}_{number:04d}.nii.gz", array)
    first, second = find_scans(tmp_path, num_channels=2)
    assert (first.name, second.name) == ("a", "b")
    assert first.path == tmp_path / "a_0000.nii.gz"
    assert [path.name for path in first.files] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    volume = read_scan(first, num_channels=2)
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, np.stack(arrays, axis=-1))
    write_labels(tmp_path / "labels.nii.gz", int_scan(), volume)
    np.testing.assert_array_equal(read_volume(tmp_path / "labels.nii.gz").affine, volume.affine)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images_of_one_channel_each_stay_images(tmp_path, suffix):
    for index in range(4):
        Image.fromarray(np.full((5, 6), 40 * index, np.uint8)).save(tmp_path / f"a_{index:04d}{suffix}")
    (scan,) = find_scans(tmp_path, num_channels=4)
    volume = read_scan(scan, num_channels=4)
    assert (scan.name, volume.array.shape, volume.is_image, volume.is_calibrated) == ("a", (6, 5, 1, 4), True, False)
    assert volume.array[0, 0, 0].tolist() == [0, 40, 80, 120]


def test_incomplete_channels_are_told_when_they_are_read(tmp_path):
    for name in ("a_0000.nii", "a_0001.nii", "a_0002.nii", "b_0000.nii", "b_0002.nii"):
        save(tmp_path / name)
    whole, broken = find_scans(tmp_path, num_channels=3)
    assert read_scan(whole, num_channels=3).num_channels == 3
    with pytest.raises(
        ValueError, match="is one of channels 0000, 0002, expected 0000 to 0002; complete the files of b"
    ):
        read_scan(broken, num_channels=3)


def test_channels_on_several_grids(tmp_path):
    save(tmp_path / "a_0000.nii")
    write_volume(tmp_path / "a_0001.nii", Volume(int_scan(), oblique_affine((0.8, 0.7, 3.5))))
    with pytest.raises(ValueError, match="channels of one scan, but differ in their grid: the same voxel is"):
        read_scan(find_scans(tmp_path, num_channels=2)[0], num_channels=2)


def test_one_file_of_all_channels(tmp_path):
    save(tmp_path / "a_0000.nii", int_scan((*SHAPE, 2)))
    (scan,) = find_scans(tmp_path, num_channels=2)
    assert (scan.name, scan.files) == ("a", ())
    assert read_scan(scan, num_channels=2).num_channels == 2


def test_with_one_channel_its_number_goes_from_the_name(tmp_path):
    for name in ("a_0000.nii.gz", "b_0000.nii.gz"):
        save(tmp_path / name)
    assert find(tmp_path)[0] == ["a", "b"]
    save(tmp_path / "c.nii.gz")
    assert find(tmp_path)[0] == ["a_0000", "b_0000", "c"]
    save(tmp_path / "time" / "a_0000.nii.gz")
    save(tmp_path / "time" / "a_0001.nii.gz")
    assert find(tmp_path / "time")[0] == ["a_0000", "a_0001"]


def test_numbered_frames_are_no_channels(tmp_path):
    for number in range(5):
        save_picture(tmp_path / "many" / f"frame_{number:04d}.png", coloured=True)
    assert len(find(tmp_path / "many", num_channels=3)[0]) == 5
    for number in range(3):
        save_picture(tmp_path / "colour" / f"frame_{number:04d}.png", coloured=True)
        save_picture(tmp_path / "grey" / f"frame_{number:04d}.png")
    assert len(find(tmp_path / "colour", num_channels=3)[0]) == 3
    (scan,) = find_scans(tmp_path / "grey", num_channels=3)
    assert read_scan(scan, num_channels=3).array.shape == (4, 3, 1, 3)


# --------------------------------------------------------------------------------------------------------------- DICOM


def test_a_dicom_folder(tmp_path):
    files = write_series(tmp_path / "patient")
    (tmp_path / "patient" / "DICOMDIR").write_text("ignored")
    (scan,), notes = search_scans([tmp_path / "patient"])
    assert notes == ["skipped 1 file of another format (DICOMDIR)"]
    assert scan == ScanFile("patient", tmp_path / "patient", "dicom", tuple(files), ".dcm")
    for given in (scan, tmp_path / "patient", tmp_path):
        np.testing.assert_array_equal(read_scan(given).array, stored_scan().astype(int) - 1024)
    with pytest.raises(ValueError, match="patient holds 1 image, expected 2"):
        read_scan(scan, num_channels=2)


def test_dicom_files_without_suffix_below_other_scans(tmp_path):
    save(tmp_path / "a.nii")
    write_series(tmp_path / "study" / "deep", name="IM{}".format, preamble=False)
    (tmp_path / "study" / "notes.txt").write_text("foreign")
    assert find(tmp_path) == (["a", "deep"], ["skipped 1 file of another format (notes.txt)"])


def test_several_series_in_a_folder(tmp_path):
    write_series(tmp_path / "p", name="a{}".format, series="one", number=4)
    write_series(tmp_path / "p", name="b{}".format, series="two", number=2)
    found = find_scans(tmp_path / "p")
    assert [scan.name for scan in found] == ["p_series-4", "p_series-2"]
    assert found[0].path == tmp_path / "p" / "a0"
    with pytest.raises(ValueError, match=r"p holds 2 scans \(p_series-4, p_series-2\), expected one"):
        read_volume(tmp_path / "p")
    shutil.rmtree(tmp_path / "p")
    write_series(tmp_path / "p", name="a{}".format, series="one", number=1)
    write_series(tmp_path / "p", name="b{}".format, series="two", number=1)
    names = find(tmp_path / "p")[0]
    assert sorted(names) == ["p_series-1", "p_series-2"]


def test_series_in_folders_of_equal_names(tmp_path):
    for patient in ("p1", "p2"):
        write_series(tmp_path / patient / "CT", series=patient)
    assert find(tmp_path)[0] == ["p1_CT", "p2_CT"]
    assert find(tmp_path, tmp_path / "p1", tmp_path / "p2" / "CT")[0] == ["p1_CT", "p2_CT"]


def test_dicom_files_named_one_by_one(tmp_path, monkeypatch):
    files = write_series(tmp_path / "p", name="IM{}".format)
    (scan,) = find_scans(files)
    assert (scan.name, scan.files) == ("p", tuple(files))
    monkeypatch.chdir(tmp_path)
    (scan,) = find_scans([*files[:2], *(os.path.relpath(file) for file in files[2:]), files[0]])
    assert len(scan.files) == len(files)


def test_multi_frame_files(tmp_path):
    path = write_enhanced(tmp_path / "e" / "image.dcm")
    write_enhanced(tmp_path / "e" / "sub" / "image.dcm")
    assert find(path)[0] == ["image"]
    assert find(tmp_path / "e" / "sub")[0] == ["sub"]
    assert find_scans(path)[0].path == path
    np.testing.assert_array_equal(read_volume(path).array, stored_scan())


def test_a_damaged_dicom_file_leaves_the_others(tmp_path):
    save(tmp_path / "a.nii")
    (tmp_path / "b.dcm").write_bytes(b"damaged" * 100)
    good, bad = find_scans([tmp_path / "a.nii", tmp_path / "b.dcm"])
    assert read_scan(good).grid == SHAPE
    with pytest.raises(ValueError, match=r"b\.dcm") as caught:
        read_scan(bad)
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------------- writing


def test_labels_of_a_dicom_series_in_all_formats(tmp_path):
    write_series(tmp_path / "p")
    scan = read_volume(tmp_path / "p")
    labels = (np.arange(np.prod(scan.grid)).reshape(scan.grid) % 3).astype(np.uint8)
    for suffix in VOLUMES:
        write_labels(tmp_path / f"labels{suffix}", labels, scan)
        again = read_volume(tmp_path / f"labels{suffix}")
        np.testing.assert_array_equal(again.array, labels)
        np.testing.assert_allclose(again.affine, scan.affine, atol=1e-4 if "nii" in suffix else 1e-9)
    write_labels(tmp_path / "labels.dcm", labels, scan, names={1: "liver", 2: "spleen"})
    assert (tmp_path / "labels.dcm").read_bytes()[128:132] == b"DICM"
    with pytest.raises(ValueError, match=r"names is None.*labels\.dcm"):
        write_labels(tmp_path / "labels.dcm", labels, scan)


def test_labels_of_any_scan_in_any_format(tmp_path):
    for suffix in VOLUMES:
        scan = read_volume(save(tmp_path / f"scan{suffix}"))
        for other in VOLUMES:
            write_labels(tmp_path / f"labels{other}", int_scan(), scan)
            again = read_volume(tmp_path / f"labels{other}")
            np.testing.assert_array_equal(again.array, int_scan())
            np.testing.assert_allclose(again.affine, scan.affine, atol=1e-4)


@pytest.mark.parametrize("suffix", [*VOLUMES, ".png", ".dcm"])
def test_write_labels_refuses_before_it_writes(tmp_path, suffix):
    like = Volume(np.zeros((4, 3, 1)), np.eye(4))
    for array, words in (
        (np.zeros((3, 4, 1), int), r"shape \(3, 4, 1\), expected \(4, 3, 1\)"),
        (np.zeros((4, 3, 1)), "dtype float64, expected integers"),
        (np.full((4, 3, 1), -1), "from -1 to -1"),
        (np.full((4, 3, 1), 65536), "to 65536"),
    ):
        with pytest.raises(ValueError, match=words):
            write_labels(tmp_path / f"labels{suffix}", array, like, names={1: "a"})
    if suffix != ".dcm":  # which names the scan that it belongs to first
        with pytest.raises(FileNotFoundError, match="missing does not exist, expected a directory"):
            write_labels(tmp_path / "missing" / f"labels{suffix}", np.zeros((4, 3, 1), int), like)
    assert list(tmp_path.iterdir()) == []


def test_write_refuses_other_formats(tmp_path):
    like = Volume(np.zeros(SHAPE), np.eye(4))
    for name in ("labels.txt", "labels", "labels.jpg"):
        with pytest.raises(ValueError, match=rf"{name} cannot hold a label map, expected the suffix .nii.gz"):
            write_labels(tmp_path / name, np.zeros(SHAPE, int), like)
        with pytest.raises(ValueError, match=rf"{name} cannot hold a volume, expected the suffix .nii.gz"):
            write_volume(tmp_path / name, like)
    assert list(tmp_path.iterdir()) == []
