import numpy as np
import pytest

from samed_hf.reporting.colors import hex_colors, label_colors


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
