import numpy as np
import pytest
from matplotlib.figure import Figure

from samed_hf.reporting.charts import (
    add_legend,
    draw_curve,
    finish_svg,
    finite_column,
    hex_colors,
    label_colors,
    shorten,
)


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


def test_curve_shows_losses_rate_and_validation(is_png, figures, tmp_path):
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
def test_curve_of_a_short_run_without_validation(is_png, figures, tmp_path, count):
    rows = rows_of(count)
    rows[0]["validation_dice"] = None
    draw_curve(tmp_path / "curve.png", rows)
    assert is_png(tmp_path / "curve.png")
    lines = lines_of(figures[0])
    assert set(lines) == {"loss", "cross-entropy", "Dice loss", "learning rate"}
    np.testing.assert_allclose(lines["loss"].get_ydata(), [row["loss"] for row in rows])


def test_a_column_has_its_finite_numbers():
    rows = [{"step": 1, "loss": 0.5}, {"step": 2}, {"step": 3, "loss": None}, {"step": 4, "loss": float("nan")}]
    steps, values = finite_column(rows, "loss")
    assert (steps.tolist(), values.tolist()) == ([1], [0.5])
    assert len(finite_column(rows, "other")[0]) == 0


def test_names_in_a_chart_are_literal():
    figure = Figure()
    axis = figure.subplots()
    lines = [axis.plot([0, 1])[0] for _ in range(2)]
    add_legend(figure, lines, ["_hidden", "$x^2"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["_hidden", "$x^2"]
    assert b"$x^2" in finish_svg(figure, axis)
    assert shorten("left kidney\n", 8) == "left ki…"


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


def test_colours_of_pages_are_those_of_images():
    assert hex_colors(3) == ["#000000", "#1f77b4", "#ff7f0e"]
