"""Hundreds of damaged files of each format: a volume, or one line; never another error, never a word on stderr."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from samed_hf.volumes import Volume, find_scans, read_scan, read_volume

from .test_images import save_deep
from .test_itk import save_itk
from .test_nifti import save_scan

COPIES = 120
NOISE = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)
GREY = np.random.default_rng(1).integers(0, 256, (9, 11)).astype(np.uint8)
COLOURS = np.random.default_rng(2).integers(0, 256, (9, 11, 3)).astype(np.uint8)


def save_picture(path, array, **options):
    picture = Image.fromarray(array)
    (picture.quantize(9) if options.pop("palette", False) else picture).save(path, **options)
    return path


FORMATS = {
    "plain.nii": lambda path: save_scan(path, NOISE),
    "packed.nii.gz": lambda path: save_scan(path, NOISE),
    "two.nii": lambda path: save_scan(path, NOISE, image_class=nib.Nifti2Image),
    "raw.nrrd": lambda path: save_itk(path, NOISE, np.eye(4)),
    "packed.nrrd": lambda path: save_itk(path, NOISE, np.eye(4), compressed=True),
    "raw.mha": lambda path: save_itk(path, NOISE, np.eye(4)),
    "packed.mha": lambda path: save_itk(path, NOISE, np.eye(4), compressed=True),
    "raw.mhd": lambda path: save_itk(path, NOISE, np.eye(4)),
    "packed.mhd": lambda path: save_itk(path, NOISE, np.eye(4), compressed=True),
    "grey.png": lambda path: save_picture(path, GREY.astype(np.uint16) * 257),
    "palette.png": lambda path: save_picture(path, COLOURS, palette=True),
    "deep.png": lambda path: save_deep(path, COLOURS.astype(np.uint16) * 257),
    "colour.jpg": lambda path: save_picture(path, COLOURS),
    "progressive.jpg": lambda path: save_picture(path, COLOURS, progressive=True),
    "raw.tif": lambda path: save_picture(path, COLOURS),
    "lzw.tif": lambda path: save_picture(path, COLOURS, compression="tiff_lzw"),
    "deep.tif": lambda path: save_deep(path, COLOURS.astype(np.uint16) * 257),
    "grey.bmp": lambda path: save_picture(path, GREY),
}


def damaged_copies(data, seed):
    """Copies of a file that are cut short, or have bytes lost, added or flipped, most in the first 400: the header."""
    rng = np.random.default_rng(seed)
    head = min(len(data), 400)
    for count in range(COPIES):
        copy = bytearray(data)
        place = int(rng.integers(len(copy)))
        match count % 6:
            case 0:
                copy = copy[:place]
            case 1:
                del copy[place : place + int(rng.integers(1, 30))]
            case 2:
                copy[place:place] = rng.bytes(int(rng.integers(1, 20)))
            case 3:
                for _ in range(int(rng.integers(1, 4))):
                    copy[int(rng.integers(head))] = int(rng.integers(256))
            case 4:
                copy[int(rng.integers(head))] = rng.choice(list(b"0123456789 -.=eLIST%\n"))
            case 5:
                copy[place] ^= 1 << int(rng.integers(8))
        yield bytes(copy)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_told_in_one_line(tmp_path, name, capfd):
    path = FORMATS[name](tmp_path / name)
    whole = read_volume(path).array
    refused = 0
    for count, copy in enumerate(damaged_copies(path.read_bytes(), seed=len(name))):
        path.write_bytes(copy)
        try:
            volume = read_volume(path)
        except (ValueError, FileNotFoundError) as error:
            message = str(error)
            assert str(path) in message, message
            assert "\n" not in message, message
            assert len(message) < len(str(path)) + 500, message
            refused += 1
        else:
            assert isinstance(volume, Volume)
            assert np.isfinite(volume.array).all()
            checked = name.startswith("packed") or name.endswith(".png")
            if checked and volume.array.shape == whole.shape and count % 6 == 5 and volume.array.dtype == whole.dtype:
                np.testing.assert_array_equal(volume.array, whole)  # a flipped bit never passes for anatomy
    assert refused > COPIES // 6
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["plain.nii", "packed.mha", "grey.png"])
def test_a_damaged_scan_leaves_the_others(tmp_path, name):
    suffix = name.split(".")[1]
    for case in "abc":
        FORMATS[name](tmp_path / f"{case}.{suffix}")
    (tmp_path / f"b.{suffix}").write_bytes(b"damaged")
    scans = find_scans(tmp_path)
    assert [scan.name for scan in scans] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="cannot be read"):
        read_scan(scans[1])
    np.testing.assert_array_equal(read_scan(scans[0]).array, read_scan(scans[2]).array)


@pytest.mark.parametrize("name", ["raw.mhd", "packed.mhd"])
def test_damaged_voxels_beside_a_header(tmp_path, name):
    path = FORMATS[name](tmp_path / name)
    voxels = next(file for file in tmp_path.iterdir() if file != path)
    data = voxels.read_bytes()
    for size in range(0, len(data), max(1, len(data) // 40)):
        voxels.write_bytes(data[:size])
        with pytest.raises(ValueError, match="cannot be read as MetaImage"):
            read_volume(path)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 1000, b"\xff" * 1000, b"NRRD0004\n", b"ObjectType = Image\n", b"\x1f\x8b"]
)
def test_what_is_none_of_it(tmp_path, content):
    for name in FORMATS:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} cannot be read as|the encoding ''"):
            read_volume(tmp_path / name)


def test_formats_under_others_names(tmp_path):
    """Each file under the suffix of every other format."""
    contents = {name: make(tmp_path / name).read_bytes() for name, make in FORMATS.items()}
    for suffix in (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".png", ".tif"):
        for name, content in contents.items():
            if suffix not in name and not (
                suffix in (".png", ".tif") and name[-4:] in (".png", ".jpg", ".tif", ".bmp")
            ):
                (tmp_path / f"other{suffix}").write_bytes(content)
                if suffix in (".mha", ".mhd") and name[-4:] in (".mha", ".mhd"):
                    SimpleITK.ReadImage(str(tmp_path / name))  # the same format, said once more
                    continue
                with pytest.raises(ValueError, match=rf"other{suffix} "):
                    read_volume(tmp_path / f"other{suffix}")
