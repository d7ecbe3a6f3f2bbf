"""Labels corrected by hand in the exported page: what is downloaded differs exactly where the brush was."""

import re

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from ..conftest import TINY_LABELS

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = [pytest.mark.slow, pytest.mark.browser]

FIRST, SECOND = 1, 2


def _read(path):
    return np.asarray(nib.load(path).dataobj).copy()


def _place(page):
    """The crosshair as the page states it, in mm."""
    found = re.match(r"(-?[\d.]+), (-?[\d.]+), (-?[\d.]+) mm: ", page.text("place"))
    return np.array([float(value) for value in found.groups()])


def _disc(image, place, diameter, across):
    """The voxels of the slice across array axis `across` whose centres are in the brush around the voxel at a place."""
    centre = np.rint(np.linalg.solve(image.affine[:3, :3], place - image.affine[:3, 3]))
    offsets = np.indices(image.shape).reshape(3, -1).T - centre
    mm = np.linalg.norm(offsets * np.linalg.norm(image.affine[:3, :3], axis=0), axis=1)
    return ((mm <= diameter / 2 + 1e-5) & (offsets[:, across] == 0)).reshape(image.shape)


def test_brush_eraser_and_undo(page, page_scan, tmp_path):
    from selenium.webdriver.common.keys import Keys

    # Axes of the array: from the head, to the left, to the front; turned by 17 degrees in the axial plane.
    turn = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
    affine = nib.affines.from_matvec(turn @ np.array([[0, -3, 0], [0, 0, 2.0], [-9, 0, 0]]), [100, -80, 33])
    stored = np.transpose(np.asarray(nib.load(page_scan).dataobj), (2, 0, 1))
    nib.save(nib.Nifti1Image(stored, affine), tmp_path / "scan.nii.gz")
    image = nib.load(page.segment(tmp_path / "scan.nii.gz").save())
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    predicted = np.asarray(image.dataobj).copy()
    planes = page.browser.find_element("id", "planes")

    # A press paints one disc in the axial slice, across the array's first axis.
    page.set(view=0, painted=FIRST, size=25)
    page.choose("brush")
    page.stroke((0.45, 0.4))
    expected = np.where(_disc(image, _place(page), 25, 0), FIRST, predicted)
    np.testing.assert_array_equal(_read(page.save()), expected)
    count = np.count_nonzero(expected != predicted)
    assert count > 20
    ml = np.count_nonzero(expected == FIRST) * abs(np.linalg.det(affine[:3, :3])) / 1000
    assert f"{TINY_LABELS[FIRST]}{ml:.1f} ml" in page.text("legend")

    # The key paints in the sagittal slice, across the second; the status, which screen readers speak, counts voxels.
    page.set(view=2, painted=SECOND, size=30)
    planes.send_keys(Keys.ARROW_UP, Keys.PAGE_UP, " ")
    assert f"{TINY_LABELS[SECOND]}: " in page.text()
    second = np.where(_disc(image, _place(page), 30, 1), SECOND, expected)
    np.testing.assert_array_equal(_read(page.save()), second)

    # The eraser clears its own label only, in the coronal slice, across the third.
    page.set(view=1)
    planes.send_keys("e ")
    disc = _disc(image, _place(page), 30, 2)
    erased = np.where(disc & (second == SECOND), 0, second)
    assert np.any(second[disc] != erased[disc])
    np.testing.assert_array_equal(_read(page.save()), erased)

    # A way leaves no holes; each undo takes one stroke back.
    page.set(view=0, size=8)
    planes.send_keys("b")
    page.stroke((0.3, 0.4), (0.6, 0.5))
    way = _read(page.save())
    changed = np.argwhere(way != erased)
    assert set(way[tuple(changed.T)]) == {SECOND}
    assert len(np.unique(changed[:, 0])) == 1
    columns = np.unique(np.argwhere(way == SECOND)[:, 1])
    assert len(set(range(changed[:, 1].min(), changed[:, 1].max() + 1)) - set(columns)) == 0
    for state in (erased, second, expected, predicted):
        planes.send_keys(Keys.CONTROL, "z")
        np.testing.assert_array_equal(_read(page.save()), state)
    planes.send_keys(Keys.CONTROL, "y")
    page.click("redo")
    np.testing.assert_array_equal(_read(page.save()), second)

    # In the mode "navigate" a press moves the crosshair and changes nothing.
    planes.send_keys("n")
    before = page.text("place")
    page.stroke((0.6, 0.6))
    assert page.text("place") != before
    np.testing.assert_array_equal(_read(page.save()), second)


def test_corrections_are_not_lost(page, page_scan):
    leaving = """const leave = new Event("beforeunload", {cancelable: true}); dispatchEvent(leave);
        return leave.defaultPrevented;"""
    page.segment(page_scan)
    assert page.browser.switch_to.active_element.get_attribute("id") == "save"  # for the keyboard, as Cancel is hidden
    assert not page.browser.execute_script(leaving)
    page.choose("brush")
    page.set(size=20)
    page.stroke((0.2, 0.7), kind="touch")
    assert "painted" in page.text()
    assert page.browser.execute_script(leaving)
    for act in (lambda: page.click("segment"), lambda: page.give(page_scan)):
        act()
        page.browser.switch_to.alert.dismiss()
        assert page.browser.find_element("id", "save").is_enabled()
    page.save()
    assert not page.browser.execute_script(leaving)  # they are downloaded

    page.choose("brush")
    page.stroke((0.2, 0.7), (0.3, 0.7))
    page.click("segment")
    page.browser.switch_to.alert.accept()
    page.until("Done in")


def test_an_image_is_corrected(page, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (40, 50), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "image.png")
    predicted = np.asarray(Image.open(page.segment(tmp_path / "in" / "image.png").save()))
    page.choose("brush")
    page.set(painted=SECOND, size=9)
    page.stroke((0.5, 0.5))
    rows, columns = np.indices(predicted.shape)
    found = np.asarray(Image.open(page.save()))
    painted = np.argwhere(found != predicted)
    centre = np.rint((painted.min(0) + painted.max(0)) / 2)  # random labels: about the middle of the image
    assert np.abs(centre - [20, 25]).max() <= 1
    discs = [(rows - y) ** 2 + (columns - x) ** 2 <= 4.5**2 for y in range(18, 23) for x in range(23, 28)]
    assert any(np.array_equal(found, np.where(disc, SECOND, predicted)) for disc in discs)
