"""Masks of directories of images: colours, several of one image, softened ones, names and numbers."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from samed_hf import SamedImageProcessor
from samed_hf.data import DataArguments, make_processor, read_data
from samed_hf.data.label_colors import parse_color

BLACK, RED, BLUE = (0, 0, 0), (255, 0, 0), (0, 0, 255)
SHAPE = (24, 30)
PROCESSOR = SamedImageProcessor(intensity_window=None, percentiles=None)


def save(root, directory, name, array, mode=None):
    path = root / directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (array if isinstance(array, Image.Image) else Image.fromarray(array, mode)).save(path)
    return path


def label_map() -> np.ndarray:
    """0, 1 in 8 × 10 pixels, 2 in 5 × 6."""
    label = np.zeros(SHAPE, np.uint8)
    label[2:10, 3:13], label[14:19, 15:21] = 1, 2
    return label


def write(root, masks: dict, image=None):
    """Images called as the masks up to `_mask`."""
    for name, mask in masks.items():
        save(root, "masks", name, mask)
        stem = re.split(r"_mask|\.", name)[0]
        save(root, "images", f"{stem}.png", np.full(SHAPE, 90, np.uint8) if image is None else image)
    return root


def colored(*colors) -> np.ndarray:
    return np.array(colors, np.uint8)[label_map()]


def counts(root, index=0) -> dict[str, int]:
    data = read_data(root)
    label = data.read_case(data.train[index], PROCESSOR).label
    return {name: int((label == number).sum()) for number, name in data.id2label.items() if number}


def read_all(root) -> None:
    data = read_data(root)
    for name in data.train:
        data.read_case(name, PROCESSOR)


TABLES = {
    "class_dict.csv": "name,r,g,b\nbackground,0,0,0\nliver,255,0,0\nspleen,0,0,255\n",
    "class_dict_seg.csv": " name, b, g, r\nspleen, 255, 0, 0\nbackground, 0, 0, 0\nliver, 0, 0, 255\n",
    "labels.csv": "id;class;color\n3;liver;#ff0000\n0;background;#000000\n7;spleen;#0000FF\n",
    "classes.csv": "background,0,0,0\nliver,255,0,0\nspleen,0,0,255\n",
    "label_colors.txt": "255 0 0\tliver\n0 0 255\tspleen\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\nliver:255,0,0::\nspleen:0,0,255::\n",
    "colormap.csv": "Klasse,Rot,Gruen,Blau\nliver,255,0,0\nspleen,0,0,255\n",
    "labels.json": json.dumps({"background": [0, 0, 0], "liver": [255, 0, 0], "spleen": [0, 0, 255]}),
    "id2label.json": json.dumps({"#000000": "background", "#ff0000": "liver", "#0000ff": "spleen"}),
    "classes.json": json.dumps(
        {"classes": [{"title": "liver", "color": "#FF0000"}, {"title": "spleen", "color": [0, 0, 255]}]}
    ),
    "colors.json": json.dumps({"names": ["liver", "spleen"], "colors": ["rgb(255, 0, 0)", "0 0 255"]}),
    "palette.json": json.dumps([[[255, 0, 0], "liver"], ["spleen", [0, 0, 255, 255]]]),
    "class_dict.json": json.dumps({"liver": {"color": [255, 0, 0]}, "spleen": {"color": [0, 0, 255]}}),
}


@pytest.mark.parametrize("name", TABLES)
def test_colors_of_a_table(tmp_path, name):
    write(tmp_path, {"a.png": colored(BLACK, RED, BLUE)})
    (tmp_path / name).write_text(TABLES[name])
    assert counts(tmp_path) == {"liver": 80, "spleen": 30}


def test_colors_are_compared_whatever_way_a_mask_is_stored(tmp_path):
    colors = colored(BLACK, RED, (255, 255, 255))
    transparent = np.dstack([colors, 255 * (label_map() > 0).astype(np.uint8)])
    masks = {
        "rgb.png": colors,
        "rgba.png": transparent,
        "palette.png": Image.fromarray(colors).convert("P", palette=Image.Palette.ADAPTIVE, colors=3),
        "grey.png": np.array([0, 255, 255], np.uint8)[label_map()],
        "black_white.png": Image.fromarray(label_map() == 2),
        "rgb.bmp": colors,
        "rgb.tif": colors,
    }
    for name, mask in masks.items():
        write(tmp_path / name, {name: mask})
        (tmp_path / name / "class_dict.csv").write_text("name,r,g,b\nliver,255,0,0\nbone,255,255,255\n")
    found = {name: counts(tmp_path / name) for name in masks}
    assert found.pop("grey.png") == {"liver": 0, "bone": 110}
    assert found.pop("black_white.png") == {"liver": 0, "bone": 30}
    assert list(found.values()) == [{"liver": 80, "bone": 30}] * 5


def test_an_unlisted_color_is_refused_with_its_pixels(tmp_path):
    write(tmp_path, {"a.png": colored(BLACK, RED, BLUE), "b.png": colored(BLACK, RED, (0, 255, 0))})
    (tmp_path / "class_dict.csv").write_text(TABLES["class_dict.csv"])
    data = read_data(tmp_path)
    assert data.read_case("a", PROCESSOR).label.max() == 2
    with pytest.raises(ValueError, match=r"b\.png holds 30 pixels of unlisted colours, 30 of them #00ff00: .*#ff0000"):
        data.read_case("b", PROCESSOR)


def test_colors_without_a_table_name_the_labels(tmp_path):
    write(tmp_path, {"a.png": colored(BLACK, RED, BLUE), "b.png": label_map() * 0})
    data = read_data(tmp_path)
    assert data.id2label == {0: "background", 1: "color_0000ff", 2: "color_ff0000"}
    assert any("#0000ff" in note and "class_dict.csv" in note for note in data.notes)
    assert counts(tmp_path) == {"color_0000ff": 30, "color_ff0000": 80}
    (tmp_path / "labels.txt").write_text("background\nliver\nspleen\n")
    with pytest.raises(ValueError, match=r"coloured masks .*class_dict\.csv"):
        read_data(tmp_path)


def test_colors_without_a_background_need_a_table(tmp_path):
    write(tmp_path, {"a.png": colored((255, 255, 255), RED, BLUE)})
    with pytest.raises(ValueError, match=r"#0000ff, #ff0000, #ffffff .*background"):
        read_data(tmp_path)
    table = "name,r,g,b\nliver,255,0,0\nbackground,255,255,255\nspleen,0,0,255\n"
    (tmp_path / "class_dict.csv").write_text(table)
    assert counts(tmp_path) == {"liver": 80, "spleen": 30}


def test_one_color_is_the_one_label(tmp_path):
    write(tmp_path, {"a.png": colored(BLACK, RED, RED)})
    (tmp_path / "labels.json").write_text('{"0": "background", "1": "polyp"}')
    assert counts(tmp_path) == {"polyp": 110}


def palette_mask(label, colors) -> Image.Image:
    mask = Image.fromarray(label).convert("P")
    mask.putdata(label.ravel().tolist())
    mask.putpalette([channel for color in colors for channel in color])
    return mask


def test_indices_count_unless_the_palettes_disagree(tmp_path):
    label = label_map()
    write(tmp_path / "one", {f"{n}.png": palette_mask(label, [BLACK, RED, BLUE]) for n in "ab"})
    assert read_data(tmp_path / "one").id2label == {0: "background", 1: "label_1", 2: "label_2"}
    own = {"a.png": palette_mask(label, [BLACK, RED, BLUE]), "b.png": palette_mask(label, [BLACK, BLUE, RED])}
    write(tmp_path / "two", own)
    assert [counts(tmp_path / "two", index) for index in (0, 1)] == [
        {"color_0000ff": 30, "color_ff0000": 80},
        {"color_0000ff": 80, "color_ff0000": 30},
    ]


def test_grey_values_in_rgb_are_values(tmp_path):
    write(tmp_path, {"a.png": np.repeat((label_map() * 100)[..., None], 3, axis=2)})
    assert read_data(tmp_path).id2label == {0: "background", 1: "label_100", 2: "label_200"}


@pytest.mark.parametrize("text", ["256,0,0", "1,2", "#ff00", "red", [1, 2, 3.5], [1, 2, 300], True, 7, None])
def test_what_is_no_color(text):
    assert parse_color(text) is None


@pytest.mark.parametrize("table", ["name,r,g,b\nliver,255,0,300\n", "name,r,g,b\nliver,255,0,0\nspleen,255,0,0\n"])
def test_bad_tables_are_named(tmp_path, table):
    write(tmp_path, {"a.png": colored(BLACK, RED, BLUE)})
    (tmp_path / "class_dict.csv").write_text(table)
    with pytest.raises(ValueError, match=r"class_dict\.csv"):
        read_data(tmp_path)


# ------------------------------------------------------------------------------------------------------- several masks


def test_several_masks_of_an_image_are_one_label_map(tmp_path):
    one, two = (label_map() == number for number in (1, 2))
    write(tmp_path, {"malignant (3)_mask.png": one * np.uint8(255), "malignant (3)_mask_1.png": two * np.uint8(255)})
    write(tmp_path, {"normal (1)_mask.png": np.zeros(SHAPE, np.uint8)})
    data = read_data(tmp_path)
    assert data.train == ["malignant (3)", "normal (1)"]
    assert counts(tmp_path) == {"label_255": 110}
    assert any("malignant (3).png" in note and "merged" in note for note in data.notes)


def test_several_colored_masks_are_merged_on_their_background(tmp_path):
    white, one, two = (255, 255, 255), label_map() == 1, label_map() == 2
    masks = [np.array([white, color], np.uint8)[part.astype(int)] for part, color in ((one, RED), (two, BLUE))]
    write(tmp_path, {"x_mask_1.png": masks[0], "x_mask_2.png": masks[1]})
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nbackground,255,255,255\nliver,255,0,0\nspleen,0,0,255\n")
    assert counts(tmp_path) == {"liver": 80, "spleen": 30}


def test_masks_that_contradict_each_other_are_refused(tmp_path):
    one = (label_map() == 1).astype(np.uint8)
    write(tmp_path, {"x_mask_1.png": one, "x_mask_2.png": 2 * one})
    data = read_data(tmp_path)
    with pytest.raises(ValueError, match=r"x_mask_2\.png and .*x_mask_1\.png overlap .* in 80 pixels"):
        data.read_case("x", PROCESSOR)


@pytest.mark.parametrize(
    ("masks", "named"),
    [
        (("x.png", "x_mask.png"), r"x\.png could have the mask .*x\.png or .*x_mask\.png"),
        (("x_mask.png", "x_left.png"), r"x_left\.png has no image, .*x\.png"),
        (("x_1.png",), r"x_1\.png has no image, .*x\.png"),
    ],
)
def test_a_second_mask_is_never_dropped(tmp_path, masks, named):
    save(tmp_path, "images", "x.png", label_map())
    for name in masks:
        save(tmp_path, "masks", name, label_map())
    with pytest.raises(ValueError, match=named):
        read_data(tmp_path)


def test_isic_names_and_files_without_a_partner(tmp_path):
    for number in (12, 13):
        save(tmp_path, "images", f"ISIC_{number:07d}.jpg", label_map())
        save(tmp_path, "masks", f"ISIC_{number:07d}_segmentation.png", label_map())
    save(tmp_path, "masks", "ISIC_0000099_segmentation.png", label_map())
    (tmp_path / "images" / "preview.gif").write_bytes(b"GIF89a")
    data = read_data(tmp_path)
    assert data.train == ["ISIC_0000012", "ISIC_0000013"]
    assert any("ISIC_0000099_segmentation.png" in note for note in data.notes)
    assert any("preview.gif" in note for note in data.notes)
    save(tmp_path, "images", "ISIC_0000014.jpg", label_map())
    with pytest.raises(FileNotFoundError, match=r"ISIC_0000014\.jpg has no mask"):
        read_data(tmp_path)


# ----------------------------------------------------------------------------------------------------- names, numbers


@pytest.mark.parametrize("pattern", ["p_slice{}", "p_slice_{}", "p-slice-{}", "p_z{}", "p_SLICE{:03d}"])
def test_slices_are_in_the_order_of_their_numbers(tmp_path, pattern):
    for number in (2, 10, 0, 1, 11):
        save(tmp_path, "images", f"{pattern.format(number)}.png", np.full(SHAPE, 20 * number, np.uint8))
        save(tmp_path, "masks", f"{pattern.format(number)}_mask.png", label_map())
    data = read_data(tmp_path)
    assert data.train == ["p"]
    image = data.read_case("p", PROCESSOR).image
    assert (image[:, 0, 0] * 255).round().astype(int).tolist() == [0, 20, 40, 200, 220]
    assert any("5 images" in note for note in data.notes)


@pytest.mark.parametrize("nested", [False, True])
def test_splits_of_other_names_are_never_trained_on(tmp_path, nested):
    for split in ("training", "dev", "eval", "unlabelled"):
        for part in ("images", "masks"):
            save(tmp_path, f"{part}/{split}" if nested else f"{split}/{part}", f"{split}.png", label_map())
    data = read_data(tmp_path)
    assert (data.train, data.validation, data.test) == (["training"], ["dev"], ["eval"])
    assert any("unlabelled" in note and "left out" in note for note in data.notes)
    save(tmp_path, "images/val" if nested else "val/images", "x.png", label_map())
    save(tmp_path, "masks/val" if nested else "val/masks", "x.png", label_map())
    with pytest.raises(ValueError, match="two directories for validation"):
        read_data(tmp_path)


@pytest.mark.parametrize("names", [("p_slice1", "p_slice01"), ("p", "p_slice1"), ("p_slice1", "p-slice-1")])
def test_two_images_for_one_slice_are_refused(tmp_path, names):
    for name in names:
        save(tmp_path, "images", f"{name}.png", label_map())
        save(tmp_path, "masks", f"{name}.png", label_map())
    with pytest.raises(ValueError, match=names[1]):
        read_data(tmp_path)


def test_images_of_similar_names_are_cases_of_their_own(tmp_path):
    for name in ("p1_1", "p1_2", "lens3", "frizz4"):
        save(tmp_path, "images", f"{name}.png", label_map())
        save(tmp_path, "masks", f"{name}.png", label_map())
    assert read_data(tmp_path).train == ["frizz4", "lens3", "p1_1", "p1_2"]


@pytest.mark.parametrize("directory", ["images", "masks"])
@pytest.mark.parametrize("names", [("img0.png", "img0.bmp"), ("img0.tif", "IMG0.TIFF")])
def test_one_name_in_two_formats_is_refused(tmp_path, directory, names):
    for part in ("images", "masks"):
        for name in names if part == directory else names[:1]:
            save(tmp_path, part, name, label_map())
    with pytest.raises(ValueError, match=rf"{directory}.*img0.*IMG0|{directory}.*img0.*img0"):
        read_data(tmp_path)


def test_one_scan_in_two_formats_is_refused(tmp_path):
    for directory in ("images", "masks"):
        (tmp_path / directory).mkdir()
        nib.save(nib.Nifti1Image(np.ones((4, 4, 3), np.uint8), np.eye(4)), tmp_path / directory / "x.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((4, 4, 3), np.uint8), np.eye(4)), tmp_path / "images" / "x.nii")
    with pytest.raises(ValueError, match=r"x\.nii and .*x\.nii\.gz"):
        read_data(tmp_path)


# --------------------------------------------------------------------------------------------------------- intensities


@pytest.mark.parametrize(("bits", "suffix"), [(10, "png"), (12, "png"), (12, "tif"), (14, "png"), (8, "png")])
def test_the_range_of_deep_images_is_that_of_their_bits(tmp_path, bits, suffix):
    for name, share in {"dark": 0.2, "bright": 0.9}.items():
        image = np.full(SHAPE, int(share * 2**bits), np.uint16)
        save(tmp_path, "images", f"{name}.{suffix}", image)
        save(tmp_path, "masks", f"{name}.png", label_map())
    data = read_data(tmp_path)
    assert data.intensity_range == (0, 2**bits - 1)
    assert any(f"{bits} bits" in note for note in data.notes)
    processor = make_processor(DataArguments(data_dir=str(tmp_path)), data)
    assert processor.intensity_window == [0, 2**bits - 1]
    means = {name: float(data.read_case(name, processor).image.mean()) for name in data.train}
    assert means == pytest.approx({"dark": 0.2, "bright": 0.9}, abs=0.002)


def test_images_of_16_and_of_8_bits_are_scaled_as_before(tmp_path):
    write(tmp_path / "deep", {"a.png": label_map()}, image=np.full(SHAPE, 40_000, np.uint16))
    write(tmp_path / "plain", {"a.png": label_map()}, image=np.full(SHAPE, 51, np.uint8))
    found = []
    for root in (tmp_path / "deep", tmp_path / "plain"):
        data = read_data(root)
        processor = make_processor(DataArguments(data_dir=str(root)), data)
        found.append((processor.intensity_window, float(data.read_case("a", processor).image.max())))
        assert not any("bits" in note for note in data.notes)
    assert found == [([0, 65535], pytest.approx(40_000 / 65535)), (None, pytest.approx(0.2))]


@pytest.mark.parametrize(("highest", "full"), [(1000, 1023), (2000, 4095), (16_000, 16_383), (40_000, 65_535)])
def test_a_deep_image_for_a_model_of_8_bit_images_is_scaled_by_its_bits(highest, full):
    image = Image.fromarray(np.full(SHAPE, highest, np.uint16))
    pixels = SamedImageProcessor(32, intensity_window=None, percentiles=None)(image).pixel_values
    assert float(pixels.mean()) == pytest.approx(highest / full, abs=1e-5)
