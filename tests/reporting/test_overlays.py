import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from samed_hf.reporting.charts import label_colors
from samed_hf.reporting.overlays import draw_overlay, write_examples

from ..conftest import TINY_LABELS


@pytest.fixture
def scan():
    """Ten slices of 8×12, each of a grey of its own; a disc in 2 to 7, most of it in 3, 4 and 7, and a bar."""
    image = np.broadcast_to(np.linspace(0.1, 0.9, 10)[:, None, None], (10, 8, 12)).copy()
    label = np.zeros((10, 8, 12), dtype=np.int64)
    label[2:8, 0, 0] = 1
    label[[3, 4, 7], 0, 1] = 1
    prediction = np.where(label == 1, 2, 0)
    return image, label, prediction


def panels(figure):
    """What each panel shows, row by row, and the panels' titles."""
    return [np.asarray(axis.images[0].get_array()) for axis in figure.axes], [axis.get_title() for axis in figure.axes]


def test_overlay_shows_image_truth_and_prediction(is_png, figures, scan, tmp_path):
    image, label, prediction = scan
    draw_overlay(tmp_path / "a.png", image, label, prediction, TINY_LABELS, title="case a", slices=[4])
    assert is_png(tmp_path / "a.png")
    (gray, truth, predicted), titles = panels(figures[0])
    assert titles == ["image, slice 4", "truth", "prediction"]
    assert figures[0].get_suptitle() == "case a"
    assert gray.shape == (8, 12, 3)
    np.testing.assert_allclose(gray, image[4, 0, 0])
    colors = label_colors(3)
    # Column x, and y from the bottom: (0, 0) and (1, 0) are the lower left corner.
    for picture, value in ((truth, 1), (predicted, 2)):
        painted = np.zeros((8, 12), dtype=bool)
        painted[7, :2] = True
        np.testing.assert_allclose(picture[painted], np.tile((image[4, 0, 0] + colors[value]) / 2, (2, 1)))
        np.testing.assert_allclose(picture[~painted], image[4, 0, 0])


def test_overlay_chooses_slices_spread_over_the_labelled_ones(figures, scan, tmp_path):
    draw_overlay(tmp_path / "a.png", *scan, TINY_LABELS)
    shown, titles = panels(figures[0])
    # Labelled are 2 to 7; of 2 and 3, 4 and 5, 6 and 7 those with most labels.
    assert titles[::3] == ["image, slice 3", "image, slice 4", "image, slice 7"]
    assert [picture[0, 0, 0] for picture in shown[::3]] == pytest.approx([scan[0][i, 0, 0] for i in (3, 4, 7)])


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (2, 2), (5, 3)])
def test_overlay_of_few_slices_without_labels(is_png, figures, tmp_path, count, rows):
    nothing = np.zeros((count, 6, 6), dtype=np.int64)
    draw_overlay(tmp_path / "a.png", np.full((count, 6, 6), 0.5), nothing, nothing, TINY_LABELS)
    assert is_png(tmp_path / "a.png")
    assert len(figures[0].axes) == 3 * rows
    assert figures[0].legends == []


def test_overlay_names_what_is_in_either(figures, scan, tmp_path):
    image, label, prediction = scan
    names = {0: "background", 1: "disc", 2: "bar", 3: "cyst"}
    label[0, 5, 5] = 3
    for slices, expected in (([4], ["disc", "bar"]), ([0], ["cyst"]), ([0, 4], ["disc", "bar", "cyst"])):
        draw_overlay(tmp_path / "a.png", image, label, prediction, names, slices=slices)
        legend = figures[-1].legends[0]
        assert [text.get_text() for text in legend.get_texts()] == expected
    colors = [handle.get_facecolor()[:3] for handle in legend.legend_handles]
    np.testing.assert_allclose(colors, label_colors(4)[1:])


def test_overlay_has_the_proportions_of_the_patient(figures, scan, tmp_path):
    for spacing, aspect in ((None, 1.0), ((5.0, 0.8, 0.8), 1.0), ((5.0, 2.5, 1.0), 2.5)):
        draw_overlay(tmp_path / "a.png", *scan, TINY_LABELS, slices=[4], spacing=spacing)
        assert [axis.get_aspect() for axis in figures[-1].axes] == pytest.approx([aspect] * 3)


def test_overlay_leaves_out_the_air_around_and_no_part_of_the_body(figures, tmp_path):
    image = np.zeros((1, 40, 60))
    image[0, 10:20, 30:50] = np.linspace(0.1, 1, 200).reshape(10, 20)
    nothing = np.zeros((1, 40, 60), dtype=np.int64)
    draw_overlay(tmp_path / "a.png", image, nothing, nothing, TINY_LABELS)
    shown = panels(figures[0])[0][0][..., 0]
    assert shown.size < image.size / 2
    assert np.sort(shown[shown > 0]) == pytest.approx(np.sort(image[image > 0]))


def test_an_overlay_replaces_an_older_one(is_png, scan, tmp_path):
    (tmp_path / "a.png").write_bytes(b"old")
    draw_overlay(tmp_path / "a.png", *scan, TINY_LABELS, slices=[4])
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert is_png(tmp_path / "a.png")


def test_an_overlay_that_fails_leaves_the_older_one(scan, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"old")

    def fail(figure, file, **_):
        file.write(b"half")
        raise MemoryError

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(MemoryError):
        draw_overlay(tmp_path / "a.png", *scan, TINY_LABELS, slices=[4])
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_examples_are_the_slices_with_most_labels(scan, tmp_path):
    image, label, _ = scan
    paths = write_examples(tmp_path / "examples", "case", np.stack([image, image], axis=1), label)
    assert [path.name for path in paths] == [f"case-slice-{index}.png" for index in (3, 4, 7)]
    for path, index in zip(paths, (3, 4, 7), strict=True):
        with Image.open(path) as example:
            assert example.mode == "L"
            np.testing.assert_array_equal(example, np.round(image[index] * 255))
