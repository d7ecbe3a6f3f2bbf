"""Pages, orientations and pixel sizes of image files."""

import struct

import numpy as np
import pytest
import SimpleITK
from PIL import Image, ImageOps, TiffImagePlugin

from samed_hf import SamedImageProcessor
from samed_hf.model.image_inputs import open_image
from samed_hf.volumes import find_scans, read_volume, write_labels
from samed_hf.volumes.images import image_array
from samed_hf.volumes.masks import read_mask_pixels

WIDTH, HEIGHT, PAGES = 5, 3, 4
PIXELS = np.arange(PAGES * HEIGHT * WIDTH).reshape(PAGES, HEIGHT, WIDTH)
# Where a viewer shows the first pixel of the first row, and the second one: (row, column) from the top left.
SHOWN = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left"}
SHOWN |= {5: "left top", 6: "right top", 7: "right bottom", 8: "left bottom"}


def turned(path, picture, number):
    exif = Image.Exif()
    exif[0x0112] = number
    picture.save(path, exif=exif)
    return path


def pages(path, array, **options):
    first, *others = [Image.fromarray(page) for page in array]
    first.save(path, save_all=True, append_images=others, **options)
    return path


# ------------------------------------------------------------------------------------------------------- orientations


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("number", SHOWN)
def test_every_format_is_turned_as_a_viewer_turns_it(tmp_path, suffix, number):
    array = np.zeros((16, 24, 3), np.uint8)
    array[:8, :16] = 250  # the corner of the first pixel
    array[:8, :8] = 120
    path = turned(tmp_path / f"a{suffix}", Image.fromarray(array), number)
    volume = read_volume(path, num_channels=3)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(volume.array[:, :, 0].swapaxes(0, 1), expected)
    side, corner = SHOWN[number].split() if number < 5 else reversed(SHOWN[number].split())
    top, left = (side == "top"), (corner == "left")
    assert expected.shape[:2] == ((16, 24) if number < 5 else (24, 16))
    assert abs(int(expected[0 if top else -1, 0 if left else -1, 0]) - 120) < 9
    assert (len(volume.notes) == 1) == (number > 1)
    np.testing.assert_array_equal(
        SamedImageProcessor(32, channel_names=["R", "G", "B"]).image_slices(Image.open(path))[0, 0], expected[..., 0]
    )


@pytest.mark.parametrize("number", SHOWN)
def test_a_mask_is_turned_like_its_image(tmp_path, number):
    array = PIXELS[0].astype(np.uint8)
    for suffix in (".png", ".tif"):
        path = turned(tmp_path / f"a{suffix}", Image.fromarray(array), number)
        np.testing.assert_array_equal(read_mask_pixels(path), read_volume(path).array[:, :, 0].T)
        assert read_mask_pixels(path).shape == ((HEIGHT, WIDTH) if number < 5 else (WIDTH, HEIGHT))


def test_sixteen_bits_are_turned(tmp_path):
    path = turned(tmp_path / "grey.png", Image.fromarray(PIXELS[0].astype(np.uint16) * 1000), 6)
    np.testing.assert_array_equal(read_volume(path).array[:, :, 0].T, np.rot90(PIXELS[0] * 1000, -1))
    colours = np.repeat(PIXELS[0, ..., None], 3, axis=2).astype(np.uint16) * 1000
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(colours, isVector=True), str(tmp_path / "colours.tif"))
    content = bytearray((tmp_path / "colours.tif").read_bytes())
    start = content.index((274).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    content[start + 8] = 6
    (tmp_path / "colours.tif").write_bytes(content)
    with pytest.raises(ValueError, match=r"colours of 16 bits .*TIFF orientation 6"):
        read_volume(tmp_path / "colours.tif")


@pytest.mark.parametrize(("offsets", "layout"), [(273, ()), (324, ((322, 16), (323, 16)))], ids=["planes", "tiles"])
def test_colours_of_16_bits_in_planes_or_tiles_are_refused(tmp_path, offsets, layout):
    """Pillow decodes 16-bit planes as 8-bit ones, and ITK keeps 8 bits of tiles."""
    pixels = np.arange(16 * 16 * 3, dtype="<u2").tobytes()
    is_planar = not layout
    size, start = len(pixels) // (3 if is_planar else 1), 8 + 6
    starts = [start + size * index for index in range(3 if is_planar else 1)]
    head = b"II*\0" + struct.pack("<I", start + len(pixels) + 24) + struct.pack("<3H", 16, 16, 16)
    lists = struct.pack("<3I", *(starts * 3)[:3]) + struct.pack("<3I", *[size] * 3)
    tags = [(256, 16), (257, 16), (259, 1), (262, 2), (277, 3), (278, 16), (284, 2 if is_planar else 1), *layout]
    entries = [struct.pack("<HHII", tag, 4, 1, number) for tag, number in tags]
    entries.append(struct.pack("<HHII", 258, 3, 3, 8))
    for tag, place in ((offsets, 0), (offsets + (6 if is_planar else 1), 12)):
        number = start + len(pixels) + place if is_planar else (starts[0], size)[place // 12]
        entries.append(struct.pack("<HHII", tag, 4, len(starts), number))
    directory = struct.pack("<H", len(entries)) + b"".join(sorted(entries, key=lambda entry: entry[1::-1])) + bytes(4)
    path = tmp_path / "a.tif"
    path.write_bytes(head + pixels + lists + directory)
    with pytest.raises(ValueError, match=r"a\.tif has colours of 16 bits in tiles, in planes"):
        read_volume(path, num_channels=3)


def test_damaged_tags_turn_nothing(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS[0].astype(np.uint8)).save(path, exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff")
    np.testing.assert_array_equal(read_volume(path).array[:, :, 0].T, PIXELS[0])
    turned(path, Image.fromarray(PIXELS[0].astype(np.uint8)), 9)
    np.testing.assert_array_equal(read_volume(path).array[:, :, 0].T, PIXELS[0])


# -------------------------------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_pages_are_slices(tmp_path, dtype):
    path = pages(tmp_path / "a.tif", PIXELS.astype(dtype) * 2)
    volume = read_volume(path)
    assert (volume.is_image, volume.is_calibrated, volume.grid) == (True, False, (WIDTH, HEIGHT, PAGES))
    np.testing.assert_array_equal(volume.array.T, PIXELS * 2)
    np.testing.assert_array_equal(read_mask_pixels(path) if dtype != np.float32 else PIXELS * 2, PIXELS * 2)


def test_pages_in_colour(tmp_path):
    array = np.stack([PIXELS, PIXELS + 9, 2 * PIXELS], axis=3)
    path = pages(tmp_path / "a.tiff", array.astype(np.uint8))
    np.testing.assert_array_equal(read_volume(path, num_channels=3).array.transpose(2, 1, 0, 3), array)
    deep = (array * 300).astype(np.uint16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(deep, isVector=True), str(tmp_path / "deep.tif"))
    np.testing.assert_array_equal(read_volume(tmp_path / "deep.tif", num_channels=3).array.transpose(2, 1, 0, 3), deep)


def test_labels_of_pages_are_pages(tmp_path):
    volume = read_volume(pages(tmp_path / "a.tif", PIXELS.astype(np.uint8)))
    labels = (PIXELS % 3).T
    for colors in (None, np.eye(3)):
        write_labels(tmp_path / "labels.tif", labels, volume, colors=colors)
        np.testing.assert_array_equal(read_mask_pixels(tmp_path / "labels.tif"), labels.T)
    write_labels(tmp_path / "labels.tif", labels * 300, volume)
    np.testing.assert_array_equal(read_mask_pixels(tmp_path / "labels.tif"), labels.T * 300)
    with pytest.raises(ValueError, match=r"\(5, 3, 4\), expected one slice"):
        write_labels(tmp_path / "labels.png", labels, volume)


def test_the_suffix_of_labels_depends_on_the_pages(tmp_path):
    pages(tmp_path / "one.tif", PIXELS[:1].astype(np.uint8))
    pages(tmp_path / "some.tiff", PIXELS.astype(np.uint8))
    (tmp_path / "damaged.tif").write_bytes(b"II*")
    found = find_scans(tmp_path)
    assert {scan.name: scan.suffix for scan in found} == {"one": ".png", "some": ".tif", "damaged": ".png"}


def test_thumbnails_are_left_out_and_other_sizes_refused(tmp_path):
    page, small = (Image.fromarray(array.astype(np.uint8)) for array in (PIXELS[0], PIXELS[1, :2, :2]))
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "a.tif"), True) as writer:
        page.save(writer, "TIFF")
        writer.newFrame()
        small.save(writer, "TIFF", tiffinfo={254: 1})
        writer.newFrame()
        page.save(writer, "TIFF")
    volume = read_volume(tmp_path / "a.tif")
    assert volume.grid == (WIDTH, HEIGHT, 2)
    assert "1 thumbnail" in volume.notes[0]
    page.save(tmp_path / "b.tif", save_all=True, append_images=[small])
    with pytest.raises(ValueError, match=r"5×3 L \(page 1\) and 2×2 L \(page 2\)"):
        read_volume(tmp_path / "b.tif")


def test_a_file_that_states_more_images_than_pages(tmp_path):
    path = pages(tmp_path / "a.tif", PIXELS.astype(np.uint8), description="ImageJ=1.53t\nimages=500\nslices=500\n")
    with pytest.raises(ValueError, match="4 pages, but ImageJ states 500"):
        read_volume(path)


# --------------------------------------------------------------------------------------------------------- pixel size

OME = '<OME xmlns="x"><Image><Pixels ID="P" PhysicalSizeX="0.5" PhysicalSizeY="250" {}/></Image></OME>'


@pytest.mark.parametrize(
    ("options", "spacing"),
    [
        ({"description": OME.format("")}, (0.0005, 0.25)),
        ({"description": OME.format('PhysicalSizeXUnit="mm" PhysicalSizeYUnit="nm"')}, (0.5, 0.00025)),
        ({"description": OME.format('PhysicalSizeXUnit="pixel"')}, None),
        ({"description": "ImageJ=1.53t\nunit=micron\n", "x_resolution": 2.0, "y_resolution": 4.0}, (0.0005, 0.00025)),
        ({"description": "ImageJ=1.53t\nunit=\\u00B5m\n", "x_resolution": 2.0, "y_resolution": 4.0}, (0.0005, 0.00025)),
        ({"description": "ImageJ=1.53t\nunit=inch\n", "x_resolution": 72.0, "y_resolution": 72.0}, None),
        ({"x_resolution": 300.0, "y_resolution": 300.0, "resolution_unit": "inch"}, None),
    ],
)
def test_only_a_physical_size_of_a_pixel_counts(tmp_path, options, spacing):
    volume = read_volume(pages(tmp_path / "a.tif", PIXELS.astype(np.uint8), **options))
    assert volume.is_calibrated == (spacing is not None)
    assert volume.spacing == pytest.approx((*(spacing or (1, 1)), 1))


def test_the_size_of_a_pixel_is_turned(tmp_path):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[270], info[274] = OME.format(""), 6
    Image.fromarray(PIXELS[0].astype(np.uint8)).save(tmp_path / "a.tif", tiffinfo=info)
    volume = read_volume(tmp_path / "a.tif")
    assert volume.grid == (HEIGHT, WIDTH, 1)
    assert volume.spacing == pytest.approx((0.25, 0.0005, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_uncompressed_tiff_files_of_paths_are_turned(tmp_path, dtype):
    """Pillow's memory map has the columns and rows exchanged."""
    path = turned(tmp_path / "a.tif", Image.fromarray(PIXELS[0].astype(dtype)), 8)
    for image in (Image.open(path), open_image(str(path))):
        np.testing.assert_array_equal(image_array(image, 1, "a"), np.rot90(PIXELS[0]))
