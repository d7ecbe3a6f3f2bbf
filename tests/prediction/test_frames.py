"""Prediction of scans over time and of stacks of images."""

import json

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image
from scipy import ndimage

from samed_hf.cli import main
from samed_hf.inference import Segmenter, segment_volume
from samed_hf.volumes import read_frames, read_volume

from ..dicom_files import write_image

COUNT = 4


def run(*argv) -> int:
    return main(["predict", *(str(part) for part in argv)])


@pytest.fixture(scope="module")
def segmenter(tiny_adapter):
    return Segmenter.load([tiny_adapter])


@pytest.fixture
def moving():
    """`(x, y, z, frames)`, of which the second frame is empty."""
    array = ndimage.gaussian_filter(np.random.default_rng(0).normal(50, 400, (30, 26, 3, COUNT)), (1, 1, 1, 0))
    array[..., 1] = -1000
    return array.astype(np.int16)


@pytest.fixture
def path(tmp_path, moving):
    image = nib.Nifti1Image(moving, np.diag([-1, -2, 3, 1.0]))
    image.header["pixdim"][4] = 0.04
    nib.save(image, tmp_path / "heart.nii.gz")
    return tmp_path / "heart.nii.gz"


def statistics_of(out, case="heart"):
    return json.loads((out / case / "statistics.json").read_text())


@pytest.mark.slow
def test_every_frame_is_a_scan_of_its_own(tiny_adapter, segmenter, path, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(tiny_adapter, path, "--output", out, "--per_class", "--probabilities") == 0
    image = nib.load(out / "heart.nii.gz")
    labels = np.asarray(image.dataobj)
    assert labels.shape == (30, 26, 3, COUNT)
    assert image.header["pixdim"][4] == pytest.approx(0.04)
    for index, frame in enumerate(read_frames(path).volumes):
        np.testing.assert_array_equal(labels[..., index], segment_volume(segmenter, frame).labels)
        softmax = nib.load(out / "heart" / f"probabilities_frame-{index:03d}.nii.gz").get_fdata()
        np.testing.assert_array_equal(softmax.argmax(axis=3), labels[..., index])
    np.testing.assert_array_equal(nib.load(out / "heart" / "disc.nii.gz").get_fdata(), labels == 1)
    content = statistics_of(out)
    assert (content["grid"]["shape"], content["grid"]["frames"]) == ([30, 26, 3], [0, 1, 2, 3])
    for number, name in ((1, "disc"), (2, "bar")):
        voxels = [int((labels[..., index] == number).sum()) for index in range(COUNT)]
        assert [frame["labels"][name]["voxels"] for frame in content["frames"]] == voxels
        assert [frame["labels"][name]["ml"] for frame in content["frames"]] == pytest.approx(np.array(voxels) * 0.006)
        assert (content["labels"][name]["voxels"], content["labels"][name]["frame"]) == (max(voxels), np.argmax(voxels))
    assert "4 frames" in " ".join(content["notes"])
    sizes = [frame["labels"]["disc"]["ml"] for frame in content["frames"]]
    assert f"disc {min(sizes):.3g} to {max(sizes):.3g} ml" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "image/svg+xml" in page
    assert "4 of 4 frames" in page
    with Image.open(out / "heart" / "preview.png") as preview:
        assert preview.width == 960


@pytest.mark.slow
def test_chosen_frames(tiny_adapter, path, tmp_path, capsys):
    out, one = tmp_path / "out", tmp_path / "one"
    assert run(tiny_adapter, path, "--output", out, "--frames", "2-3,0", "--no_report") == 0
    grid = statistics_of(out)["grid"]
    assert (grid["frames"], grid["frames_in_file"]) == ([0, 2, 3], COUNT)
    assert [frame["frame"] for frame in statistics_of(out)["frames"]] == [0, 2, 3]
    assert any("0, 2-3" in note for note in statistics_of(out)["notes"])
    chosen = nib.load(out / "heart.nii.gz").get_fdata()
    assert run(tiny_adapter, path, "--output", one, "--frames", "2", "--no_report", "--no_preview") == 0
    np.testing.assert_array_equal(nib.load(one / "heart.nii.gz").get_fdata(), chosen[..., 1])
    assert "frames" not in statistics_of(one)
    assert run(tiny_adapter, path, "--output", tmp_path / "no", "--frames", "4") == 2
    assert "heart.nii.gz has 4 frames, 0 to 3, but frame 4 is requested" in capsys.readouterr().err
    for wrong in ("", "3-1", "a", "-1", "1.5"):
        with pytest.raises(SystemExit):
            run(tiny_adapter, path, "--output", tmp_path / "no", f"--frames={wrong}")


@pytest.mark.slow
def test_clean_up_is_done_in_each_frame(tiny_adapter, path, tmp_path):
    assert run(tiny_adapter, path, "--output", tmp_path / "out", "--keep_largest", "all", "--no_report") == 0
    assert run(tiny_adapter, path, "--output", tmp_path / "raw", "--no_report", "--no_preview") == 0
    labels, raw = (nib.load(tmp_path / name / "heart.nii.gz").get_fdata() for name in ("out", "raw"))
    removed = 0
    for index in range(COUNT):
        for number in (1, 2):
            pieces, count = ndimage.label(raw[..., index] == number, np.ones((3, 3, 3)))
            sizes = np.bincount(pieces.ravel())[1:]
            assert (labels[..., index] == number).sum() == (sizes.max() if count else 0)
            removed += int(sizes.sum() - sizes.max()) if count else 0
    assert sum(statistics_of(tmp_path / "out")["removed"].values()) == removed > 0


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_frames_of_itk_files(tiny_adapter, moving, path, tmp_path, suffix):
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(moving.T), isVector=False)
    image.SetSpacing((1, 2, 3, 0.04))
    SimpleITK.WriteImage(image, str(tmp_path / f"heart{suffix}"))
    flags = ("--no_preview", "--no_report")
    assert run(tiny_adapter, tmp_path / f"heart{suffix}", "--output", tmp_path / "itk", *flags) == 0
    assert run(tiny_adapter, path, "--output", tmp_path / "nifti", *flags) == 0
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "itk" / f"heart{suffix}")))
    np.testing.assert_array_equal(labels.T, nib.load(tmp_path / "nifti" / "heart.nii.gz").get_fdata())


@pytest.mark.slow
def test_a_flat_scan_has_a_flat_result(tiny_adapter, moving, tmp_path):
    nib.save(nib.Nifti1Image(moving[:, :, 0, 0], np.eye(4)), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(moving[None, :, :, 0, 0], np.eye(4)), tmp_path / "b.nii.gz")
    assert run(tiny_adapter, tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "--output", tmp_path / "out") == 0
    assert nib.load(tmp_path / "out" / "a.nii.gz").shape == (30, 26)
    assert nib.load(tmp_path / "out" / "b.nii.gz").shape == (1, 30, 26)
    assert nib.load(tmp_path / "out" / "a.nii.gz").get_fdata().any()
    assert nib.load(tmp_path / "out" / "b.nii.gz").get_fdata().any()


@pytest.mark.slow
def test_pages_of_an_image(tiny_adapter, moving, tmp_path, capsys):
    stack = (moving[:, :, 0] // 8 + 128).astype(np.uint8).T  # (pages, rows, columns)
    pages = [Image.fromarray(page) for page in stack]
    description = '<OME><Image><Pixels PhysicalSizeX="2000" PhysicalSizeY="500"/></Image></OME>'
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], description=description)
    pages[2].save(tmp_path / "one.png")
    assert run(tiny_adapter, tmp_path / "a.tif", "--output", tmp_path / "out", "--per_class") == 0
    assert run(tiny_adapter, tmp_path / "one.png", "--output", tmp_path / "one") == 0
    labels = read_volume(tmp_path / "out" / "a.tif").array
    assert labels.shape == (30, 26, COUNT)
    with Image.open(tmp_path / "out" / "a.tif") as image:
        image.seek(2)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(tmp_path / "one" / "one.png")))
    content = statistics_of(tmp_path / "out", "a")
    row = content["frames"][2]["labels"]["disc"]
    assert row["mm2"] == row["pixels"]
    assert row["pixels"] == statistics_of(tmp_path / "one", "one")["labels"]["disc"]["pixels"]
    assert (tmp_path / "out" / "a" / "disc.tif").is_file()
    assert run(tiny_adapter, tmp_path / "a.tif", "--output", tmp_path / "some", "--frames", "1,3", "--no_report") == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "some" / "a.tif").array, labels[:, :, [1, 3]])
    capsys.readouterr()
    inputs = (tmp_path / "a.tif", tmp_path / "one.png")
    assert run(tiny_adapter, *inputs, "--output", tmp_path / "ml", "--min_island_ml", "1") == 2
    assert capsys.readouterr().err.count("is a 2-D image") == 2


@pytest.mark.slow
def test_chosen_frames_of_a_cine_refer_to_those_of_the_file(tiny_adapter, moving, tmp_path):
    write_image(tmp_path / "cine.dcm", (moving[:, :, 0] + 2000).clip(0).astype(np.uint16).T, modality="US")
    assert run(tiny_adapter, tmp_path / "cine.dcm", "--output", tmp_path / "out", "--frames", "1-2", "--no_report") == 0
    segmentation = pydicom.dcmread(tmp_path / "out" / "cine.dcm")
    groups = segmentation.PerFrameFunctionalGroupsSequence
    references = [group.DerivationImageSequence[0].SourceImageSequence[0] for group in groups]
    assert {reference.ReferencedFrameNumber for reference in references} == {2, 3}
