"""Presets that scale a scan's intensities to [0, 1]: CT windows, percentiles of MR, the range of images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["CT_WINDOW", "PREPROCESSING", "guess_preprocessing", "preprocessing_settings"]

CT_WINDOW = (-125.0, 275.0)  # of SAMed, in HU
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
    """The preset of each channel by its name, e.g. "CT" or "T1": "ct", "mr" or, also for all `pictures`, "picture"."""
    presets = []
    for name in channel_names:
        words = set(re.findall(r"[a-z]+", name.lower()))
        is_picture = pictures or words & {"nonorm", "rescale", "rgb"}
        is_ct = not pictures and words & {"ct", "cbct", "hounsfield"}
        presets.append("ct" if is_ct else "picture" if is_picture else "mr")
    return presets


def preprocessing_settings(presets: Sequence[str]) -> dict[str, Any]:
    """Arguments of [`SamedImageProcessor`] for the preset of each channel; "picture" mixes with no other preset."""
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
