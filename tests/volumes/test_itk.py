import gzip
import os

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from samed_hf.volumes import Volume, find_scans, read_volume, reorient, write_labels, write_volume
from samed_hf.volumes.itk import ItkHeader

from .test_geometry import affine_of, by_place
from .test_nifti import ODD_NAMES, SHAPE, SUFFIXES, int_scan, oblique_affine

ITK = [".nrrd", ".mha", ".mhd"]
GRIDS = {
    **{orientation: affine_of(orientation) for orientation in ("RAS", "LPS", "LAS", "PIR", "ASL")},
    "oblique": oblique_affine((0.7123, 0.8456, 3.3)),
}


def itk_image(array, affine):
    """An image as ITK's users make it, without the package."""
    turned = np.ascontiguousarray(array.transpose(2, 1, 0, *range(3, array.ndim)))
    image = SimpleITK.GetImageFromArray(turned, isVector=array.ndim == 4)
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:, 3].tolist())
    image.SetDirection((lps[:, :3] / spacing).ravel().tolist())
    return image


def save_itk(path, array, affine, compressed=False):
    SimpleITK.WriteImage(itk_image(array, affine), str(path), compressed)
    return path


def itk_geometry(path):
    image = SimpleITK.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


def assert_same_grid(one, other):
    for mine, its in zip(itk_geometry(one), itk_geometry(other), strict=True):
        np.testing.assert_allclose(mine, its, rtol=0, atol=1e-12 if one.suffix == ".nrrd" else 0)


# ------------------------------------------------------------------------------------------------- geometry is kept


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("suffix", [*ITK, *SUFFIXES])
def test_labels_open_on_the_grid_of_the_scan(tmp_path, grid, suffix):
    """As SimpleITK sees both files, to the last bit."""
    path = save_itk(tmp_path / f"scan{suffix}", int_scan(), GRIDS[grid])
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, int_scan())
    np.testing.assert_allclose(volume.affine, GRIDS[grid], atol=1e-4 if suffix in SUFFIXES else 1e-12)
    assert grid in (volume.orientation, "oblique")
    labels = int_scan() % 5
    write_labels(tmp_path / f"labels{suffix}", labels, volume)
    assert_same_grid(tmp_path / f"labels{suffix}", path)
    written = SimpleITK.ReadImage(str(tmp_path / f"labels{suffix}"))
    assert written.GetPixelID() == SimpleITK.sitkUInt8
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(written).T, labels)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("suffix", ITK)
def test_nibabel_sees_the_labels_where_the_scan_is(tmp_path, grid, suffix):
    """A scan of one format, its labels as NIfTI."""
    volume = read_volume(save_itk(tmp_path / f"scan{suffix}", int_scan(), GRIDS[grid]))
    write_labels(tmp_path / "labels.nii.gz", int_scan(), volume)
    image = nib.load(tmp_path / "labels.nii.gz")
    np.testing.assert_allclose(image.affine, GRIDS[grid], atol=1e-4)
    np.testing.assert_allclose(image.get_qform(), GRIDS[grid], atol=1e-3)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    np.testing.assert_array_equal(np.asarray(image.dataobj), int_scan())


@pytest.mark.parametrize("suffix", ITK)
def test_the_first_voxel_and_its_neighbours_lie_where_itk_says(tmp_path, suffix):
    path = save_itk(tmp_path / f"scan{suffix}", int_scan(), oblique_affine())
    image, volume = SimpleITK.ReadImage(str(path)), read_volume(path)
    for index in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 4, 2)):
        left, posterior, superior = image.TransformIndexToPhysicalPoint(index)
        place = volume.affine[:3, :3] @ index + volume.affine[:3, 3]
        np.testing.assert_allclose(place, (-left, -posterior, superior), atol=1e-9)


def test_one_anatomy_in_all_formats_and_orientations(tmp_path):
    first = Volume(int_scan(), affine_of("LPS"))
    for orientation in ("RAS", "LPS", "LAS", "PIR", "ASL"):
        turned = reorient(first, orientation)
        for suffix in [*ITK, *SUFFIXES]:
            write_volume(tmp_path / f"{orientation}{suffix}", turned)
            again = read_volume(tmp_path / f"{orientation}{suffix}")
            assert again.orientation == orientation
            assert by_place(again) == by_place(first)


@pytest.mark.parametrize("number", range(20))
def test_nrrd_directions_are_kept(tmp_path, number):
    rng = np.random.default_rng(number)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.3, 5, 3)
    affine[:3, 3] = rng.uniform(-500, 500, 3)
    path = save_itk(tmp_path / "scan.nrrd", int_scan(), affine)
    write_volume(tmp_path / "again.nrrd", read_volume(path))
    assert_same_grid(tmp_path / "again.nrrd", path)


def test_nrrd_of_another_space(tmp_path):
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 4 5 3\n"
        "space directions: (0.5,0,0) (0,0.75,0) (0,0,3)\nkinds: domain domain domain\nendian: little\n"
        "encoding: raw\nspace origin: (10,-20,30)\n\n"
    )
    (tmp_path / "scan.nrrd").write_bytes(header.encode() + int_scan().tobytes(order="F"))
    volume = read_volume(tmp_path / "scan.nrrd")
    assert volume.orientation == "RAS"
    np.testing.assert_array_equal(volume.affine, affine_of("RAS"))
    np.testing.assert_array_equal(volume.array, int_scan())
    write_labels(tmp_path / "labels.nrrd", np.ones(SHAPE, np.uint8), volume)
    assert_same_grid(tmp_path / "labels.nrrd", tmp_path / "scan.nrrd")


def test_a_volume_that_left_its_header_behind_is_written_by_its_affine(tmp_path):
    for suffix in ITK:
        scan = read_volume(save_itk(tmp_path / f"scan{suffix}", int_scan(), oblique_affine()))
        moved = scan.affine + 5 * np.eye(4, k=3)
        write_volume(tmp_path / f"moved{suffix}", Volume(scan.array, moved, scan.header))
        np.testing.assert_allclose(read_volume(tmp_path / f"moved{suffix}").affine, moved, atol=1e-12)


def test_header_and_affine_agree():
    for affine in GRIDS.values():
        np.testing.assert_allclose(ItkHeader.from_affine(affine).affine, affine, atol=1e-12)


# ---------------------------------------------------------------------------------------------------- voxels are kept


@pytest.mark.parametrize("suffix", ITK)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("compressed", [False, True])
def test_read_keeps_types(tmp_path, suffix, dtype, compressed):
    path = save_itk(tmp_path / f"scan{suffix}", int_scan(dtype=dtype), np.eye(4), compressed)
    volume = read_volume(path)
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array, int_scan(dtype=dtype))
    write_volume(tmp_path / f"again{suffix}", volume)
    again = read_volume(tmp_path / f"again{suffix}")
    assert again.array.dtype == dtype
    np.testing.assert_array_equal(again.array, volume.array)


@pytest.mark.parametrize("suffix", ITK)
def test_doubles_become_single_and_half_and_bool_are_stored(tmp_path, suffix):
    volume = read_volume(save_itk(tmp_path / f"scan{suffix}", int_scan() / 3, np.eye(4)))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, (int_scan() / 3).astype(np.float32))
    for array in (int_scan() > 5, int_scan().astype(np.float16)):
        write_volume(tmp_path / f"scan{suffix}", Volume(array, np.eye(4)))
        np.testing.assert_array_equal(read_volume(tmp_path / f"scan{suffix}").array, array)
    with pytest.raises(ValueError, match="complex128"):
        write_volume(tmp_path / f"scan{suffix}", Volume(np.zeros(SHAPE, complex), np.eye(4)))


@pytest.mark.parametrize("suffix", ITK)
def test_channels(tmp_path, suffix):
    array = int_scan((*SHAPE, 3))
    path = save_itk(tmp_path / f"scan{suffix}", array, oblique_affine())
    volume = read_volume(path, num_channels=3)
    np.testing.assert_array_equal(volume.array, array)
    write_labels(tmp_path / f"labels{suffix}", int_scan(), volume)
    assert_same_grid(tmp_path / f"labels{suffix}", path)
    write_volume(tmp_path / f"again{suffix}", volume)
    np.testing.assert_array_equal(read_volume(tmp_path / f"again{suffix}", num_channels=3).array, array)
    assert_same_grid(tmp_path / f"again{suffix}", path)
    with pytest.raises(ValueError, match="holds 3 frames, expected one 3-D volume"):
        read_volume(path)
    with pytest.raises(ValueError, match=r"holds an image of shape \(4, 5, 3, 3\), expected 2 channels"):
        read_volume(path, num_channels=2)


@pytest.mark.parametrize(
    "kinds", ["domain domain domain vector", "list domain domain domain", "domain domain list space"]
)
def test_kinds_of_nrrd_axes(tmp_path, kinds):
    array = int_scan((*SHAPE, 2))
    axis = next(axis for axis, kind in enumerate(kinds.split()) if kind in ("vector", "list"))
    in_file = np.moveaxis(array, -1, axis)
    directions = ["(0.5,0,0)", "(0,0.75,0)", "(0,0,3)"]
    directions.insert(axis, "none")
    header = (
        f"NRRD0004\ntype: short\ndimension: 4\nspace: LPS\nsizes: {' '.join(map(str, in_file.shape))}\n"
        f"space directions: {' '.join(directions)}\nkinds: {kinds}\nendian: big\nencoding: raw\n\n"
    )
    path = tmp_path / "scan.nrrd"
    path.write_bytes(header.encode() + in_file.astype(">i2").tobytes(order="F"))
    volume = read_volume(path, num_channels=2)
    assert volume.array.dtype == np.dtype(np.int16)
    np.testing.assert_array_equal(volume.array, array)
    image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    np.testing.assert_array_equal(volume.array, image.transpose(2, 1, 0, 3))
    write_labels(tmp_path / "labels.nrrd", int_scan(), volume)
    assert_same_grid(tmp_path / "labels.nrrd", path)


@pytest.mark.parametrize("key", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
def test_big_endian_metaimage(tmp_path, key):
    path = save_itk(tmp_path / "scan.mha", int_scan(), np.eye(4))
    header, local, _ = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    header = header.replace(b"BinaryDataByteOrderMSB = False", f"{key} = True".encode())
    path.write_bytes(header + local + int_scan().astype(">i2").tobytes(order="F"))
    np.testing.assert_array_equal(read_volume(path).array, int_scan())
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).T, int_scan())


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("length", [59, 61])
def test_read_refuses_other_sizes_than_the_header_says(tmp_path, suffix, compressed, length):
    path = save_itk(tmp_path / f"scan{suffix}", np.zeros((length, 1, 1), np.uint8), np.eye(4), compressed)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(f" {length} 1 1".encode(), b" 60 1 1"))
    with pytest.raises(ValueError, match="its header claims 60 bytes of voxels"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_frames_of_a_fourth_axis(tmp_path, suffix):
    frames = int_scan((*SHAPE, 2))
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(frames.T), isVector=False)
    image.SetSpacing((0.5, 0.75, 3.0, 9.0))
    SimpleITK.WriteImage(image, str(tmp_path / f"scan{suffix}"))
    volume = read_volume(tmp_path / f"scan{suffix}", num_channels=2)
    np.testing.assert_array_equal(volume.array, frames)
    assert volume.spacing == (0.5, 0.75, 3.0)
    write_labels(tmp_path / f"labels{suffix}", np.ones(SHAPE, np.uint8), volume)
    assert read_volume(tmp_path / f"labels{suffix}").spacing == (0.5, 0.75, 3.0)
    with pytest.raises(ValueError, match="holds 2 frames, expected one 3-D volume"):
        read_volume(tmp_path / f"scan{suffix}")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd", ".nhdr"])
def test_one_slice(tmp_path, suffix):
    image = SimpleITK.GetImageFromArray(int_scan((4, 5)))
    image.SetSpacing((0.5, 0.75))
    image.SetOrigin((3, -4))
    SimpleITK.WriteImage(image, str(tmp_path / f"scan{suffix}"))
    volume = read_volume(tmp_path / f"scan{suffix}")
    np.testing.assert_array_equal(volume.array[:, :, 0].T, int_scan((4, 5)))
    np.testing.assert_array_equal(volume.affine, [[-0.5, 0, 0, -3], [0, -0.75, 0, 4], [0, 0, 1, 0], [0, 0, 0, 1]])
    suffix = ".nrrd" if suffix == ".nhdr" else suffix
    write_labels(tmp_path / f"labels{suffix}", np.ones((5, 4, 1), np.uint8), volume)
    written = SimpleITK.ReadImage(str(tmp_path / f"labels{suffix}"))
    assert written.GetSize() == (5, 4)
    assert written.GetSpacing() == (0.5, 0.75)
    assert written.GetOrigin() == (3, -4)


@pytest.mark.parametrize("suffix", ITK)
def test_read_refuses_complex_numbers_and_nan(tmp_path, suffix):
    array = int_scan(dtype=np.float32)
    array[0, 0, :2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in 2 of 60 voxels"):
        read_volume(save_itk(tmp_path / f"scan{suffix}", array, np.eye(4)))
    if suffix == ".nrrd":
        save_itk(tmp_path / "complex.nrrd", int_scan().astype(np.complex64), np.eye(4))
        with pytest.raises(ValueError, match="expected real numbers"):
            read_volume(tmp_path / "complex.nrrd")


# --------------------------------------------------------------------------------------------------------- whole files


@pytest.mark.parametrize("suffix", ITK)
def test_files_are_written_compressed_and_alone(tmp_path, suffix):
    write_labels(tmp_path / f"labels{suffix}", np.zeros((50, 50, 50), int), Volume(np.zeros((50, 50, 50)), np.eye(4)))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted({f"labels{suffix}", "labels.zraw" if suffix == ".mhd" else f"labels{suffix}"})
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 5000


@pytest.mark.parametrize("suffix", ITK)
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"scan{suffix}"
    write_volume(path, Volume(int_scan(), np.eye(4)))
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    write = SimpleITK.WriteImage

    def half_a_file(image, name, compressed):
        write(image, name, compressed)
        voxels = name.replace(".mhd", ".zraw")
        os.truncate(voxels, os.path.getsize(voxels) - 9)

    monkeypatch.setattr(SimpleITK, "WriteImage", half_a_file)
    with pytest.raises(OSError, match=rf"scan{suffix} could not be written completely; is the disk full"):
        write_volume(path, Volume(int_scan() + 1, np.eye(4)))
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_mhd_and_its_voxels_are_moved_together(tmp_path):
    volume = Volume(int_scan(), np.eye(4))
    (tmp_path / "scan.mhd").mkdir()  # the name is taken
    (tmp_path / "scan.zraw").write_bytes(b"someone's")
    with pytest.raises(OSError, match="directory"):
        write_volume(tmp_path / "scan.mhd", volume)
    assert (tmp_path / "scan.zraw").read_bytes() == b"someone's"
    (tmp_path / "scan.zraw").unlink()
    with pytest.raises(OSError, match="directory"):
        write_volume(tmp_path / "scan.mhd", volume)
    assert [path.name for path in tmp_path.iterdir()] == ["scan.mhd"]


def test_mhd_with_its_voxels_elsewhere(tmp_path):
    path = save_itk(tmp_path / "scan.mhd", int_scan(), np.eye(4))
    (tmp_path / "data").mkdir()
    (tmp_path / "scan.raw").rename(tmp_path / "data" / "a b.raw")
    with pytest.raises(FileNotFoundError, match=r"scan\.mhd refers to the data file scan\.raw, which does not exist"):
        read_volume(path)
    path.write_text(path.read_text().replace("scan.raw", "data/a b.raw"))
    np.testing.assert_array_equal(read_volume(path).array, int_scan())


META_REFUSED = [
    ("NDims = 3", "NDims = 3\nHeaderSize = 10", "its header claims 120 bytes"),
    ("NDims = 3", "NDims = 3\nHeaderSize = -2", "cannot be read"),
    ("NDims = 3", "NDims = 3\nHeaderSize = all", "HeaderSize all"),
    ("BinaryData = True", "BinaryData = False", "cannot be read"),
    ("ElementDataFile = LOCAL", "ElementDataFile = LIST\na.raw\nb.raw", "a.raw, which does not exist"),
    ("ElementDataFile = LOCAL", "ElementDataFile = LIST", "which does not exist"),
    ("ElementDataFile = LOCAL", "ElementDataFile = LIST 7\nscan.mha", "LIST 7"),
    ("ElementDataFile = LOCAL", "ElementDataFile = slice%03d.raw 1 3 1", "slice001.raw, which does not exist"),
    ("ElementDataFile = LOCAL", "ElementDataFile = slice%03d.raw 1 3 0", "the pattern slice%03d.raw 1 3 0"),
    ("ElementDataFile = LOCAL", "ElementDataFile = slice%n%s%s.raw 1 3 1", "the pattern slice%n"),
    ("NDims = 3", "NDims = 100", "NDims = 100"),
    ("NDims = 3", "NDims = -1", "NDims = -1"),
    ("NDims = 3", "NDims = 3\nNDims : 1000000", "NDims = 1000000"),
    ("DimSize = 4 5 3", "DimSize = 60000 60000 60000", "its header claims 432000000000000 bytes"),
]
NRRD_REFUSED = [
    ("encoding: raw", "encoding: hex", "the encoding 'hex', expected raw, gzip or ascii"),
    ("encoding: raw", "encoding: ascii", "cannot be read"),
    ("encoding: raw", "encoding: raw\nbyte skip: 3", "its header claims 120 bytes"),
    ("encoding: raw", "encoding: raw\nbyte skip: -7", "byte skip -7"),
    ("encoding: gzip", "encoding: gzip\nbyte skip: -1", "byte skip -1"),
    ("encoding: raw", "encoding: raw\ndata file: LIST", "which does not exist"),
    ("encoding: raw", "encoding: raw\ndata file: nowhere.raw", "nowhere.raw, which does not exist"),
    ("encoding: raw", "encoding: raw\ndata file: %n%n 1 3 1", "the pattern %n%n"),
    ("sizes: 4 5 3", "sizes: 60000 60000 60000", "its header claims 432000000000000 bytes"),
    ("type: short", "type: block", "cannot be read as NRRD"),
]


@pytest.mark.parametrize(
    ("suffix", "old", "new", "words"),
    [(".mha", *case) for case in META_REFUSED] + [(".nrrd", *case) for case in NRRD_REFUSED],
)
def test_read_refuses_broken_headers(tmp_path, suffix, old, new, words):
    path = save_itk(tmp_path / f"scan{suffix}", int_scan(), np.eye(4), compressed="gzip" in old)
    raw = path.read_bytes()
    assert old.encode() in raw
    path.write_bytes(raw.replace(old.encode(), new.encode()))
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------- all legal forms of a header

NRRD_HEADER = (
    "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 5 3\n"
    "space directions: (0.5,0,0) (0,0.75,0) (0,0,3)\nkinds: domain domain domain\nendian: little\n"
    "space origin: (10,-20,30)\n"
)
META_HEADER = (
    "ObjectType = Image\nNDims = 3\nDimSize = 4 5 3\nElementType = MET_SHORT\nElementSpacing = 0.5 0.75 3\n"
    "Offset = 10 -20 30\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nBinaryDataByteOrderMSB = False\n"
)
AS_BYTES = int_scan().tobytes(order="F")
AS_TEXT = " ".join(map(str, int_scan().ravel(order="F"))).encode()


def write_slices(directory, order=(7, 8, 9)):
    for index, number in enumerate(order):
        (directory / f"s{number:03d}.raw").write_bytes(int_scan()[:, :, index].tobytes(order="F"))


def write_voxels(directory):
    (directory / "voxels.raw").write_bytes(AS_BYTES)
    (directory / "packed.raw.gz").write_bytes(gzip.compress(AS_BYTES))
    (directory / "skipped.raw").write_bytes(b"a header of another format" + AS_BYTES)
    (directory / "lines.raw").write_bytes(b"two\nlines\n" + AS_BYTES)
    (directory / "voxels.txt").write_bytes(AS_TEXT + b"\n")
    write_slices(directory)


LEGAL = {
    "list.nrrd": NRRD_HEADER + "encoding: raw\ndata file: LIST\ns007.raw\ns008.raw\ns009.raw\n",
    "list.nhdr": NRRD_HEADER + "encoding: raw\ndata file: LIST 2\ns007.raw\ns008.raw\ns009.raw\n",
    "pattern.nhdr": NRRD_HEADER + "encoding: raw\ndata file: s%03d.raw 7 9 1\n",
    "detached.nhdr": NRRD_HEADER + "encoding: raw\ndata file: voxels.raw\n",
    "packed.nhdr": NRRD_HEADER + "encoding: gzip\ndata file: packed.raw.gz\n",
    "from the end.nhdr": NRRD_HEADER + "encoding: raw\nbyte skip: -1\ndata file: skipped.raw\n",
    "bytes.nhdr": NRRD_HEADER + "encoding: raw\nbyte skip: 26\ndata file: skipped.raw\n",
    "lines.nhdr": NRRD_HEADER + "encoding: raw\nline skip: 2\ndata file: lines.raw\n",
    "text.nhdr": NRRD_HEADER + "encoding: ascii\ndata file: voxels.txt\n",
    "text.nrrd": NRRD_HEADER + "encoding: text\n\n" + AS_TEXT.decode(),
    "list.mhd": META_HEADER + "ElementDataFile = LIST\ns007.raw\ns008.raw\ns009.raw\n",
    "list of planes.mhd": META_HEADER + "ElementDataFile = LIST 2\ns007.raw\ns008.raw\ns009.raw\n",
    "pattern.mhd": META_HEADER + "ElementDataFile = s%03d.raw 7 9 1\n",
    "from the end.mhd": META_HEADER + "HeaderSize = -1\nElementDataFile = skipped.raw\n",
    "bytes.mhd": META_HEADER + "HeaderSize = 26\nElementDataFile = skipped.raw\n",
    "text.mhd": META_HEADER + "BinaryData = False\nElementDataFile = voxels.txt\n",
    "text.mha": META_HEADER + "BinaryData = False\nElementDataFile = LOCAL\n" + AS_TEXT.decode() + "\n",
    "zlib.mhd": META_HEADER + "CompressedData = True\nElementDataFile = packed.raw.gz\n",
}


@pytest.mark.parametrize("name", LEGAL)
def test_legal_forms(tmp_path, name):
    write_voxels(tmp_path)
    (tmp_path / name).write_text(LEGAL[name])
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.array, int_scan())
    assert volume.spacing == (0.5, 0.75, 3.0)
    np.testing.assert_array_equal(volume.affine[:3, 3], (-10, 20, 30))
    (scan,) = find_scans(tmp_path / name)
    assert (scan.name, scan.kind) == (name.split(".")[0], "itk")
    assert scan.suffix == {".nhdr": ".nrrd"}.get((tmp_path / name).suffix, (tmp_path / name).suffix)
    write_labels(tmp_path / f"labels{scan.suffix}", int_scan() % 5, volume)
    assert_same_grid(tmp_path / f"labels{scan.suffix}", tmp_path / name)


def check_damaged(path, may_differ):
    try:
        volume = read_volume(path)
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
    else:
        assert may_differ or np.array_equal(volume.array, int_scan())
        return
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.slow
@pytest.mark.parametrize("name", LEGAL)
@pytest.mark.parametrize("damage", ["short", "long", "missing", "noise"])
def test_legal_forms_with_damaged_voxels(tmp_path, name, damage, capfd):
    """Never a volume with other voxels, whatever happens to the data files."""
    for file in ("voxels.raw", "packed.raw.gz", "skipped.raw", "lines.raw", "voxels.txt", "s008.raw", name):
        write_voxels(tmp_path)
        (tmp_path / name).write_text(LEGAL[name])
        content = (tmp_path / file).read_bytes()
        if file == name and damage != "short":
            continue
        if damage == "missing":
            (tmp_path / file).unlink()
        elif damage == "short":
            (tmp_path / file).write_bytes(content[: -3 if file == name else -9])
        elif damage == "long":
            (tmp_path / file).write_bytes(content + b" 1 1")
        elif file not in ("voxels.raw", "skipped.raw", "lines.raw", "s008.raw"):  # raw data have no checksum
            (tmp_path / file).write_bytes(content[:40] + b"\xff\x01?x" + content[44:])
        # At the end of a file, what a header skips and what it counts can't be told apart.
        check_damaged(tmp_path / name, "from the end" in name and damage in ("short", "long"))
    assert capfd.readouterr() == ("", "")


def test_a_directory_of_nhdr_files_is_one_scan_each(tmp_path):
    write_voxels(tmp_path)
    (tmp_path / "voxels.txt").unlink()
    (tmp_path / "a.nhdr").write_text(LEGAL["detached.nhdr"])
    (tmp_path / "b.nhdr").write_text(LEGAL["pattern.nhdr"])
    assert [scan.name for scan in find_scans(tmp_path)] == ["a", "b"]


def test_nrrd_with_its_voxels_beside(tmp_path):
    raw = save_itk(tmp_path / "scan.nrrd", int_scan(), np.eye(4)).read_bytes()
    header, _, voxels = raw.partition(b"\n\n")
    (tmp_path / "scan.nrrd").write_bytes(header + b"\ndata file: voxels.raw\n\n")
    (tmp_path / "voxels.raw").write_bytes(voxels)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.nrrd").array, int_scan())


@pytest.mark.parametrize("suffix", ITK)
def test_damage_is_one_line(tmp_path, suffix, capfd):
    """MetaIO alone returns uninitialised memory for compressed voxels with flipped bits, and prints to stderr."""
    noise = np.random.default_rng(0).integers(-1000, 1000, (20, 20, 10)).astype(np.int16)
    path = save_itk(tmp_path / f"scan{suffix}", noise, np.eye(4), compressed=True)
    voxels = path.with_suffix(".zraw") if suffix == ".mhd" else path
    data = voxels.read_bytes()
    for position in range(len(data) - len(data) // 2, len(data), len(data) // 20):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        for damaged in (flipped, data[:position]):
            voxels.write_bytes(damaged)
            with pytest.raises(ValueError, match=rf"scan{suffix} cannot be read as \w+ \(") as caught:
                read_volume(path)
            assert "\n" not in str(caught.value)
    header = path.read_bytes().replace(b"DimSize", b"DimSise").replace(b"dimension", b"dimemsion")
    path.write_bytes(header)
    with pytest.raises(ValueError, match="cannot be read as") as caught:
        read_volume(path)
    assert "0x" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
@pytest.mark.parametrize("suffix", ITK)
def test_odd_names(tmp_path, name, suffix):
    path = tmp_path / f"{name}{suffix}"
    volume = Volume(int_scan(), np.eye(4))
    refused = name.startswith("latin") or (suffix == ".mhd" and name in ("two\nlines", "100%s{x}", " "))
    if refused:
        with pytest.raises(ValueError, match="has a name that") as caught:
            write_volume(path, volume)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []
    else:
        write_volume(path, volume)
        np.testing.assert_array_equal(read_volume(path).array, int_scan())
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"cannot be read as|has a name that") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


def test_suffixes_in_capitals(tmp_path):
    for suffix in ITK:
        write_volume(tmp_path / f"scan{suffix.upper()}", Volume(int_scan(), np.eye(4)))
        np.testing.assert_array_equal(read_volume(tmp_path / f"scan{suffix.upper()}").array, int_scan())
