import io

import numpy as np
import pytest
from PIL import Image

from samed_hf.reporting.charts import figure_jpeg, label_colors
from samed_hf.reporting.preview import draw_preview, representative_slices, slice_plane
from samed_hf.volumes import Volume, reorient

NAMES = {0: "background", 1: "liver", 2: "left kidney"}
# x runs to the left, y to the back, z upwards.
LPS = np.diag([-1.0, -1.0, 2.0, 1.0])


@pytest.fixture
def scan():
    """Bright all over, and brightest in the right front upper corner."""
    array = np.full((12, 10, 8), 0.5)
    array[0, 0, 7] = 1.0
    array[11, 9, 0] = 0.0
    return Volume(array, LPS)


@pytest.fixture
def labels():
    array = np.zeros((12, 10, 8), dtype=np.uint8)
    array[1:4, 1:9, 1:7] = 1
    array[8, 5, 3] = 2
    return array


def shown(figure):
    """What the panels show of the scan, row by row."""
    return [np.asarray(axis.images[0].get_array())[..., 0] for axis in figure.axes]


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in [axis.title, *axis.texts] if text.get_text()]


@pytest.mark.parametrize(
    ("orientation", "axis", "plane"),
    [("LPS", 2, "axial"), ("RAS", 2, "axial"), ("PIR", 0, "coronal"), ("ASL", 2, "sagittal"), ("LPI", 1, "coronal")],
)
def test_planes(orientation, axis, plane):
    assert slice_plane(orientation, axis) == plane


@pytest.mark.parametrize(
    ("plane", "shape", "corner", "sides"),
    [
        # The corner is seen from the feet (right, front), from the front (right, top), from the left (front, top).
        ("axial", (10, 12), (slice(None), slice(None), 7), ["R", "A"]),
        ("coronal", (8, 12), (slice(None), 0, slice(None)), ["R", "S"]),
        ("sagittal", (8, 10), (0, slice(None), slice(None)), ["A", "S"]),
    ],
)
@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR", "ASL", "SRP"])
def test_slices_are_upright_for_any_orientation_of_the_file(scan, labels, plane, shape, corner, sides, orientation):
    labels[...] = 0
    labels[corner] = 1  # one slice of the plane, that with the bright corner
    turned = reorient(scan, orientation)
    mask = reorient(Volume(labels, scan.affine), orientation).array
    figure = draw_preview(turned, mask, NAMES, plane=plane, window=(0, 1))
    panels = shown(figure)
    number = next(i for i, panel in enumerate(panels[:3]) if panel.max() == 1)
    assert panels[number].shape == shape
    assert panels[number][0, 0] == 1.0
    assert [text for text in texts(figure) if len(text) == 1] == sides * 2
    # The title has the slice's number in the file's order.
    axis = next(
        i for i, letter in enumerate(orientation) if letter in {"axial": "SI", "coronal": "AP"}.get(plane, "RL")
    )
    own = np.flatnonzero(np.moveaxis(turned.array, axis, 0).max(axis=(1, 2)) == 1)[0] + 1
    assert figure.axes[number].get_title() == f"{plane} slice {own} of {turned.grid[axis]}"


def test_pixels_have_the_aspect_of_the_spacing(scan, labels):
    for plane, aspect in (("axial", 1.0), ("coronal", 2.0), ("sagittal", 2.0)):
        figure = draw_preview(scan, labels, NAMES, plane=plane)
        assert {axis.get_aspect() for axis in figure.axes} == {aspect}


def test_labels_have_their_colours_and_names(scan, labels):
    names = NAMES | {1: "_liver $x_1$", 2: "left <kidney>"}
    figure = draw_preview(scan, labels, names, title="$x^ {case}")
    assert figure.get_suptitle() == "$x^ {case}"
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["_liver $x_1$", "left <kidney>"]
    np.testing.assert_allclose([handle.get_facecolor()[:3] for handle in legend.legend_handles], label_colors(3)[1:])
    fills = [np.asarray(axis.images[1].get_array()) for axis in figure.axes[:3]]
    assert all(len(axis.images) == 1 for axis in figure.axes[3:])
    kidney = next(fill for fill in fills if (fill[..., 2] == label_colors(3)[2][2]).any())
    np.testing.assert_allclose(kidney[5, 8, :3], label_colors(3)[2])
    assert kidney[5, 8, 3] > 0
    assert kidney[5, 9, 3] == 0


def test_no_label_at_all(scan):
    figure = draw_preview(scan, np.zeros(scan.grid, dtype=np.uint8), NAMES)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["nothing found"]
    assert len(figure.axes) == 6


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 4, 1), (1, 6, 7), (9, 1, 2)])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_smallest_scans(shape, plane):
    for value in (0, 1):
        labels = np.full(shape, value, dtype=np.uint8)
        content = io.BytesIO(figure_jpeg(draw_preview(Volume(np.zeros(shape), LPS), labels, NAMES, plane=plane)))
        assert Image.open(content).format == "JPEG"


def test_only_the_first_labels_are_named():
    labels = np.arange(1, 49, dtype=np.uint16).reshape(8, 6, 1)
    names = {index: f"label {index}" for index in range(49)}
    figure = draw_preview(Volume(np.ones((8, 6, 1)), LPS), labels, names)
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(named) == 25
    assert named[-1] == "and 24 more"


def test_images_keep_their_orientation():
    array = np.random.default_rng(0).integers(0, 255, (9, 6, 1, 3), dtype=np.uint8)
    labels = np.zeros((9, 6, 1), dtype=np.uint8)
    labels[1, 4] = 1
    figure = draw_preview(Volume(array, LPS, is_image=True), labels, NAMES)
    painted, plain = figure.axes
    np.testing.assert_allclose(plain.images[0].get_array(), array[:, :, 0].swapaxes(0, 1) / 255)
    assert np.argwhere(np.asarray(painted.images[1].get_array())[..., 3]).tolist() == [[4, 1]]


def test_representative_slices_show_small_labels():
    masks = np.zeros((30, 6, 6), dtype=np.uint8)
    masks[3:27, :5] = 1
    masks[9, 5, 5] = 2  # one pixel, but all there is of it
    assert representative_slices(masks)[0] == 9
    assert len(representative_slices(masks)) == 3


def test_representative_slices_are_no_neighbours():
    masks = np.ones((20, 4, 4), dtype=np.uint8)
    first, second, third = representative_slices(masks)
    assert min(second - first, third - second) >= 5
    # A label that fades out would draw all to one end.
    for index in range(20):
        masks[index, :, : 4 - index // 5] = 0
    chosen = representative_slices(masks)
    assert min(np.diff(chosen)) >= 4


@pytest.mark.parametrize(("count", "labelled", "expected"), [(1, [0], [0]), (2, [1], [0, 1]), (9, [], [2, 4, 6])])
def test_representative_slices_of_few(count, labelled, expected):
    masks = np.zeros((count, 3, 3), dtype=np.uint8)
    masks[labelled] = 1
    assert representative_slices(masks) == expected
    masks = np.zeros((9, 3, 3), dtype=np.uint8)
    masks[8] = 1
    assert 8 in representative_slices(masks)
