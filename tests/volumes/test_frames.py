"""Scans of several frames: which axes are frames, and what is read of them."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from samed_hf.volumes import read_frames, read_volume, write_labels
from samed_hf.volumes.frames import choose_frames, split_shape

SHAPE, COUNT = (4, 3, 2), 5
AFFINE = np.diag([-1, -2, 3, 1.0])


def moving(channels=()):
    """Each frame and each channel has values of its own: `(x, y, z, frames[, channels])`."""
    shape = (*SHAPE, COUNT, *channels)
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def save_nifti(path, array):
    header = nib.Nifti1Header()
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header["pixdim"][4] = 0.04
    header.set_xyzt_units("mm", "sec")
    nib.save(nib.Nifti1Image(array, AFFINE, header), path)
    return path


def save_itk(path, array):
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T), isVector=False)
    image.SetSpacing((1, 2, 3, 0.04))
    image.SetOrigin((0, 0, 0, 7))
    SimpleITK.WriteImage(image, str(path))
    return path


def save_list(path, array, kind="list"):
    """As 3D Slicer writes a sequence: the frames are the first axis of the file."""
    fields = ["type: short", "dimension: 4", "space: left-posterior-superior", f"sizes: {COUNT} 4 3 2"]
    fields += [f"kinds: {kind} domain domain domain", "space directions: none (1,0,0) (0,2,0) (0,0,3)"]
    header = "\n".join(["NRRD0005", *fields, "encoding: raw", "endian: little", "", ""])
    path.write_bytes(header.encode() + np.moveaxis(array, 3, 0).tobytes(order="F"))
    return path


@pytest.mark.parametrize(
    ("shape", "num_channels", "grid", "frames", "channels"),
    [
        ((4, 3), 1, (4, 3, 1), 1, 1),
        ((4, 3, 2), 1, (4, 3, 2), 1, 1),
        ((1, 4, 3), 1, (1, 4, 3), 1, 1),
        ((4, 3, 2, 1), 1, (4, 3, 2), 1, 1),
        ((4, 3, 2, 5), 1, (4, 3, 2), 5, 1),
        ((4, 3, 1, 5), 1, (4, 3, 1), 5, 1),
        ((4, 3, 2, 1, 5), 1, (4, 3, 2), 5, 1),
        ((4, 3, 2, 2), 2, (4, 3, 2), 1, 2),
        ((4, 3, 2, 5, 2), 2, (4, 3, 2), 5, 2),
        ((4, 3, 2, 5), 2, None, 0, 0),
        ((4, 3, 2, 5, 2), 1, None, 0, 0),
        ((4, 3, 2), 2, None, 0, 0),
        ((4,), 1, None, 0, 0),
        ((4, 3, 0), 1, None, 0, 0),
    ],
)
def test_which_axes_are_frames(shape, num_channels, grid, frames, channels):
    if grid is None:
        with pytest.raises(ValueError, match=r"x\.nii holds an image of shape \(4,"):
            split_shape(Path("x.nii"), shape, num_channels)
    else:
        layout = split_shape(Path("x.nii"), shape, num_channels)
        assert (layout.grid, layout.frames, layout.channels) == (grid, frames, channels)


def test_chosen_frames():
    assert choose_frames(Path("x"), 5, None) == (0, 1, 2, 3, 4)
    assert choose_frames(Path("x"), 5, (4, 1, 4)) == (1, 4)
    with pytest.raises(ValueError, match="x has 5 frames, 0 to 4, but frame 5 is requested"):
        choose_frames(Path("x"), 5, (0, 5))
    with pytest.raises(ValueError, match="x has one frame, 0, but frame 1"):
        choose_frames(Path("x"), 1, (1,))


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("a.nii", save_nifti),
        ("a.nii.gz", save_nifti),
        ("a.mha", save_itk),
        ("a.mhd", save_itk),
        ("a.nrrd", save_itk),
        ("list.nrrd", save_list),
    ],
)
def test_frames_are_read_alone_and_written_together(tmp_path, name, save):
    path = save(tmp_path / name, moving())
    for requested, expected in ((None, range(COUNT)), ((3, 1), (1, 3))):
        frames = read_frames(path, frames=requested)
        assert (frames.count, frames.indices) == (COUNT, tuple(expected))
        volumes = list(frames.volumes)
        for index, volume in zip(expected, volumes, strict=True):
            np.testing.assert_array_equal(volume.array, moving()[..., index])
            assert volume.array.dtype == np.int16
            np.testing.assert_array_equal(volume.affine, AFFINE)
    np.testing.assert_array_equal(read_volume(path, frame=2).array, moving()[..., 2])
    with pytest.raises(ValueError, match=f"{name} holds 5 frames, expected one 3-D volume"):
        read_volume(path)
    labels = (moving() % 3).astype(np.uint8)
    written = tmp_path / f"labels{path.suffixes[0]}"
    write_labels(written, labels, volumes[0])
    for index, volume in enumerate(read_frames(written).volumes):
        np.testing.assert_array_equal(volume.array, labels[..., index])
    if name.startswith("a.nii"):
        image = nib.load(tmp_path / "labels.nii")
        assert image.header.get_zooms() == pytest.approx((1, 2, 3, 0.04))
        assert image.header.get_xyzt_units() == ("mm", "sec")
    elif name.startswith("a."):
        image = SimpleITK.ReadImage(str(written))
        assert image.GetSpacing() == pytest.approx((1, 2, 3, 0.04))
        assert image.GetOrigin() == pytest.approx((0, 0, 0, 7))


def test_frames_of_channels(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", moving((2,)))
    for requested in (None, (4,)):
        frames = read_frames(path, num_channels=2, frames=requested)
        for index, volume in zip(frames.indices, frames.volumes, strict=True):
            np.testing.assert_array_equal(volume.array, moving((2,))[:, :, :, index])
    five = read_frames(save_nifti(tmp_path / "b.nii", moving()), num_channels=COUNT)
    np.testing.assert_array_equal(five.only(path).array, moving())


def test_damage_in_a_frame_names_the_file(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", moving())
    content = bytearray(path.read_bytes())
    content[-6] ^= 255  # of the checksum
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.nii\.gz cannot be read as NIfTI \(CRC"):
        list(read_frames(path).volumes)
    array = moving().astype(np.float32)
    array[0, 0, 0, 3] = np.nan
    volumes = read_frames(save_nifti(tmp_path / "b.nii", array)).volumes
    for _ in range(3):
        next(volumes)
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 24 voxels"):
        next(volumes)


def test_one_frame_is_in_memory_at_a_time(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr("samed_hf.volumes.file_checks.check_memory", lambda path, num_bytes: taken.append(num_bytes))
    for name in ("a.nii", "a.nii.gz"):
        assert len(list(read_frames(save_nifti(tmp_path / name, moving())).volumes)) == COUNT
    assert taken == [24 * 2] * 2 * COUNT


def test_pages_are_frames_of_one_volume(tmp_path):
    pages = [Image.fromarray(np.full((3, 4), index, np.uint8)) for index in range(COUNT)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    frames = read_frames(tmp_path / "a.tif", frames=(0, 3))
    (volume,) = frames.volumes
    assert (frames.count, frames.indices, volume.grid) == (COUNT, (0, 3), (4, 3, 2))
    np.testing.assert_array_equal(volume.array[0, 0], [0, 3])
    assert read_volume(tmp_path / "a.tif", frame=4).array.max() == 4


def test_a_header_of_more_frames_than_the_file_holds(tmp_path):
    path = save_nifti(tmp_path / "a.nii", moving())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="more than it holds"):
        read_frames(path)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match="1 bytes too early"):
        list(read_frames(tmp_path / "a.nii.gz").volumes)


@pytest.mark.parametrize("is_attached", [True, False])
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_a_time_axis_of_nrrd_without_a_direction(tmp_path, is_attached, encoding):
    """ITK refuses it: its space has three dimensions."""
    fields = ["type: short", "dimension: 4", "space: left-posterior-superior", f"sizes: 4 3 2 {COUNT}"]
    fields += ["kinds: domain domain domain time", "space directions: (1,0,0) (0,2,0) (0,0,3) none"]
    content = moving().tobytes(order="F")
    content = gzip.compress(content) if encoding == "gzip" else content
    header = "\n".join(["NRRD0005", *fields, f"encoding: {encoding}", "endian: little"])
    path = tmp_path / ("a.nrrd" if is_attached else "a.nhdr")
    if is_attached:
        path.write_bytes(f"{header}\n\n".encode() + content)
    else:
        path.write_text(f"{header}\ndata file: voxels\n")
        (tmp_path / "voxels").write_bytes(content)
    frames = read_frames(path)
    assert frames.count == COUNT
    for index, volume in enumerate(frames.volumes):
        np.testing.assert_array_equal(volume.array, moving()[..., index])
        np.testing.assert_array_equal(volume.affine, AFFINE)


def test_a_slice_of_nrrd_in_space_is_refused(tmp_path):
    fields = "type: uchar\ndimension: 2\nspace: left-posterior-superior\nsizes: 4 3\nspace directions: (1,0,0) (0,1,0)"
    (tmp_path / "a.nrrd").write_bytes(f"NRRD0005\n{fields}\nencoding: raw\n\n".encode() + bytes(12))
    with pytest.raises(ValueError, match=r"a\.nrrd has fewer axes than its space"):
        read_volume(tmp_path / "a.nrrd")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.nrrd"])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2)])
def test_colours_are_channels_or_grey_but_no_frames(tmp_path, name, shape):
    array = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    if name == "a.nii.gz":
        colors = np.dtype([(name, np.uint8) for name in "RGB"])
        nib.save(nib.Nifti1Image(array.view(colors)[..., 0], np.eye(4)), tmp_path / name)
    else:
        axes = (*reversed(range(len(shape))), len(shape))
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose(axes)), isVector=True)
        SimpleITK.WriteImage(image, str(tmp_path / name))
    volume = read_volume(tmp_path / name, num_channels=3)
    np.testing.assert_array_equal(volume.array.reshape(*shape, 3), array)
    frames = read_frames(tmp_path / name)
    grey = next(frames.volumes)
    assert frames.count == 1
    np.testing.assert_allclose(grey.array.reshape(shape), array @ (0.299, 0.587, 0.114), atol=0.51)
    assert "its colours were converted to grey" in grey.notes
