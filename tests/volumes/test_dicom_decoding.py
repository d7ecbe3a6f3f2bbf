"""Compressed DICOM images, videos, tiles and limits."""

import io
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import SimpleITK
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    VLWholeSlideMicroscopyImageStorage,
)

from samed_hf.volumes.dicom import read_series
from samed_hf.volumes.dicom.headers import read_file
from samed_hf.volumes.limits import InputLimitError, InputLimits

from ..dicom_files import write_image, write_series

GREY = np.arange(24, dtype=np.uint16).reshape(1, 4, 6)
COLOURS = np.arange(3 * 4 * 6 * 3, dtype=np.uint8).reshape(3, 4, 6, 3)


def read(path, **options):
    return read_series([path], path, **options)


def shown(path):
    """The only frame as it is read, `(rows, columns)` or `(rows, columns, 3)`."""
    return read(path).array[:, :, 0].swapaxes(0, 1)


SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[0:128:8, 60:188:8], np.full((16, 16), 90)), axis=2)[None].astype(
    np.uint8
)


def encoded(path, frames, syntax, **values):
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_lossless_colours(tmp_path, syntax):
    frames = np.concatenate([SMOOTH, SMOOTH[:, ::-1]])
    volume = read(write_image(tmp_path / "image", frames, syntax=syntax))
    np.testing.assert_array_equal(volume.array, frames.transpose(2, 1, 0, 3))


def test_jpeg_of_colours_and_of_wrongly_named_ones(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH[0]).save(buffer, "JPEG", quality=95, subsampling=0)
    for kind in ("YBR_FULL_422", "RGB"):  # a JFIF file has YCbCr whatever the header says
        path = write_image(tmp_path / kind, SMOOTH)
        encoded(path, [buffer.getvalue()], JPEGBaseline8Bit, PhotometricInterpretation=kind)
        np.testing.assert_allclose(shown(path).astype(int), SMOOTH[0], atol=6)


@pytest.mark.parametrize("kind", ["YBR_RCT", "RGB"])
def test_jpeg_2000_of_colours(tmp_path, kind):
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH[0]).save(buffer, "JPEG2000", no_jp2=True, irreversible=False, mct=kind == "YBR_RCT")
    path = encoded(write_image(tmp_path / "image", SMOOTH), [buffer.getvalue()], JPEG2000Lossless)
    pydicom_header = pydicom.dcmread(path)
    pydicom_header.PhotometricInterpretation = kind
    pydicom_header.save_as(path)
    np.testing.assert_array_equal(shown(path), SMOOTH[0])


def test_jpeg_2000_of_colours_of_12_bits_and_in_a_jp2_file(tmp_path):
    pixels = SMOOTH.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint16) * 16
    frame = encode_array(pixels[0], bits_stored=12, photometric_interpretation=1, use_mct=False)
    path = write_image(tmp_path / "12", pixels, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(
        shown(encoded(path, [bytes(frame)], JPEG2000Lossless)), np.rint(pixels[0] / 4095 * 65535)
    )
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH[0]).save(buffer, "JPEG2000", no_jp2=False, irreversible=False)
    path = encoded(write_image(tmp_path / "jp2", SMOOTH), [buffer.getvalue()], JPEG2000Lossless)
    np.testing.assert_array_equal(shown(path), SMOOTH[0])


def test_jpeg_lossless_of_colours(tmp_path):
    image = SimpleITK.GetImageFromArray(SMOOTH[0], isVector=True)
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.SetFileName(str(tmp_path / "itk.dcm"))
    writer.Execute(image)
    frame = get_frame(pydicom.dcmread(tmp_path / "itk.dcm").PixelData, 0, number_of_frames=1)
    path = encoded(write_image(tmp_path / "image", SMOOTH), [frame], JPEGLosslessSV1)
    np.testing.assert_array_equal(shown(path), SMOOTH[0])


def test_a_signed_codestream_beats_an_unsigned_header(tmp_path):
    values = np.linspace(-1000, 3000, 64 * 70).astype(np.int16).reshape(64, 70)
    (file,) = write_series(tmp_path, np.zeros((70, 64, 1), np.uint16), rescale=(1, 0))
    encoded(file, [bytes(encode_array(values, bits_stored=16))], JPEG2000Lossless)
    assert pydicom.dcmread(file).PixelRepresentation == 0
    volume = read_series([file], tmp_path)
    np.testing.assert_array_equal(volume.array[:, :, 0].T, values)
    assert any("signed" in note for note in volume.header.notes)
    path = encoded(
        write_image(tmp_path / "image", values[None].view(np.uint16)),
        [bytes(encode_array(values, bits_stored=16))],
        JPEG2000Lossless,
    )
    np.testing.assert_array_equal(shown(path), np.rint((values + 1000.0) / 4000 * 65535))


def test_a_video_is_refused_by_its_name(tmp_path):
    path = encoded(write_image(tmp_path / "image", COLOURS), [b"\0" * 100], MPEG4HP41)
    with pytest.raises(ValueError, match=r"is a video \(MPEG-4 AVC/H.264 High Profile / Level 4.1.*ffmpeg"):
        read(path)


# --------------------------------------------------------------------------------------------------- tiles and limits


def test_a_slide_of_tiles_is_refused_and_its_label_is_an_image(tmp_path):
    total = {"TotalPixelMatrixColumns": 60, "TotalPixelMatrixRows": 4}
    path = write_image(tmp_path / "tiles", COLOURS, modality="SM", kind=VLWholeSlideMicroscopyImageStorage, **total)
    with pytest.raises(ValueError, match=r"slide of microscopy of 60×4 pixels"):
        read(path)
    label = write_image(tmp_path / "label", COLOURS[:1], **total | {"TotalPixelMatrixColumns": 6})
    assert read(label).grid == (6, 4, 1)


def test_limits_before_the_pixels_are_read(tmp_path):
    path = write_image(tmp_path / "image", COLOURS, NumberOfFrames=30_000)
    with pytest.raises(InputLimitError, match="30,000 slices"):
        read(path)
    path = write_image(tmp_path / "image", COLOURS)
    with pytest.raises(InputLimitError, match="72 voxels"):
        read(path, limits=replace(InputLimits.local(), voxels=71))
    with pytest.raises(InputLimitError, match="216 bytes"):
        read(path, limits=replace(InputLimits.local(), bytes=215))


def test_a_deflated_file_is_limited_before_it_is_decompressed(tmp_path):
    path = write_image(tmp_path / "image", np.zeros((64, 128, 128), np.uint8), syntax=DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < 4000
    assert read(path).grid == (128, 128, 64)
    with pytest.raises(InputLimitError, match="bytes, expected at most 1,000,000"):
        read_file(path, limits=replace(InputLimits.local(), bytes=10**6))
