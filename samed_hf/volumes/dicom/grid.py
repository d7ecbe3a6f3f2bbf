"""The regular grid of a DICOM series: the order of its images, the affine, and errors for irregular series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...utils.text import printable
from .frames import Frame, what_differs

__all__ = ["Grid", "arrange", "differing_images_error"]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ADVICE = "move the slices of each stack into a directory of their own."


class Grid(NamedTuple):
    """The slices of a series in order along their normal."""

    slices: list[list[Frame]]  # of each slice its images, several if it is duplicated
    affine: np.ndarray  # (4, 4), indices (column, row, slice) to mm, RAS+
    notes: tuple[str, ...]


def arrange(frames: Sequence[Frame], name: Path) -> Grid:
    """Order the images of a series by their position along their normal, and find their grid.

    File names and instance numbers are ignored. Scanners round positions, to 0.1 mm at worst: a slice may be 0.1 mm off
    the regular grid, but at most a fifth of the distance between slices if that is less, or 2 % of it if that is more.
    """
    _check_alike(frames, name)
    first = frames[0]
    slices = _planes(frames, name)
    if len(slices) == 1:
        distance = first.between or first.thickness
        source = "the header's" if distance else "assumed, as the header has none"
        step = first.normal * (distance or 1.0)
        notes: tuple[str, ...] = (f"a single slice; its thickness of {_mm(distance or 1.0)} mm is {source}",)
    else:
        step, notes = _regular_step(slices, name)
    affine = np.eye(4)
    affine[:3, :2] = first.directions.T * first.spacing
    affine[:3, 2] = step
    affine[:3, 3] = slices[0][0].position
    return Grid(slices, _LPS_TO_RAS @ affine, notes)


def differing_images_error(frames: list[Frame], name: Path) -> ValueError:
    """Make the error for several images at one position that are not the same."""
    differs = what_differs(frames)
    names = [printable(frame.path.name) for frame in frames[:2]]
    advice = _ADVICE
    if frames[0].path == frames[1].path:
        names = [f"frame {frame.index + 1}" for frame in frames[:2]]
        advice = "read one of them at a time (frame, --frames)."
    return ValueError(
        f"{printable(name)} holds {len(frames)} different images at the same position "
        f"({_mm(frames[0].position @ frames[0].normal)} mm), e.g. {names[0]} and {names[1]}, as of several echoes, "
        f"phases or time points{f' ({differs})' if differs else ''}; {advice}"
    )


def _check_alike(frames: Sequence[Frame], name: Path) -> None:
    first = frames[0]
    for frame in frames[1:]:
        if frame.size != first.size:
            what = f"sizes, {_times(first.size)} and {_times(frame.size)} pixels"
        elif not np.allclose(frame.spacing, first.spacing, rtol=1e-3, atol=0):
            what = f"pixel spacings, {_times(first.spacing)} and {_times(frame.spacing)} mm"
        elif not np.allclose(frame.directions, first.directions, rtol=0, atol=1e-3):
            what = "directions of their slices"
        else:
            continue
        raise ValueError(
            f"{printable(name)} holds images of different {what} ({printable(first.path.name)}, "
            f"{printable(frame.path.name)}), expected one stack of parallel slices; {_ADVICE}"
        )


def _planes(frames: Sequence[Frame], name: Path) -> list[list[Frame]]:
    """Return the images in order, grouped by plane."""
    normal = frames[0].normal
    along = [float(frame.position @ normal) for frame in frames]
    # No scanner's slices are as close as this; exports of one image differ by rounding alone.
    near = min(0.01, 0.1 * min(frames[0].spacing))
    slices: list[list[Frame]] = []
    last = -np.inf
    for i in sorted(range(len(frames)), key=along.__getitem__):
        if along[i] - last > near:
            slices.append([])
            last = along[i]
        elif np.linalg.norm(frames[i].position - slices[-1][0].position) > 10 * near:
            raise ValueError(
                f"{printable(name)} holds images side by side in one plane (at {_mm(along[i])} mm: "
                f"{printable(slices[-1][0].path.name)}, {printable(frames[i].path.name)}), "
                f"expected one stack of slices; {_ADVICE}"
            )
        slices[-1].append(frames[i])
    return slices


def _regular_step(slices: list[list[Frame]], name: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the vector from a slice to the next in mm, LPS+, `(3,)`, and notes."""
    normal = slices[0][0].normal
    positions = np.array([images[0].position for images in slices])
    steps = np.diff(positions @ normal)
    # The lower median: of a few slices with a gap, the gap is not the rule.
    typical = float(np.sort(steps)[(len(steps) - 1) // 2])
    tolerance = max(0.02 * typical, min(0.1, 0.2 * typical))
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    # Positions of slices spaced evenly from the first to the last.
    even = positions[0] + np.linspace(0.0, 1.0, len(positions))[:, None] * (positions[-1] - positions[0])
    if np.abs((positions - even) @ normal).max() > tolerance:
        raise ValueError(_uneven(positions @ normal, steps, typical, name))
    if np.linalg.norm(positions - even, axis=1).max() > tolerance + 0.1 * min(slices[0][0].spacing):
        raise ValueError(
            f"{printable(name)} holds slices that are not on a straight line, expected one stack; {_ADVICE}"
        )
    sideways = step - (step @ normal) * normal
    if np.linalg.norm(sideways) * (len(slices) - 1) <= tolerance:
        # Rounded, not tilted: a grid at right angles, which every format can hold.
        return step - sideways, ()
    degrees = float(np.degrees(np.arctan2(np.linalg.norm(sideways), step @ normal)))
    return step, (f"the slices are shifted by a gantry tilt of {degrees:.1f}°; the grid is sheared accordingly",)


def _uneven(along: np.ndarray, steps: np.ndarray, typical: float, name: Path) -> str:
    gaps = np.flatnonzero(steps > 1.5 * typical)
    if len(gaps) == 0:
        return (
            f"{printable(name)} holds slices at uneven distances, from {_mm(steps.min())} to {_mm(steps.max())} "
            f"mm, expected one distance throughout; {_ADVICE}"
        )
    gap = int(gaps[0])
    missing = max(1, round(steps[gap] / typical) - 1)
    more = f" (and {len(gaps) - 1} more gap{'s' if len(gaps) > 2 else ''})" if len(gaps) > 1 else ""
    return (
        f"{printable(name)} has a gap between {_mm(along[gap])} and {_mm(along[gap + 1])} mm along the slices' "
        f"normal{more}: about {missing} slice{'s are' if missing > 1 else ' is'} missing there, as the distance is "
        f"{_mm(typical)} mm elsewhere; copy or export the whole series again."
    )


def _mm(number: float) -> str:
    return f"{number + 0.0:.5g}"


def _times(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.5g}×{pair[1]:.5g}"
