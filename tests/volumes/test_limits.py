"""Limits of inputs, and headers that claim more than they allow, or more than the file holds."""

import re
import struct
import tracemalloc
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from samed_hf import SamedImageProcessor
from samed_hf.cli import main
from samed_hf.inference import Segmenter, segment_volume
from samed_hf.volumes import InputLimits, Volume, read_volume, write_volume
from samed_hf.volumes.dicom.pixels import _frame_size
from samed_hf.volumes.image_pages import _claimed_bytes

from ..conftest import TINY_SIZE
from ..damage import png
from ..dicom_files import write_series

SCAN = np.random.default_rng(0).integers(0, 99, (6, 5, 4)).astype(np.int16)
WIDE = asdict(InputLimits.local())


def refusal(path, **limits):
    """The error of reading a file, for which little memory was taken."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            read_volume(path, limits=InputLimits(**WIDE | limits))
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    return str(caught.value)


def test_environment_variables(monkeypatch):
    monkeypatch.setenv("SAMED_MAX_SLICES", "7")
    for limits in (InputLimits.local(), InputLimits.served()):
        assert limits.slices == 7
    for wrong in ("many", "-1", "0", "1.5"):
        monkeypatch.setenv("SAMED_MAX_SLICES", wrong)
        with pytest.raises(ValueError, match=f"SAMED_MAX_SLICES is '{wrong}'"):
            InputLimits.served()


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha", "mhd"])
def test_volumes(tmp_path, suffix):
    write_volume(path := tmp_path / f"scan.{suffix}", Volume(SCAN, np.eye(4)))
    for name, most in (("side", 5), ("voxels", 119), ("bytes", 239)):
        assert f"SAMED_MAX_{name.upper()}" in refusal(path, **{name: most})
    exact = InputLimits(side=6, pixels=1, slices=1, voxels=120, bytes=240 + 352 * suffix.startswith("nii"))
    np.testing.assert_array_equal(read_volume(path, limits=exact).array, SCAN)


def test_dicom(tmp_path):
    write_series(tmp_path, SCAN.astype(np.uint16))
    for name, most in (("side", 5), ("pixels", 29), ("slices", 3)):
        assert f"SAMED_MAX_{name.upper()}" in refusal(tmp_path, **{name: most})
    limits = InputLimits(**WIDE | {"side": 6, "pixels": 30, "slices": 4})
    assert read_volume(tmp_path, limits=limits).grid == (6, 5, 4)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_images(tmp_path, suffix):
    Image.fromarray(SCAN[:, :, 0].astype(np.uint8)).save(path := tmp_path / f"image.{suffix}")
    for name, most in (("side", 5), ("pixels", 29)):
        assert f"SAMED_MAX_{name.upper()}" in refusal(path, **{name: most})
    assert read_volume(path, limits=InputLimits(**WIDE | {"side": 6, "pixels": 30})).grid == (5, 6, 1)


def test_slices_of_a_scan_across_any_axis(tiny_model):
    """Which axis has the slices is known when the scan is cut."""
    volume = Volume(SCAN, np.eye(4))
    segmenter = Segmenter.of(tiny_model, SamedImageProcessor(image_size=TINY_SIZE))
    for limits in ({"slices": 3}, {"pixels": 29}):
        with pytest.raises(ValueError, match=f"SAMED_MAX_{next(iter(limits)).upper()}"):
            segment_volume(segmenter, volume, limits=replace(InputLimits.local(), **limits))


def test_the_command_line(tiny_adapter, tmp_path, monkeypatch, capfd):
    write_volume(tmp_path / "scan.nii", Volume(SCAN, np.eye(4)))
    for name, most in (("SLICES", 3), ("PIXELS", 29), ("SIDE", 5), ("VOXELS", 119), ("BYTES", 591)):
        scan, output = (str(tmp_path / file) for file in ("scan.nii", name))
        with monkeypatch.context() as context:
            context.setenv(f"SAMED_MAX_{name}", str(most))
            assert main(["predict", str(tiny_adapter), scan, "--output", output]) == 2
        assert f"SAMED_MAX_{name}" in capfd.readouterr().err


@pytest.mark.parametrize(("depth", "color"), [(1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (4, 3), (8, 4), (16, 6)])
def test_a_png_that_claims_more_than_it_holds(tmp_path, depth, color):
    (path := tmp_path / "bomb.png").write_bytes(png(12_000, 12_000, depth, color))
    assert len(path.read_bytes()) < 100
    assert "more than it holds" in refusal(path)


def test_compressed_zeros_are_no_claim(tmp_path):
    """The most compressible images there are can be read."""
    for mode in ("1", "L", "P", "RGB", "RGBA", "I;16", "LA"):
        Image.new(mode, (1500, 1500)).save(path := tmp_path / "zeros.png", compress_level=9)
        assert read_volume(path).array.shape[:2] == (1500, 1500)
    kinds = {0: (1, 2, 4, 8, 16), 2: (8, 16), 4: (8, 16), 6: (8, 16)}
    for color, depth in ((color, depth) for color, depths in kinds.items() for depth in depths):
        bits = depth * {0: 1, 2: 3, 4: 2, 6: 4}[color]
        path.write_bytes(png(1500, 1500, depth, color, bytes((-(-1500 * bits // 8) + 1) * 1500)))
        with Image.open(path) as image:
            assert _claimed_bytes(image) <= path.stat().st_size
    for mode in ("1", "L", "RGB", "I;16"):
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            Image.new(mode, (1500, 1500)).save(path := tmp_path / "zeros.tif", compression=compression)
            assert read_volume(path).array.shape[:2] == (1500, 1500)
        if mode != "I;16":
            Image.new(mode, (1500, 1500)).save(path := tmp_path / "zeros.bmp")
            assert read_volume(path).array.shape[:2] == (1500, 1500)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_tiff_that_claims_more_than_it_holds(tmp_path, compression):
    Image.new("RGB", (1111, 3)).save(path := tmp_path / "bomb.tif", compression=compression)
    content = path.read_bytes()
    for tag in (256, 257):  # width and height
        entry = next(
            place
            for place in range(len(content) - 12)
            if content[place : place + 8] in (struct.pack("<HHI", tag, kind, 1) for kind in (3, 4))
        )
        content = content[: entry + 2] + struct.pack("<HII", 4, 1, 12_000) + content[entry + 12 :]
    path.write_bytes(content)
    assert "more than it holds" in refusal(path)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 1}])
def test_a_jpeg_that_claims_more_than_it_holds(tmp_path, options):
    """libjpeg would fill what is missing with grey."""
    Image.new("RGB", (1500, 1500)).save(path := tmp_path / "zeros.jpg", optimize=True, **options)
    assert read_volume(path).array.shape[:2] == (1500, 1500)
    Image.new("RGB", (9, 9)).save(path, **options)
    head, marker, rest = re.split(rb"(\xff[\xc0\xc2]\0\x11\x08)", path.read_bytes(), maxsplit=1)
    path.write_bytes(head + marker + struct.pack(">2H", 12_000, 12_000) + rest[4:])
    assert "more than it holds" in refusal(path)


def test_a_bmp_that_claims_more_than_it_holds(tmp_path):
    Image.new("L", (8, 8)).save(path := tmp_path / "bomb.bmp")
    content = path.read_bytes()
    path.write_bytes(content[:18] + struct.pack("<2i", 12_000, 12_000) + content[26:])
    assert "more than it holds" in refusal(path)


_SIZ = struct.pack(">2H8IH3B", 41, 0, 60_000, 60_000, 0, 0, 60_000, 60_000, 0, 0, 1, 15, 1, 1)
_SOF = struct.pack(">HB2H4B", 11, 16, 60_000, 60_000, 1, 1, 0x11, 0)


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [(JPEG2000Lossless, b"\xff\x4f\xff\x51" + _SIZ), (JPEGLSLossless, b"\xff\xd8\xff\xff\xf7" + _SOF)],
)
def test_a_dicom_frame_of_another_size_than_its_header(tmp_path, syntax, frame):
    assert _frame_size(frame) == (60_000, 60_000)
    (path,) = write_series(tmp_path, SCAN[:, :, :1].astype(np.uint16))
    dataset = dcmread(path)
    dataset.PixelData = encapsulate([frame + bytes(100)])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    dcmwrite(path, dataset, enforce_file_format=True)
    assert "60000, 60000" in refusal(path)
