"""Masks softened at their borders are refused, label maps of many values are not."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image, ImageFilter

from samed_hf.data import read_data

from .test_masks import label_map, read_all, save, write


def disc(radius=14, side=48) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return ((x - 24) ** 2 + (y - 22) ** 2 < radius**2).astype(np.uint8) * 255


def soften(kind: str) -> Image.Image:
    plain = Image.fromarray(disc())
    if kind == "blurred":
        return plain.filter(ImageFilter.GaussianBlur(3))
    if kind == "heavily blurred":
        return Image.fromarray(disc(60, 200)).filter(ImageFilter.GaussianBlur(12))
    if kind == "resized":
        return plain.resize((70, 60), Image.Resampling.BILINEAR)
    if kind == "halved":
        return plain.resize((24, 24), Image.Resampling.BOX)
    if kind == "color":
        return Image.merge("RGB", [plain, Image.fromarray(disc() * 0), Image.fromarray(disc() * 0)]).filter(
            ImageFilter.GaussianBlur(1)
        )
    if kind == "two labels":
        label = disc()
        label[30:40, 30:44] = 120
        return Image.fromarray(label).resize((60, 60), Image.Resampling.BICUBIC)
    raise ValueError(kind)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", ["blurred", "heavily blurred", "resized", "halved", "color", "two labels", "jpeg"])
def test_softened_masks_are_refused_by_name(tmp_path, kind, named):
    for number in range(3):
        mask = Image.fromarray(disc())
        if number == 1 and kind == "jpeg":
            mask.save(tmp_path / "x.jpg", quality=85)
            mask = Image.open(tmp_path / "x.jpg")
        elif number == 1:
            mask = soften(kind)
        save(tmp_path, "masks", f"i{number}.png", mask)
        save(tmp_path, "images", f"i{number}.png", mask.convert("L"))
    if named:
        table = ("class_dict.csv", "name,r,g,b\nliver,255,0,0\nwhite,255,255,255\n")
        name, text = table if kind == "color" else ("labels.json", '{"0": "background", "255": "lesion"}')
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"i1\.png .*anti-aliased/softened at its border.*128"):
        read_all(tmp_path)


def test_a_softened_scan_of_a_class_is_refused(tmp_path):
    soft = np.repeat(np.asarray(soften("blurred"), np.float32)[..., None], 4, axis=2)
    (tmp_path / "s1" / "segmentations").mkdir(parents=True)
    for name, array in {"ct": soft, "segmentations/liver": soft, "segmentations/spleen": (soft > 128) * 1.0}.items():
        nib.save(nib.Nifti1Image(array.astype(np.float32), np.eye(4)), tmp_path / "s1" / f"{name}.nii.gz")
    with pytest.raises(ValueError, match=r"liver\.nii\.gz.*anti-aliased/softened at its border"):
        read_all(tmp_path)


def test_a_softened_mask_of_a_class_is_refused(tmp_path):
    for name in ("liver", "spleen"):
        save(tmp_path, f"masks/{name}", "a.png", soften("blurred") if name == "spleen" else disc())
    save(tmp_path, "images", "a.png", disc())
    with pytest.raises(ValueError, match=r"spleen.*a\.png.*anti-aliased/softened at its border"):
        read_all(tmp_path)


def test_a_jpeg_mask_is_refused_with_the_way_out(tmp_path):
    write(tmp_path, {"a.png": label_map()})
    save(tmp_path, "masks", "b.jpg", disc())
    save(tmp_path, "images", "b.png", disc())
    with pytest.raises(ValueError, match=r"b\.jpg .*softened at its border.*128.*PNG"):
        read_data(tmp_path)


def organs(count=60, side=96) -> np.ndarray:
    """Regions of the nearest of random centres, as in a slice through many organs."""
    centres = np.random.default_rng(1).uniform(0, side, (count + 1, 2))
    y, x = np.mgrid[:side, :side]
    return ((y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2).argmin(-1).astype(np.uint8)


def rings() -> np.ndarray:
    """Layers of two pixels, one inside the other."""
    y, x = np.mgrid[:48, :48]
    return np.clip((20 - np.maximum(abs(x - 24), abs(y - 24))) // 3, 0, 4).astype(np.uint8)


@pytest.mark.parametrize(
    ("labels", "number"),
    [(organs(), 60), (organs(12, 40) * 20, 12), (np.array([0, 127, 255], np.uint8)[label_map()], 2), (rings(), 4)],
)
def test_label_maps_of_many_values_are_no_softened_masks(tmp_path, labels, number):
    for name in "ab":
        save(tmp_path, "masks", f"{name}.png", labels)
        save(tmp_path, "images", f"{name}.png", labels)
    assert len(read_data(tmp_path).id2label) == number + 1


def test_a_thin_label_in_one_slice_is_a_label_if_it_fills_pixels_in_another(tmp_path):
    thin = np.zeros((20, 20), np.uint8)
    thin[5:10, 5], thin[5:10, 6:12] = 2, 3
    thick = np.zeros((20, 20), np.uint8)
    thick[5:10, 5:10], thick[5:10, 10:16] = 2, 3
    for name, label in {"thin": thin, "thick": thick}.items():
        save(tmp_path, "masks", f"{name}.png", label)
        save(tmp_path, "images", f"{name}.png", label)
    assert list(read_data(tmp_path).id2label.values()) == ["background", "label_2", "label_3"]


@pytest.mark.parametrize("named", [False, True])
def test_a_probability_map_is_refused(tmp_path, named):
    soft = np.asarray(soften("blurred"), np.float32) / 255
    for directory in ("images", "masks"):
        (tmp_path / directory).mkdir()
        nib.save(nib.Nifti1Image(np.repeat(soft[..., None], 4, axis=2), np.eye(4)), tmp_path / directory / "p1.nii.gz")
    if named:
        (tmp_path / "labels.json").write_text('{"0": "background", "1": "lesion"}')
    with pytest.raises(ValueError, match=r"p1.*anti-aliased/softened at its border.*threshold"):
        read_all(tmp_path)


@pytest.mark.parametrize("named", [False, True])
def test_a_softened_scan_of_labels_is_refused(tmp_path, named):
    soft = np.repeat(np.asarray(soften("blurred"))[..., None], 4, axis=2)
    for directory in ("images", "masks"):
        (tmp_path / directory).mkdir()
        nib.save(nib.Nifti1Image(soft, np.eye(4)), tmp_path / directory / "p1.nii.gz")
    if named:
        (tmp_path / "labels.json").write_text('{"0": "background", "255": "lesion"}')
    with pytest.raises(ValueError, match=r"p1.*anti-aliased/softened at its border"):
        read_all(tmp_path)


def test_masks_of_0_and_1_and_of_0_and_255_are_not_two_labels(tmp_path):
    write(tmp_path, {"a.png": (label_map() > 0) * np.uint8(255), "b.png": Image.fromarray(label_map() > 0)})
    with pytest.raises(ValueError, match="the values 0, 1 and 255"):
        read_data(tmp_path)
