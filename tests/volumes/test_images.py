import struct
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from samed_hf.volumes import InputLimits, Volume, read_volume, write_labels
from samed_hf.volumes.images import image_array, is_grey

from ..damage import png
from .test_nifti import ODD_NAMES

WIDTH, HEIGHT = 5, 3
LPS = np.diag([-1, -1, 1, 1])


def pixels(dtype=np.uint8, channels=()):
    """Of shape `(height, width, *channels)`, over the whole range of the type."""
    shape = (HEIGHT, WIDTH, *channels)
    values = np.linspace(0, np.iinfo(dtype).max, np.prod(shape)).round().astype(dtype)
    return np.random.default_rng(0).permutation(values).reshape(shape)


def save(path, picture, **options):
    picture.save(path, **options)
    return path


def save_deep(path, array):
    """16 bits a channel, which Pillow cannot write."""
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=True), str(path))
    return path


def luminance(array):
    return np.asarray(Image.fromarray(array).convert("L"))


# ------------------------------------------------------------------------------------------------------------ reading


def test_pixels_by_hand(tmp_path):
    """x runs along the rows of the picture, y down."""
    rows = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    volume = read_volume(save(tmp_path / "a.png", Image.fromarray(rows)))
    assert volume.array.shape == (3, 2, 1)
    assert (volume.array[2, 0, 0], volume.array[0, 1, 0]) == (3, 4)
    assert volume.orientation == "LPS"
    assert volume.spacing == (1, 1, 1)
    np.testing.assert_array_equal(volume.affine, LPS)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".PNG"])
def test_grey(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", Image.fromarray(pixels()))
    volume = read_volume(path)
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array[:, :, 0].T, pixels())
    repeated = read_volume(path, num_channels=3)
    assert repeated.array.shape == (WIDTH, HEIGHT, 1, 3)
    for channel in range(3):
        np.testing.assert_array_equal(repeated.array[..., channel], volume.array)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_colours(tmp_path, suffix):
    array = pixels(channels=(3,))
    path = save(tmp_path / f"a{suffix}", Image.fromarray(array))
    volume = read_volume(path, num_channels=3)
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array[:, :, 0].swapaxes(0, 1), array)
    np.testing.assert_array_equal(read_volume(path).array[:, :, 0].T, luminance(array))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits(tmp_path, suffix):
    array = pixels(np.uint16)
    volume = read_volume(save(tmp_path / f"grey{suffix}", Image.fromarray(array)))
    assert volume.array.dtype == np.uint16
    np.testing.assert_array_equal(volume.array[:, :, 0].T, array)
    colours = pixels(np.uint16, (3,))
    for name, stored in (("rgb", colours), ("rgba", np.concatenate([colours, colours[..., :1]], axis=2))):
        path = save_deep(tmp_path / f"{name}{suffix}", stored)
        volume = read_volume(path, num_channels=3)
        assert volume.array.dtype == np.uint16
        np.testing.assert_array_equal(volume.array[:, :, 0].swapaxes(0, 1), colours)
        weights = (0.299, 0.587, 0.114)
        grey = read_volume(path).array
        assert grey.dtype == np.uint16
        np.testing.assert_allclose(grey[:, :, 0].T, colours @ weights, atol=1)


def test_sixteen_bits_of_either_byte_order(tmp_path):
    array = pixels(np.uint16)
    for mode in ("I;16", "I;16B"):
        order = "<u2" if mode == "I;16" else ">u2"
        picture = Image.frombytes(mode, (WIDTH, HEIGHT), array.astype(order).tobytes())
        volume = read_volume(save(tmp_path / "a.tif", picture))
        assert volume.array.dtype == np.dtype(np.uint16)
        np.testing.assert_array_equal(volume.array[:, :, 0].T, array)


def test_white_is_zero_in_films_of_16_bits(tmp_path):
    array = pixels(np.uint16)
    path = save(tmp_path / "a.tif", Image.fromarray(array), tiffinfo={262: 0})
    np.testing.assert_array_equal(read_volume(path).array[:, :, 0].T, 65535 - array)


def test_signed_8_and_unsigned_32_bits_are_not_wrapped(tmp_path):
    array = np.array([[0, 7], [2**31, 2**32 - 1]], np.uint32)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / "a.tif"))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array[:, :, 0].T, array)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.array([[-1, 7]], np.int8)), str(tmp_path / "b.tif"))
    with pytest.raises(ValueError, match=r"b\.tif has signed values of 8 bits"):
        read_volume(tmp_path / "b.tif")


def test_colours_that_are_all_grey_keep_their_values(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = save(tmp_path / "a.png", Image.fromarray(np.repeat(grey[..., None], 3, axis=2)))
    np.testing.assert_array_equal(read_volume(path).array[:, :, 0].T, grey)
    deep = (np.arange(1024, dtype=np.uint16) * 64).reshape(32, 32)
    path = save_deep(tmp_path / "b.png", np.repeat(deep[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_volume(path).array[:, :, 0].T, deep)


def test_palettes_bits_and_transparency(tmp_path):
    array = pixels(channels=(3,))
    grey, colours = Image.fromarray(pixels()), Image.fromarray(array)
    palette = colours.quantize(9)
    path = save(tmp_path / "palette.png", palette)
    np.testing.assert_array_equal(
        read_volume(path, num_channels=3).array[:, :, 0].swapaxes(0, 1), np.asarray(palette.convert("RGB"))
    )
    path = save(tmp_path / "bits.png", Image.fromarray(pixels() > 100))
    np.testing.assert_array_equal(read_volume(path).array[:, :, 0].T, np.where(pixels() > 100, 255, 0))
    transparent = Image.fromarray(np.concatenate([array, pixels()[..., None]], axis=2))
    path = save(tmp_path / "rgba.png", transparent)
    np.testing.assert_array_equal(read_volume(path, num_channels=3).array[:, :, 0].swapaxes(0, 1), array)
    grey.putalpha(Image.fromarray(pixels()[::-1]))
    path = save(tmp_path / "la.png", grey)
    np.testing.assert_array_equal(read_volume(path).array[:, :, 0].T, pixels())


def test_jpeg(tmp_path):
    flat = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90°
    volume = read_volume(save(tmp_path / "a.jpg", Image.fromarray(flat), quality=95, exif=exif), num_channels=3)
    assert volume.array.shape == (16, 24, 1, 3)
    assert np.abs(volume.array.astype(int) - (200, 100, 50)).max() <= 3
    read_volume(save(tmp_path / "b.jpeg", Image.fromarray(flat).convert("CMYK")), num_channels=3)


def test_floats_and_large_integers_of_tiff(tmp_path):
    floats = pixels().astype(np.float32) / 7 - 9
    volume = read_volume(save(tmp_path / "a.tif", Image.fromarray(floats)))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[:, :, 0].T, floats)
    floats[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 15"):
        read_volume(save(tmp_path / "a.tif", Image.fromarray(floats)))
    integers = pixels().astype(np.int32) * -1000
    volume = read_volume(save(tmp_path / "b.tif", Image.fromarray(integers)))
    np.testing.assert_array_equal(volume.array[:, :, 0].T, integers)


def test_an_open_image_gives_the_same(tmp_path):
    for array in (pixels(), pixels(np.uint16), pixels(channels=(3,))):
        for channels in (1, 3):
            path = save(tmp_path / "a.png", Image.fromarray(array))
            found = image_array(Image.fromarray(array), channels, "row 3")
            np.testing.assert_array_equal(found.swapaxes(0, 1), read_volume(path, num_channels=channels).array[:, :, 0])
    with pytest.raises(ValueError, match="row 3 is an image, which has 1 channel or 3, expected 2"):
        image_array(Image.fromarray(pixels()), 2, "row 3")


def test_is_grey(tmp_path):
    assert is_grey(save(tmp_path / "a.png", Image.fromarray(pixels())))
    assert is_grey(save(tmp_path / "b.tif", Image.fromarray(pixels(np.uint16))))
    assert not is_grey(save(tmp_path / "c.png", Image.fromarray(pixels(channels=(3,)))))
    (tmp_path / "d.png").write_bytes(b"none")
    assert not is_grey(tmp_path / "d.png")


# ------------------------------------------------------------------------------------------------------------- errors


def test_refuses_animations_and_other_channels(tmp_path):
    page = Image.fromarray(pixels())
    other = Image.fromarray(255 - pixels())
    path = save(tmp_path / "a.png", page, save_all=True, append_images=[other, page])
    with pytest.raises(ValueError, match=r"a\.png is an animation of 3 images, expected one"):
        read_volume(path)
    path = save(tmp_path / "a.png", page)
    with pytest.raises(ValueError, match=r"a\.png is an image, which has 1 channel or 3, expected 2"):
        read_volume(path, num_channels=2)


def test_refuses_what_pillow_would_start_other_programs_for(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_volume(tmp_path / "a.png")


def test_refuses_a_bomb(tmp_path):
    """A few hundred bytes that would be 400 million pixels."""
    (tmp_path / "a.png").write_bytes(png(20_000, 20_000, rows=bytes(20_001)))
    with pytest.raises(ValueError, match=r"400,000,000 pixels, expected at most 178,956,970;"):
        read_volume(tmp_path / "a.png")
    limits = replace(InputLimits.local(), pixels=10**9)  # Pillow has a limit of its own
    with pytest.raises(ValueError, match=r"too large \(Image size \(400000000 pixels\) .*\), expected at most 1789569"):
        read_volume(tmp_path / "a.png", limits=limits)


def test_refuses_flipped_bits_that_only_a_checksum_tells(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(pixels(channels=(3,))), compress_level=0)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1  # a pixel, stored as it is
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_volume(path)


def test_refuses_a_tiff_that_claims_more_than_there_is(tmp_path):
    path = save(tmp_path / "a.tif", Image.fromarray(pixels()))
    data = path.read_bytes()
    entry = struct.pack("<HHII", 257, 4, 1, HEIGHT)  # ImageLength
    assert entry in data
    path.write_bytes(data.replace(entry, struct.pack("<HHII", 257, 4, 1, 5000)))
    with pytest.raises(ValueError, match="claims 25000 bytes of pixels, more than it holds"):
        read_volume(path)


def test_libtiff_writes_nothing_to_stderr(tmp_path, capfd):
    path = save(tmp_path / "a.tif", Image.fromarray(pixels()), compression="tiff_lzw")
    path.write_bytes(path.read_bytes().replace(b"\x80", b"\x91"))
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_volume(path)
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------------------------ writing


def labels_of(highest):
    labels = np.zeros((WIDTH, HEIGHT, 1), int)
    labels[1, 2, 0], labels[4, 0, 0] = 1, highest
    return labels


COLORS = np.array([(0, 0, 0), (1, 0.5, 0), (0.2, 0.4, 1)])


@pytest.fixture
def like():
    return Volume(np.zeros((WIDTH, HEIGHT, 1, 3), np.uint8), LPS)


def test_write_a_palette(tmp_path, like):
    write_labels(tmp_path / "a.png", labels_of(2), like, colors=COLORS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with Image.open(tmp_path / "a.png") as picture:
        assert (picture.mode, picture.size) == ("P", (WIDTH, HEIGHT))
        np.testing.assert_array_equal(np.asarray(picture), labels_of(2)[:, :, 0].T)
        assert picture.convert("RGB").getpixel((1, 2)) == (255, 128, 0)
        assert picture.convert("RGB").getpixel((4, 0)) == (51, 102, 255)


def test_write_without_colours_and_more_than_255_labels(tmp_path, like):
    for highest, colors, mode in ((2, None, "L"), (255, None, "L"), (256, COLORS, "I;16"), (65535, None, "I;16")):
        write_labels(tmp_path / "a.png", labels_of(highest), like, colors=colors)
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.mode == mode
            np.testing.assert_array_equal(np.asarray(picture), labels_of(highest)[:, :, 0].T)


def test_write_refuses(tmp_path, like):
    with pytest.raises(ValueError, match="colors has 3 rows, expected one for each label up to 3"):
        write_labels(tmp_path / "a.png", labels_of(3), like, colors=COLORS)
    with pytest.raises(ValueError, match=r"expected \(5, 3, 1\) as the scan has"):
        write_labels(tmp_path / "a.png", labels_of(3)[:, ::-1, 0], like)
    with pytest.raises(ValueError, match=r"shape \(5, 3, 2\), expected one slice"):
        write_labels(tmp_path / "a.png", np.zeros((5, 3, 2), int), Volume(np.zeros((5, 3, 2)), LPS))
    with pytest.raises(ValueError, match=r"a\.jpg cannot hold a label map"):
        write_labels(tmp_path / "a.jpg", labels_of(1), like)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
def test_odd_names(tmp_path, like, name):
    path = tmp_path / f"{name}.png"
    write_labels(path, labels_of(2), like)
    np.testing.assert_array_equal(read_volume(path).array, labels_of(2))
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read as an image") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_animations_of_other_formats_are_refused_with_the_way_out(tmp_path, suffix):
    page = Image.fromarray(pixels())
    path = save(tmp_path / f"a.{suffix}", page, save_all=True, append_images=[Image.fromarray(255 - pixels())])
    with pytest.raises(ValueError, match=rf"a\.{suffix} is of no known format.*PNG files.*TIFF"):
        read_volume(path)
