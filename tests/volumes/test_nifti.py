import gzip
import os
import struct
import tracemalloc
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from samed_hf.volumes import Volume, find_volumes, nifti, read_volume, write_labels, write_volume

SHAPE = (4, 5, 3)
SUFFIXES = [".nii", ".nii.gz"]


def oblique_affine(spacing=(0.8, 0.7, 3.0)):
    """Voxels turned by 20° about z and 10° about x, the first axis running to the left."""
    a, b = np.deg2rad(20), np.deg2rad(10)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-spacing[0], spacing[1], spacing[2]])
    affine[:3, 3] = (120.5, -80.25, -900.0)
    return affine


def save_scan(path, array, affine=None, *, sform_code=1, qform_code=1, scaling=None, image_class=nib.Nifti1Image):
    """Write a scan as a scanner's software would, by nibabel alone."""
    affine = oblique_affine() if affine is None else affine
    image = image_class(array, affine, dtype=array.dtype)
    image.set_sform(affine, code=sform_code)
    image.set_qform(affine, code=qform_code)
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_min"], image.header["cal_max"] = -125, 275
    if scaling is not None:
        image.header.set_slope_inter(*scaling)
    nib.save(image, path)
    return path


def int_scan(shape=SHAPE, dtype=np.int16):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def geometry(path):
    header = nib.load(path).header
    return (
        int(header["sform_code"]),
        int(header["qform_code"]),
        header.get_xyzt_units(),
        header.get_sform().tolist(),
        header.get_qform().tolist(),
    )


# ----------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_read_keeps_integers(tmp_path, suffix, dtype):
    volume = read_volume(save_scan(tmp_path / f"scan{suffix}", int_scan(dtype=dtype)))
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array, int_scan())
    np.testing.assert_allclose(volume.affine, oblique_affine(), atol=1e-4)
    assert volume.path == tmp_path / f"scan{suffix}"


def test_read_applies_the_scaling(tmp_path):
    path = save_scan(tmp_path / "scan.nii.gz", int_scan())
    image = nib.load(path)
    raw = bytearray(image.to_bytes())
    raw[112:120] = struct.pack("<ff", 2.0, -1024.0)  # scl_slope and scl_inter
    path.write_bytes(gzip.compress(bytes(raw)))
    volume = read_volume(path)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, int_scan() * 2.0 - 1024.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_read_makes_floats_single(tmp_path, dtype):
    array = (int_scan() / 3).astype(dtype)
    volume = read_volume(save_scan(tmp_path / "scan.nii", array))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, array.astype(np.float32))


def test_read_big_endian_and_nifti2(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.save(nib.Nifti1Image(int_scan(), oblique_affine(), header), tmp_path / "big.nii")
    save_scan(tmp_path / "two.nii.gz", int_scan(), image_class=nib.Nifti2Image)
    for name in ("big.nii", "two.nii.gz"):
        volume = read_volume(tmp_path / name)
        assert volume.array.dtype == np.dtype(np.int16)
        np.testing.assert_array_equal(volume.array, int_scan())
        write_volume(tmp_path / f"again_{name}", volume)
        again = nib.load(tmp_path / f"again_{name}")
        assert type(again) is type(nib.load(tmp_path / name))
        np.testing.assert_array_equal(np.asanyarray(again.dataobj), int_scan())


def test_read_squeezes_one_frame_and_labels_are_3d(tmp_path):
    scan = read_volume(save_scan(tmp_path / "scan.nii.gz", int_scan((*SHAPE, 1))))
    assert scan.array.shape == SHAPE
    write_labels(tmp_path / "labels.nii.gz", np.ones(SHAPE, np.int64), scan)
    assert nib.load(tmp_path / "labels.nii.gz").shape == SHAPE
    assert geometry(tmp_path / "labels.nii.gz") == geometry(tmp_path / "scan.nii.gz")


def test_read_converts_metres_and_writes_them_back(tmp_path):
    affine = oblique_affine()
    affine[:3] /= 1000
    path = save_scan(tmp_path / "scan.nii", int_scan(), affine)
    image = nib.load(path)
    image.header.set_xyzt_units("meter")
    nib.save(image, path)
    volume = read_volume(path)
    assert volume.spacing == pytest.approx((0.8, 0.7, 3.0), rel=1e-5)
    write_labels(tmp_path / "labels.nii", np.zeros(SHAPE, np.uint8), volume)
    assert geometry(tmp_path / "labels.nii") == geometry(path)


# ----------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("sform_code", "qform_code"), [(1, 1), (2, 1), (4, 0), (0, 1), (3, 2)])
def test_round_trip_keeps_the_geometry(tmp_path, suffix, sform_code, qform_code):
    path = save_scan(tmp_path / f"scan{suffix}", int_scan(), sform_code=sform_code, qform_code=qform_code)
    volume = read_volume(path)
    write_volume(tmp_path / f"again{suffix}", volume)
    write_labels(tmp_path / f"labels{suffix}", np.ones(SHAPE, np.uint8), volume)
    for name in ("again", "labels"):
        assert geometry(tmp_path / f"{name}{suffix}") == geometry(path)
    again = read_volume(tmp_path / f"again{suffix}")
    assert again.array.dtype == np.int16
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_array_equal(again.affine, volume.affine)


def test_round_trip_keeps_a_qform_that_differs_from_the_sform(tmp_path):
    path = save_scan(tmp_path / "scan.nii.gz", int_scan())
    image = nib.load(path)
    image.set_sform(oblique_affine() + 7 * np.eye(4, k=3), code="mni")
    nib.save(image, path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.affine, image.header.get_sform())
    write_labels(tmp_path / "labels.nii.gz", np.ones(SHAPE, np.uint8), volume)
    assert geometry(tmp_path / "labels.nii.gz") == geometry(path)


def test_write_without_codes_keeps_them_out(tmp_path):
    path = save_scan(tmp_path / "scan.nii", int_scan(), sform_code=0, qform_code=0)
    write_labels(tmp_path / "labels.nii", np.ones(SHAPE, np.uint8), read_volume(path))
    assert geometry(tmp_path / "labels.nii") == geometry(path)
    np.testing.assert_array_equal(nib.load(tmp_path / "labels.nii").affine, nib.load(path).affine)


@pytest.mark.parametrize(
    ("array", "stored"),
    [
        (int_scan() / 7, np.float64),
        ((int_scan() / 7).astype(np.float32), np.float32),
        ((int_scan() / 7).astype(np.float16), np.float32),
        (int_scan(dtype=np.int64), np.int32),
        (int_scan() > 5, np.uint8),
    ],
)
def test_write_without_a_header(tmp_path, array, stored):
    write_volume(tmp_path / "scan.nii.gz", Volume(array, oblique_affine()))
    image = nib.load(tmp_path / "scan.nii.gz")
    assert image.get_data_dtype() == stored
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.affine, oblique_affine(), atol=1e-4)
    np.testing.assert_allclose(image.header.get_qform(), oblique_affine(), atol=1e-3)
    np.testing.assert_array_equal(image.get_fdata(), array.astype(np.float64))


def test_write_on_another_grid_moves_both_matrices(tmp_path):
    scan = read_volume(save_scan(tmp_path / "scan.nii", int_scan(), sform_code=4, qform_code=2))
    affine = oblique_affine((1.6, 1.4, 3.0))
    write_volume(tmp_path / "half.nii", Volume(int_scan()[::2, ::2], affine, scan.header))
    header = nib.load(tmp_path / "half.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 2)
    np.testing.assert_allclose(header.get_sform(), affine, atol=1e-4)
    np.testing.assert_allclose(header.get_qform(), affine, atol=1e-3)
    assert header.get_zooms() == pytest.approx((1.6, 1.4, 3.0))


@pytest.mark.parametrize(
    ("highest", "stored"), [(0, np.uint8), (8, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16)]
)
def test_write_labels_types_and_header(tmp_path, highest, stored):
    scan = read_volume(save_scan(tmp_path / "scan.nii.gz", int_scan().astype(np.float32)))
    labels = np.zeros(SHAPE, np.int64)
    labels[1, 2, 0] = highest
    write_labels(tmp_path / "labels.nii.gz", labels, scan)
    raw = gzip.decompress((tmp_path / "labels.nii.gz").read_bytes())
    assert struct.unpack("<ff", raw[112:120]) == (1.0, 0.0)  # scl_slope and scl_inter
    assert struct.unpack("<ff", raw[124:132]) == (highest, 0.0)  # cal_max and cal_min
    written = read_volume(tmp_path / "labels.nii.gz")
    assert written.array.dtype == stored
    np.testing.assert_array_equal(written.array, labels)
    np.testing.assert_array_equal(written.affine, scan.affine)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 5, 4), np.uint8), r"shape \(3, 5, 4\), expected \(4, 5, 3\)"),
        (np.zeros(SHAPE, np.float32), "dtype float32, expected integers"),
        (np.full(SHAPE, -1), "from -1 to -1"),
        (np.full(SHAPE, 65536), "to 65536"),
    ],
)
def test_write_labels_refuses(tmp_path, array, words):
    with pytest.raises(ValueError, match=words):
        write_labels(tmp_path / "labels.nii.gz", array, Volume(np.zeros(SHAPE), np.eye(4)))
    assert list(tmp_path.iterdir()) == []


def test_write_refuses_other_suffixes_folders_and_types(tmp_path):
    volume = Volume(int_scan(), np.eye(4))
    with pytest.raises(ValueError, match=r"scan\.jpg cannot hold a volume, expected the suffix \.nii\.gz, \.nii"):
        write_volume(tmp_path / "scan.jpg", volume)
    with pytest.raises(ValueError, match=r"suffix than \.nii or \.nii\.gz"):
        nifti.write_nifti(tmp_path / "scan.mha", volume)
    with pytest.raises(FileNotFoundError, match="does not exist, expected a directory"):
        write_volume(tmp_path / "missing" / "scan.nii", volume)
    with pytest.raises(ValueError, match="complex128"):
        write_volume(tmp_path / "scan.nii", Volume(np.zeros(SHAPE, complex), np.eye(4)))
    with pytest.raises(ValueError, match="expected 32-bit integers"):
        write_volume(tmp_path / "scan.nii", Volume(np.full(SHAPE, 2**40), np.eye(4)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"scan{suffix}"
    write_volume(path, Volume(int_scan(), np.eye(4)))
    before = path.read_bytes()

    def half_a_file(image, filename):
        filename.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(nib, "save", half_a_file)
    with pytest.raises(OSError, match="no space left"):
        write_volume(path, Volume(int_scan() + 1, np.eye(4)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------------------------------------------------ errors


def test_read_names_a_missing_file_and_other_suffixes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.nii does not exist"):
        read_volume(tmp_path / "nowhere.nii")
    (tmp_path / "scan.dcm").write_bytes(b"DICM")
    with pytest.raises(ValueError, match=r"scan\.dcm has another suffix than \.nii\.gz or \.nii"):
        nifti.read_nifti(tmp_path / "scan.dcm")
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(ValueError, match="is a directory"):
        nifti.read_nifti(tmp_path / "folder.nii")
    with pytest.raises(FileNotFoundError, match=r"folder\.nii holds no scan"):
        read_volume(tmp_path / "folder.nii")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.05, 0.5, 0.99, 0.99999])
def test_read_refuses_a_truncated_file(tmp_path, suffix, kept):
    noise = np.random.default_rng(0).integers(-1000, 1000, (30, 30, 20)).astype(np.int16)
    path = save_scan(tmp_path / f"scan{suffix}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=rf"scan{suffix} cannot be read as NIfTI") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


def test_read_refuses_flipped_bits_in_a_compressed_file(tmp_path):
    noise = np.random.default_rng(0).integers(-1000, 1000, (30, 30, 20)).astype(np.int16)
    data = bytearray(save_scan(tmp_path / "scan.nii.gz", noise).read_bytes())
    for position in range(len(data) // 2, len(data), len(data) // 20):
        damaged = data.copy()
        damaged[position] ^= 0x10
        (tmp_path / "scan.nii.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match="cannot be read as NIfTI"):
            read_volume(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize("length", [0, 3, 100, 348, 2000])
def test_read_refuses_what_is_no_nifti(tmp_path, length):
    junk = np.random.default_rng(length).bytes(length)
    (tmp_path / "plain.nii").write_bytes(junk)
    (tmp_path / "zipped.nii.gz").write_bytes(gzip.compress(junk))
    (tmp_path / "not_zipped.nii.gz").write_bytes(junk)
    for name in ("plain.nii", "zipped.nii.gz", "not_zipped.nii.gz"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as NIfTI"):
            read_volume(tmp_path / name)


def error_of_reading(path):
    try:
        read_volume(path)
    except ValueError as error:
        return error


def test_read_refuses_damaged_headers_in_one_line(tmp_path):
    """Whatever the damage, the caller sees a ValueError that names the file, or a volume."""
    data = save_scan(tmp_path / "scan.nii", int_scan()).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.nii"
    for _ in range(300):
        damaged = bytearray(data)
        for position in rng.integers(0, 348, 3):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        error = error_of_reading(path)
        assert error is None or (str(path) in str(error) and "\n" not in str(error))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_read_refuses_a_header_that_claims_more_than_there_is(tmp_path, suffix, monkeypatch):
    """Before it asks for the memory."""
    raw = bytearray(save_scan(tmp_path / "scan.nii", int_scan()).read_bytes())
    raw[40:48] = struct.pack("<4h", 3, 20000, 20000, 20000)  # 16 TB
    (tmp_path / f"scan{suffix}").write_bytes(gzip.compress(raw) if suffix == ".nii.gz" else raw)
    monkeypatch.setattr(nifti.file_checks, "check_memory", lambda *args: pytest.fail("it was believed"))
    with pytest.raises(ValueError, match=r"its header claims 16000000000000 bytes of voxels, more than it holds"):
        read_volume(tmp_path / f"scan{suffix}")


def test_read_refuses_what_fits_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=100))
    with pytest.raises(ValueError, match=r"holds a volume of 0\.0 GB, but 0\.0 GB are free; crop"):
        read_volume(save_scan(tmp_path / "scan.nii", int_scan()))
    read_volume(save_scan(tmp_path / "scan.nii", int_scan((4, 5, 2))))  # 80 bytes


@pytest.mark.parametrize("offset", [0, 4, 348, 351, 1e30, -5, np.nan])
def test_read_refuses_voxels_in_the_header(tmp_path, offset):
    raw = bytearray(save_scan(tmp_path / "scan.nii", int_scan()).read_bytes())
    raw[108:112] = struct.pack("<f", offset)
    (tmp_path / "scan.nii").write_bytes(raw)
    with pytest.raises(ValueError, match="its voxels begin at byte"):
        read_volume(tmp_path / "scan.nii")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("scaling", [None, (2.0, -1024.0)])
def test_read_part_by_part_is_the_same(tmp_path, monkeypatch, suffix, scaling):
    monkeypatch.setattr(nifti, "_BLOCK", 7)  # 60 voxels: the last part has 4
    path = save_scan(tmp_path / f"scan{suffix}", int_scan())
    expected = int_scan()
    if scaling:
        raw = bytearray(nib.load(path).to_bytes())
        raw[112:120] = struct.pack("<ff", *scaling)
        path.write_bytes(gzip.compress(raw) if suffix == ".nii.gz" else raw)
        expected = expected * scaling[0] + scaling[1]
    np.testing.assert_array_equal(read_volume(path).array, expected)


def test_read_takes_no_more_memory_than_the_volume(tmp_path, monkeypatch):
    monkeypatch.setattr(nifti, "_BLOCK", 1 << 16)
    array = np.zeros((128, 128, 128), np.int16)
    array[5] = 7
    save_scan(tmp_path / "scan.nii.gz", array)
    tracemalloc.start()
    volume = read_volume(tmp_path / "scan.nii.gz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(volume.array, array)
    assert peak < array.nbytes * 1.3


def test_read_says_nothing_on_stderr(tmp_path, capfd):
    """nibabel would tell that it mends pixdim."""
    raw = bytearray(save_scan(tmp_path / "scan.nii", int_scan()).read_bytes())
    raw[76:80] = struct.pack("<f", 3.0)  # qfac, which is 1 or -1
    (tmp_path / "scan.nii").write_bytes(raw)
    read_volume(tmp_path / "scan.nii")
    assert capfd.readouterr() == ("", "")


def test_read_the_affine_of_a_file_without_codes_as_nibabel_does(tmp_path):
    path = save_scan(tmp_path / "scan.nii", int_scan(), np.diag([0.5, 2.0, 3.0, 1.0]), sform_code=0, qform_code=0)
    np.testing.assert_array_equal(read_volume(path).affine, nib.load(path).affine)
    # The middle of 4 × 5 × 3 voxels is the origin, and the first axis runs to the left.
    expected = [[-0.5, 0, 0, 0.75], [0, 2, 0, -4], [0, 0, 3, -3], [0, 0, 0, 1]]
    np.testing.assert_allclose(read_volume(path).affine, expected)


# ---------------------------------------------------------------------------------------------------------- channels


@pytest.mark.parametrize("shape", [(*SHAPE, 2), (*SHAPE, 1, 2), (*SHAPE, 2, 1)])
def test_read_channels(tmp_path, shape):
    array = int_scan((*SHAPE, 2))
    path = save_scan(tmp_path / "scan.nii.gz", array.reshape(shape))
    volume = read_volume(path, num_channels=2)
    assert (volume.grid, volume.num_channels) == (SHAPE, 2)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_array_equal(volume.affine, nib.load(path).affine)
    write_labels(tmp_path / "labels.nii.gz", np.ones(SHAPE, np.uint8), volume)
    assert nib.load(tmp_path / "labels.nii.gz").shape == SHAPE
    assert geometry(tmp_path / "labels.nii.gz") == geometry(path)
    write_volume(tmp_path / "again.nii.gz", volume)
    np.testing.assert_array_equal(read_volume(tmp_path / "again.nii.gz", num_channels=2).array, array)


def test_read_colours_as_channels(tmp_path):
    array = np.arange(180, dtype=np.uint8).reshape(*SHAPE, 3)
    colours = np.ascontiguousarray(array).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    nib.save(nib.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii")
    volume = read_volume(tmp_path / "rgb.nii", num_channels=3)
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array, array)


@pytest.mark.parametrize("shape", [SHAPE, (*SHAPE, 3), (*SHAPE, 1, 4), (*SHAPE, 2, 3), (4, 5)])
def test_read_refuses_another_number_of_channels(tmp_path, shape):
    path = save_scan(tmp_path / "scan.nii.gz", int_scan(shape))
    with pytest.raises(ValueError, match="expected 2 channels on its last axis"):
        read_volume(path, num_channels=2)


@pytest.mark.parametrize("shape", [(*SHAPE, 2), (*SHAPE, 1, 3), (*SHAPE, 2, 3), (4,)])
def test_read_refuses_other_numbers_of_frames(tmp_path, shape):
    path = save_scan(tmp_path / "scan.nii.gz", int_scan(shape))
    with pytest.raises(ValueError, match=r"expected (one|a) 3-D volume"):
        read_volume(path)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (1, 4, 5)])
def test_one_slice(tmp_path, shape):
    path = save_scan(tmp_path / "scan.nii.gz", int_scan(shape))
    volume = read_volume(path)
    assert volume.grid == (*shape, 1)[:3]
    assert (len(volume.notes) == 1) == (len(shape) == 2)
    write_labels(tmp_path / "labels.nii.gz", np.full(volume.grid, 3, np.uint8), volume)
    written = nib.load(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(written.get_fdata(), np.full(shape, 3))
    np.testing.assert_allclose(written.affine, nib.load(path).affine)
    np.testing.assert_array_equal(written.header.get_zooms(), nib.load(path).header.get_zooms())


def test_a_slice_without_a_thickness(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((4, 5))
    header["pixdim"] = [1, 0.5, 0.25, 0, 0, 0, 0, 0]
    header["qform_code"] = 1
    header["vox_offset"] = 352
    content = header.binaryblock + bytes(4) + np.arange(20, dtype=np.float32).tobytes()
    (tmp_path / "scan.nii").write_bytes(content)
    volume = read_volume(tmp_path / "scan.nii")
    assert volume.spacing == (0.5, 0.25, 1)
    assert volume.voxel_ml == pytest.approx(0.125 / 1000)


def test_read_refuses_complex_numbers(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.complex64), np.eye(4)), tmp_path / "complex.nii")
    with pytest.raises(ValueError, match="expected real numbers"):
        read_volume(tmp_path / "complex.nii")


def test_read_counts_voxels_that_are_not_finite(tmp_path):
    array = int_scan(dtype=np.float32)
    array[0, 0, :2] = np.nan
    array[1, 1, 1] = np.inf
    with pytest.raises(ValueError, match="NaN or infinity in 3 of 60 voxels"):
        read_volume(save_scan(tmp_path / "scan.nii.gz", array))


def test_read_refuses_an_affine_without_an_inverse(tmp_path):
    path = save_scan(tmp_path / "scan.nii", int_scan())
    raw = bytearray(path.read_bytes())
    raw[312:328] = raw[296:312]  # srow_y becomes a copy of srow_x
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"scan\.nii: affine is .*, expected an invertible"):
        read_volume(path)


# ------------------------------------------------------------------------------------------------------- file names


def test_find_volumes(tmp_path):
    for name in ("b.nii.gz", "a.nii", "C.NII.GZ", "notes.txt", "._a.nii", "sub/d.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    in_folder = [tmp_path / name for name in ("C.NII.GZ", "a.nii", "b.nii.gz")]
    assert find_volumes([tmp_path]) == in_folder
    assert find_volumes(str(tmp_path)) == in_folder
    assert find_volumes([tmp_path / "sub" / "d.nii", str(tmp_path), tmp_path / "a.nii"]) == [
        *in_folder,
        tmp_path / "sub" / "d.nii",
    ]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_volumes([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"notes\.txt has another suffix"):
        find_volumes([tmp_path / "notes.txt"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no"):
        find_volumes([tmp_path / "empty"])


ODD_NAMES = [
    "a b",
    "-dash",
    ".hidden",
    "two\nlines",
    "ümläut 中文",
    "100%s{x}",
    "x" * 245,
    os.fsdecode(b"latin-\xe9"),
    " ",
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_odd_names(tmp_path, name, suffix):
    path = tmp_path / f"{name}{suffix}"
    write_volume(path, Volume(int_scan(), np.eye(4)))
    np.testing.assert_array_equal(read_volume(path).array, int_scan())
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read as NIfTI") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()  # can be printed
