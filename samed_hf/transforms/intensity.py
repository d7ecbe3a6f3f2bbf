"""Presets that scale a scan's intensities to [0, 1]: CT windows, percentiles of MR, the range of images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["CT_WINDOW", "PREPROCESSING", "guess_preprocessing", "preprocessing_settings"]

CT_WINDOW = (-125.0, 275.0)
"""The intensity window of SAMed in HU."""

_WINDOWS = {
    "ct": CT_WINDOW,
    "ct_soft_tissue": (-160.0, 240.0),
    "ct_liver": (-45.0, 105.0),
    "ct_lung": (-1350.0, 150.0),
    "ct_bone": (-500.0, 1300.0),
    "ct_brain": (0.0, 80.0),
}

PREPROCESSING: dict[str, dict[str, Any]] = {
    **{name: {"intensity_window": window} for name, window in _WINDOWS.items()},
    "mr": {"intensity_window": None, "percentiles": (0.5, 99.5)},
    "picture": {"intensity_window": None, "percentiles": None},
}
"""Arguments of [`SamedImageProcessor`] by the preset's name: "ct" is SAMed's abdominal window, in HU."""


def guess_preprocessing(channel_names: Sequence[str], *, pictures: bool = False) -> list[str]:
    """The preset of each channel by its name in the data set, e.g. "CT", "T1", "FLAIR".

    Args:
        channel_names: of the scan.
        pictures: whether the files are images (PNG, JPEG, …).

    Returns:
        "ct", "picture" or, for all other scans, "mr" for each channel.
    """
    return ["picture" if pictures else _guess(name) for name in channel_names]


def _guess(channel_name: str) -> str:
    words = set(re.findall(r"[a-z]+", channel_name.lower()))
    if words & {"ct", "cbct", "hounsfield"}:
        return "ct"
    return "picture" if words & {"nonorm", "rescale", "rgb"} else "mr"


def preprocessing_settings(presets: Sequence[str]) -> dict[str, Any]:
    """Arguments of [`SamedImageProcessor`] for a list with the preset of each channel.

    Raises:
        ValueError: a preset is unknown, or "picture" is mixed with presets of scans.
    """
    unknown = [name for name in presets if name not in PREPROCESSING]
    if unknown:
        raise ValueError(f"preprocessing is {unknown[0]!r}: expected one of {', '.join(PREPROCESSING)}.")
    settings = [PREPROCESSING[name] for name in presets]
    windows = [one["intensity_window"] for one in settings]
    scaled = {one["percentiles"] for one in settings if one["intensity_window"] is None}
    if len(scaled) > 1:
        raise ValueError(f"preprocessing is {', '.join(presets)}: expected picture for all channels or for none.")
    percentiles = scaled.pop() if scaled else (0.5, 99.5)
    same = all(window == windows[0] for window in windows)
    return {"intensity_window": windows[0] if same else windows, "percentiles": percentiles}
