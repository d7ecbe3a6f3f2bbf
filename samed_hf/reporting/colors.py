"""Colours of labels, the same in every overlay, chart and page."""

from __future__ import annotations

import matplotlib
import numpy as np

__all__ = ["hex_colors", "label_colors"]

_GREY = 7  # index in tab10; grey can't be seen on a scan


def label_colors(num_labels: int) -> np.ndarray:
    """Return one RGB colour for each label, of shape `(num_labels, 3)`, floats in [0, 1]; the background is black."""
    few = [color for index, color in enumerate(matplotlib.color_sequences["tab10"]) if index != _GREY]
    many = matplotlib.colormaps["gist_ncar"]
    count = num_labels - 1
    colors = few[:count] if count <= len(few) else [many(index / count)[:3] for index in range(count)]
    return np.array([(0.0, 0.0, 0.0), *colors])


def hex_colors(num_labels: int) -> list[str]:
    """Return [`label_colors`] for HTML, such as "#1f77b4"."""
    return [matplotlib.colors.to_hex(color) for color in label_colors(num_labels)]
