import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from samed_hf.reporting.charts import draw_curve
from samed_hf.reporting.colors import label_colors
from samed_hf.reporting.overlays import draw_overlay
from samed_hf.reporting.tables import format_scores

from ..conftest import TINY_LABELS

METRICS = {
    "protocol": "strict",
    "distance_unit": "mm",
    "mean": {"dice": 0.45, "hd95": 11.504},
    "per_class": {
        "left kidney": {"dice": 0.9, "hd95": 11.504, "cases": 2, "hd95_undefined": 0},
        "bar": {"dice": 0.0, "hd95": None, "cases": 1, "hd95_undefined": 1},
        "cyst": {"dice": None, "hd95": None, "cases": 0, "hd95_undefined": 0},
    },
    "per_case": {"a": {}, "b": {}},
}


# --------------------------------------------------------------------------------------------------------------- table


def test_the_table_of_scores():
    assert format_scores(METRICS).splitlines() == [
        "label           DSC     HD95 (mm)  cases",
        "----------------------------------------",
        "left kidney  0.9000         11.50      2",
        "bar          0.0000             -      1  (no HD95 in 1)",
        "cyst              -             -      0",
        "----------------------------------------",
        "mean         0.4500         11.50",
        "protocol strict, 2 cases; DSC from 0 to 1",
    ]


def test_the_table_without_what_older_files_lack():
    rows = {"disc": {"dice": 1.0, "hd95": 0.0}}
    metrics = METRICS | {"per_class": rows, "mean": {"dice": None, "hd95": None}, "protocol": "samed"}
    del metrics["distance_unit"]
    lines = format_scores(metrics).splitlines()
    assert "HD95 (voxel)" in lines[0]
    assert lines[2].split() == ["disc", "1.0000", "0.00"]
    assert lines[4].split() == ["mean", "-", "-"]
    assert lines[-1].startswith("protocol samed")


# -------------------------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize("num_labels", [1, 2, 9, 10, 11, 12, 14, 40])
def test_every_label_has_a_colour_of_its_own(num_labels):
    colors = label_colors(num_labels)
    assert colors.shape == (num_labels, 3)
    assert colors[0].tolist() == [0, 0, 0]
    assert colors.min() >= 0
    assert colors.max() <= 1
    assert len(np.unique(colors.round(2), axis=0)) == num_labels


def test_colours_are_seen_on_a_scan():
    # A grey one would vanish.
    assert (np.ptp(label_colors(9)[1:], axis=1) > 0.2).all()


# ------------------------------------------------------------------------------------------------------------- overlay


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, to look at what is in it."""
    drawn, save = [], Figure.savefig

    def keep(figure, *args, **kwargs):
        drawn.append(figure)
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return drawn


@pytest.fixture
def scan():
    """Ten slices of 8×12, each of a grey of its own; a disc in 2 to 7, most of it in 3, 4 and 7, and a bar."""
    image = np.broadcast_to(np.linspace(0.1, 0.9, 10)[:, None, None], (10, 8, 12)).copy()
    label = np.zeros((10, 8, 12), dtype=np.int64)
    label[2:8, 0, 0] = 1
    label[[3, 4, 7], 0, 1] = 1
    prediction = np.where(label == 1, 2, 0)
    return image, label, prediction


def pictures(figure):
    """What each panel shows, row by row, and the panels' titles."""
    return [np.asarray(axis.images[0].get_array()) for axis in figure.axes], [axis.get_title() for axis in figure.axes]


def is_png(path):
    with Image.open(path) as picture:
        picture.load()
        return picture.format == "PNG"


def test_overlay_shows_image_truth_and_prediction(figures, scan, tmp_path):
    image, label, prediction = scan
    draw_overlay(tmp_path / "a.png", image, label, prediction, TINY_LABELS, title="case a", slices=[4])
    assert is_png(tmp_path / "a.png")
    (gray, truth, predicted), titles = pictures(figures[0])
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
    shown, titles = pictures(figures[0])
    # Labelled are 2 to 7; of 2 and 3, 4 and 5, 6 and 7 those with most labels.
    assert titles[::3] == ["image, slice 3", "image, slice 4", "image, slice 7"]
    assert [picture[0, 0, 0] for picture in shown[::3]] == pytest.approx([scan[0][i, 0, 0] for i in (3, 4, 7)])


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (2, 2), (5, 3)])
def test_overlay_of_few_slices_without_labels(figures, tmp_path, count, rows):
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
    shown = pictures(figures[0])[0][0][..., 0]
    assert shown.size < image.size / 2
    assert np.sort(shown[shown > 0]) == pytest.approx(np.sort(image[image > 0]))


# --------------------------------------------------------------------------------------------------------------- curve


def rows_of(count, validated=()):
    rows = []
    for step in range(1, count + 1):
        row = {
            "step": step,
            "learning_rate": 0.005 / step,
            "loss": 2.0 / step,
            "cross_entropy": 1.0 / step,
            "dice": 1.0,
        }
        rows.append(row | ({"validation_dice": step / 100} if step in validated else {}))
    return rows


def lines_of(figure):
    lines = [line for axis in figure.axes for line in axis.get_lines()]
    return {line.get_label(): line for line in lines if not line.get_label().startswith("_")}


def test_curve_shows_losses_rate_and_validation(figures, tmp_path):
    rows = rows_of(40, validated=(20, 40))
    draw_curve(tmp_path / "curve.png", rows, title="a run")
    assert is_png(tmp_path / "curve.png")
    lines = lines_of(figures[0])
    assert set(lines) == {"loss", "cross-entropy", "Dice loss", "validation DSC", "learning rate"}
    for key, name in (("learning_rate", "learning rate"), ("dice", "Dice loss")):
        np.testing.assert_allclose(lines[name].get_xydata(), [(row["step"], row[key]) for row in rows])
    assert lines["validation DSC"].get_xydata().tolist() == [[20, 0.2], [40, 0.4]]
    # A mean over a twentieth of the run: the step and the one before, which the first step lacks.
    loss = [row["loss"] for row in rows]
    expected = [loss[0], *((one + two) / 2 for one, two in zip(loss[1:], loss, strict=False))]
    np.testing.assert_allclose(lines["loss"].get_ydata(), expected)
    assert figures[0].axes[0].get_title() == "a run"
    assert {text.get_text() for text in figures[0].axes[0].get_legend().get_texts()} == set(lines)


@pytest.mark.parametrize("count", [1, 19])
def test_curve_of_a_short_run_without_validation(figures, tmp_path, count):
    rows = rows_of(count)
    rows[0]["validation_dice"] = None
    draw_curve(tmp_path / "curve.png", rows)
    assert is_png(tmp_path / "curve.png")
    lines = lines_of(figures[0])
    assert set(lines) == {"loss", "cross-entropy", "Dice loss", "learning rate"}
    np.testing.assert_allclose(lines["loss"].get_ydata(), [row["loss"] for row in rows])


# --------------------------------------------------------------------------------------------------------------- files


def test_pictures_replace_older_ones_and_leave_nothing_else(scan, tmp_path):
    for name in ("overlay.png", "curve.png"):
        (tmp_path / name).write_bytes(b"old")
    draw_overlay(tmp_path / "overlay.png", *scan, TINY_LABELS, slices=[4])
    draw_curve(tmp_path / "curve.png", rows_of(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png", "overlay.png"]
    assert is_png(tmp_path / "overlay.png")
    assert is_png(tmp_path / "curve.png")


def test_a_picture_that_fails_leaves_the_old_one(scan, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"old")

    def fail(figure, file, **_):
        file.write(b"half")
        raise MemoryError

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(MemoryError):
        draw_overlay(tmp_path / "a.png", *scan, TINY_LABELS, slices=[4])
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
