"""Presets that scale a scan's intensities to [0, 1]: CT windows, percentiles of MR, the range of images."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

__all__ = [
    "CT_WINDOW",
    "PREPROCESSING",
    "check_percentiles",
    "check_windows",
    "guess_preprocessing",
    "intensity_range",
    "is_nested",
    "preprocessing_settings",
    "warn_if_rescaled",
]

logger = logging.getLogger(__name__)

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


def is_nested(windows: Sequence[Any]) -> bool:
    """Whether there is a window, or `None`, for each channel, rather than one for all."""
    return any(window is None or isinstance(window, list | tuple) for window in windows)


def check_windows(windows: Any) -> list[Any] | None:
    """The intensity window or windows as lists of floats; a `ValueError` if bounds aren't two increasing numbers."""
    if windows is None:
        return None
    if isinstance(windows, list | tuple) and is_nested(windows):
        return [check_windows(one) for one in windows]
    expected = "a lower and a higher bound, e.g. (-125, 275), or a list of them for each channel"
    low, high = _pair("intensity_window", windows, expected)
    if not low < high:
        raise ValueError(f"intensity_window is ({low}, {high}): expected {expected}.")
    return [low, high]


def intensity_range(low: float, high: float) -> tuple[float, float] | None:
    """The range that becomes [0, 1] for images of more than 8 bits whose values reach from `low` to `high`.

    That of the least of 8, 10, 12, 14 and 16 bits that hold them, e.g. (0, 4095); `None` for values in [0, 1].
    """
    if low < 0 or high > 65535:
        return min(low, 0.0), max(high, low + 1)
    return None if high <= 1 else (0.0, next(2.0**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits))


def check_percentiles(percentiles: Any) -> list[float] | None:
    """The percentiles as floats; a `ValueError` if they aren't two increasing numbers from 0 to 100."""
    if percentiles is None:
        return None
    low, high = _pair("percentiles", percentiles, "two increasing numbers from 0 to 100")
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles is ({low}, {high}): expected two increasing numbers from 0 to 100.")
    return [low, high]


def _pair(name: str, values: Any, expected: str) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {values!r}: expected {expected}.") from None
    return low, high


def warn_if_rescaled(image: Any, bounds: Sequence[Sequence[float]]) -> None:
    """Warn once if floating point intensities, of an array or a tensor, are in [0, 1] and a window is far wider."""
    low, high = max(bounds, key=lambda bound: bound[1] - bound[0])
    if high - low > 10 and "float" in str(image.dtype) and 0 <= image.min() < image.max() <= 1:
        _warn_once(
            f"The intensities are floating point numbers from 0 to 1, and the intensity window is {low:g} to {high:g}: "
            "give them in the window's unit. SamedImageProcessor takes intensities in [0, 1] with do_rescale=False."
        )


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
