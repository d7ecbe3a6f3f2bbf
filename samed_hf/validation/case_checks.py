"""What one case's measures tell of its faults."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ..model.image_processing_samed import SamedImageProcessor
from ..volumes.geometry import check_orientation
from .measuring import CaseFacts
from .problems import Problem

__all__ = ["check_case", "opposites", "window_of"]

_TINY = 10
_SIDES = {
    "left": ("right", "L"),
    "anterior": ("posterior", "A"),
    "superior": ("inferior", "S"),
    "upper": ("lower", "S"),
}
_OPPOSITE = dict(zip("LRAPSI", "RLPAIS", strict=True))


def check_case(
    facts: CaseFacts, id2label: Mapping[int, str], processor: SamedImageProcessor, *, rescaled: bool = False
) -> list[Problem]:
    """The faults of one case that its measures show.

    Args:
        facts: the measures.
        id2label: names of the labels.
        processor: how the case was cut, and the window its intensities should fit.
        rescaled: the layout holds intensities in [0, 1].
    """
    found = [*_intensities(facts, processor, rescaled), *_labels(facts, id2label), *_sides(facts, id2label, processor)]
    if min(facts.shape[1:]) < 16:
        size = f"{facts.shape[2]}×{facts.shape[1]} pixels"
        found.append(("warning", "size", f"has slices of {size}: are they cut along the axis they should be?"))
    return [Problem(severity, kind, text, facts.name, facts.split) for severity, kind, text in found]


def _intensities(facts: CaseFacts, processor: SamedImageProcessor, rescaled: bool) -> list[tuple[str, str, str]]:
    if facts.sample is None:
        return []
    found = []
    if facts.not_finite:
        text = f"holds {facts.not_finite} NaN or infinite intensities: expected finite ones; replace them."
        found.append(("error", "not-finite", text))
    low, high = min(facts.low), max(facts.high)
    if low == high:
        found.append(("error", "constant", f"has the intensity {low:g} everywhere: there is nothing to see in it."))
    elif rescaled:
        found += _in_unit_range(low, high)
    else:
        for index, (least, most) in enumerate(zip(facts.low, facts.high, strict=True)):
            window = window_of(processor, index)
            if window and window[0] < 0 and least >= 0:
                channel = f"channel {index} " if len(facts.low) > 1 else ""
                found.append(("warning", "units", f"{channel}{_not_hounsfield(least, most)}"))
    return found


def window_of(processor: SamedImageProcessor, channel: int) -> list[float] | None:
    """The window of one channel."""
    windows = processor.intensity_window
    nested = windows is not None and any(window is None or isinstance(window, list) for window in windows)
    return windows[channel] if nested else windows


def _in_unit_range(low: float, high: float) -> list[tuple[str, str, str]]:
    """The Synapse layout holds windowed slices; a spline zoom may overshoot a little."""
    text = f"holds intensities from {low:g} to {high:g}: expected [0, 1], as this layout has them"
    if low < -0.5 or high > 1.5:
        return [("error", "range", f"{text}; apply the window first, as `samed-hf prepare synapse` does.")]
    if low < -0.05 or high > 1.05:
        return [("warning", "range", f"{text}.")]
    if high < 0.05:
        return [("warning", "range", f"{text}; were they divided twice?")]
    return []


def _not_hounsfield(low: float, high: float) -> str:
    guess = "expected Hounsfield units, of which air has −1000"
    if high <= 1:
        guess += "; they seem rescaled to [0, 1]"
    elif high <= 255:
        guess += "; they seem rescaled to 8 bits"
    elif high > 1200:
        guess += "; is an offset of 1024 still to be taken away?"
    return f"has intensities from {low:g} to {high:g}, none below 0: {guess}"


def _labels(facts: CaseFacts, id2label: Mapping[int, str]) -> list[tuple[str, str, str]]:
    if facts.voxels is None:
        return []
    total, inside = sum(facts.voxels), sum(facts.voxels[1:])
    if not inside:
        return [("warning", "empty", "has no label anywhere: is it meant to show nothing, or was it never labelled?")]
    found = []
    if tiny := [index for index, count in enumerate(facts.voxels) if index and 0 < count < _TINY]:
        several = ", ".join(f"{id2label[index]} {facts.voxels[index]}" for index in tiny)
        found.append(("warning", "tiny", f"has labels of a few voxels only ({several}): slips of the brush?"))
    if inside > 0.95 * total:
        text = f"leaves {1 - inside / total:.1%} to the background: are background and label exchanged?"
        found.append(("warning", "mostly-labelled", text))
    if text := _in_single_slices(facts.labelled):
        found.append(("warning", "sparse", text))
    return found


def _in_single_slices(labelled: Sequence[bool]) -> str | None:
    """Labels drawn in every n-th slice: all others would be trained on as background."""
    where = np.flatnonzero(labelled)
    gaps = np.diff(where)
    if len(where) < 4 or gaps.min() < 2 or gaps.max() > 2 * gaps.min():
        return None
    return (
        f"shows labels in {len(where)} of the {where[-1] - where[0] + 1} slices between the first and the last, never "
        "in two neighbours: the slices between would be trained on as background; fill them in, or take them out."
    )


def _sides(facts: CaseFacts, id2label: Mapping[int, str], processor: SamedImageProcessor) -> list[tuple[str, str, str]]:
    """Pairs of labels whose names say on which sides of each other they lie, and that don't."""
    # Without a spacing the files don't say how they lie.
    if facts.centers is None or processor.orientation is None or facts.spacing is None:
        return []
    letters = [check_orientation(processor.orientation)[axis] for axis in processor.axis_order]
    found = []
    for one, other, side in opposites(id2label):
        axis, sign = (letters.index(side), 1) if side in letters else (letters.index(_OPPOSITE[side]), -1)
        apart = sign * (facts.centers[one][axis] - facts.centers[other][axis]) * facts.spacing[axis]
        if apart < 0:  # False where either is missing
            found.append(
                (
                    "warning",
                    "swapped",
                    f"has {id2label[one]} {-apart:.0f} mm on the wrong side of {id2label[other]}: are the labels "
                    "exchanged, or the scan mirrored by its header?",
                )
            )
    return found


def opposites(id2label: Mapping[int, str]) -> list[tuple[int, int, str]]:
    """Pairs of labels that differ in one word alone, such as left and right.

    Returns:
        For each pair the two labels and the direction, e.g. "L", in which the first lies of the second.
    """
    by_name = {name.lower(): index for index, name in id2label.items()}
    pairs = []
    for name, index in by_name.items():
        for word, (opposite, side) in _SIDES.items():
            other = re.sub(rf"(?<![a-z]){word}(?![a-z])", opposite, name)
            if other != name and other in by_name:
                pairs.append((index, by_name[other], side))
    return pairs
