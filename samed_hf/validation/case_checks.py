"""Checks of a single case by its measurements."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from ..model.image_processing_samed import SamedImageProcessor
from ..volumes.geometry import check_orientation
from .measuring import CaseFacts
from .problems import Problem

__all__ = ["check_case", "looks_like_ct", "opposites"]

_TINY = 10  # voxels
_SMALL_SIDE = 16  # pixels
_ENDS = (("left", "right", "L"), ("anterior", "posterior", "A"), ("superior", "inferior", "S"), ("upper", "lower", "S"))
_OPPOSITE = dict(zip("LRAPSI", "RLPAIS", strict=True))

_Finding = tuple[str, str, str]  # severity, kind, text


def check_case(
    facts: CaseFacts, id2label: Mapping[int, str], processor: SamedImageProcessor, *, rescaled: bool = False
) -> list[Problem]:
    """Check the measurements of one case; `rescaled` if the layout stores intensities in [0, 1]."""
    findings = [*_intensities(facts, processor, rescaled), *_labels(facts, id2label)]
    findings += _sides(facts, id2label, processor)
    if min(facts.shape[1:]) < _SMALL_SIDE:
        size = f"{facts.shape[2]}×{facts.shape[1]} pixels"
        findings.append(("warning", "size", f"has slices of {size}: are they cut along the intended axis?"))
    return [Problem(severity, kind, text, facts.name, facts.split) for severity, kind, text in findings]


def _intensities(facts: CaseFacts, processor: SamedImageProcessor, rescaled: bool) -> Iterator[_Finding]:
    if facts.sample is None:
        return
    if facts.not_finite:
        text = f"has {facts.not_finite} NaN or infinite intensities: expected finite ones; replace them."
        yield "error", "not-finite", text
    low, high = min(facts.low), max(facts.high)
    if low == high:
        yield "error", "constant", f"has the intensity {low:g} everywhere: the scan has no content."
    elif rescaled:
        # Slices of the Synapse layout are windowed; a spline zoom may overshoot a little.
        text = f"has intensities from {low:g} to {high:g}: expected [0, 1] in this layout"
        if low < -0.5 or high > 1.5:
            yield "error", "range", f"{text}; apply the window first, as `samed-hf prepare synapse` does."
        elif low < -0.05 or high > 1.05:
            yield "warning", "range", f"{text}."
        elif high < 0.05:
            yield "warning", "range", f"{text}; were they divided twice?"
    else:
        for index, (least, most) in enumerate(zip(facts.low, facts.high, strict=True)):
            window = processor.channel_windows[index]
            if window and window[0] < 0 and least >= 0:
                channel = f"channel {index} " if len(facts.low) > 1 else ""
                text = f"{channel}has intensities from {least:g} to {most:g}, none below 0: expected Hounsfield units"
                text += ", in which air is −1000"
                if most <= 1:
                    text += "; they seem rescaled to [0, 1]"
                elif most <= 255:
                    text += "; they seem rescaled to 8 bits"
                elif most > 1200:
                    text += "; does an offset of 1024 have to be subtracted?"
                yield "warning", "units", text


def looks_like_ct(low: float, high: float) -> bool:
    """Return whether the percentiles 1 and 99.5 of intensities are those of air and bone in Hounsfield units."""
    return -1100 <= low <= -200 and high > 100


def _labels(facts: CaseFacts, id2label: Mapping[int, str]) -> Iterator[_Finding]:
    if not facts.voxels:
        return
    total, inside = sum(facts.voxels), sum(facts.voxels[1:])
    if not inside:
        text = "has no labelled voxel: is it a scan without these structures, or unlabelled?"
        yield "warning", "empty", text
        return
    if tiny := [index for index, count in enumerate(facts.voxels) if index and 0 < count < _TINY]:
        several = ", ".join(f"{id2label[index]} {facts.voxels[index]}" for index in tiny)
        yield "warning", "tiny", f"has labels of a few voxels only ({several}): slips of the brush?"
    if inside > 0.95 * total:
        text = f"has {1 - inside / total:.1%} background: are background and label exchanged?"
        yield "warning", "mostly-labelled", text
    # Labels that are drawn in every n-th slice only.
    where = np.flatnonzero(facts.labelled)
    gaps = np.diff(where)
    if len(where) >= 4 and gaps.min() >= 2 and gaps.max() <= 2 * gaps.min():
        text = (
            f"has labels in {len(where)} of the {where[-1] - where[0] + 1} slices between the first and the last, "
            "never in two neighbours: training would learn the slices between as background; label or remove them."
        )
        yield "warning", "sparse", text


def _sides(facts: CaseFacts, id2label: Mapping[int, str], processor: SamedImageProcessor) -> Iterator[_Finding]:
    """Find pairs of labels that are not on the sides of each other that their names state."""
    if facts.centers is None or processor.orientation is None or facts.spacing is None:
        return  # files without a spacing have no orientation either
    letters = [check_orientation(processor.orientation)[axis] for axis in processor.axis_order]
    for one, other, side in opposites(id2label):
        axis, sign = (letters.index(side), 1) if side in letters else (letters.index(_OPPOSITE[side]), -1)
        distance = sign * (facts.centers[one][axis] - facts.centers[other][axis]) * facts.spacing[axis]
        if distance < 0:  # NaN, which is not below 0, if a label is missing
            text = (
                f"has {id2label[one]} {-distance:.0f} mm on the wrong side of {id2label[other]}: are the labels "
                "exchanged, or is the scan mirrored by its header?"
            )
            yield "warning", "swapped", text


def opposites(id2label: Mapping[int, str]) -> list[tuple[int, int, str]]:
    """Find labels that differ in a side only: (1, 2, "L") for 1 "left lung" and 2 "right lung", the first on the L."""
    by_name = {name.lower(): index for index, name in id2label.items()}
    pairs = []
    for name, index in by_name.items():
        for word, opposite, side in _ENDS:
            other = re.sub(rf"(?<![a-z]){word}(?![a-z])", opposite, name)
            if other != name and other in by_name:
                pairs.append((index, by_name[other], side))
    return pairs
