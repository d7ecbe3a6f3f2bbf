"""From the images of a DICOM series to one regular grid: their order, the affine, and what forbids it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...utils.text import printable
from .frames import Frame, what_differs

__all__ = ["Grid", "arrange", "refuse_differing"]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ADVICE = "put the slices that belong together into a folder of their own."


class Grid(NamedTuple):
    """A series in order.

    Attributes:
        slices: For each slice, along the normal, the images that lie there: more than one where some are duplicated.
        affine: `(4, 4)`, indices (column, row, slice) to mm, RAS+.
        notes: What the reader should know.
    """

    slices: list[list[Frame]]
    affine: np.ndarray
    notes: tuple[str, ...]


def arrange(frames: Sequence[Frame], name: Path) -> Grid:
    """Order the images of a series by their position along their normal.

    File names and instance numbers play no part. Scanners round positions, to 0.1 mm at worst: each slice may lie off
    the regular grid by 0.1 mm, but by no more than a fifth of the distance between slices where that is smaller, or
    2 % of it where that is larger.

    Args:
        frames: The images, at least one.
        name: The series' folder or file, for messages.

    Raises:
        ValueError: The images have several sizes, spacings or directions, lie in one plane at different places, on no
            straight line or unevenly, or slices are missing between them.
    """
    _check_alike(frames, name)
    first = frames[0]
    slices = _planes(frames, name)
    if len(slices) == 1:
        step, notes = _single_step(first)
    else:
        step, notes = _regular_step(slices, name)
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.spacing[0]
    affine[:3, 1] = first.along_column * first.spacing[1]
    affine[:3, 2] = step
    affine[:3, 3] = slices[0][0].position
    return Grid(slices, _LPS_TO_RAS @ affine, notes)


def refuse_differing(frames: list[Frame], name: Path) -> ValueError:
    """The error for several images at one place that are not the same."""
    differs = what_differs(frames)
    return ValueError(
        f"{printable(name)} holds {len(frames)} different images at the same position ({_mm(_along(frames[0]))} mm), "
        f"e.g. {printable(frames[0].path.name)} and {printable(frames[1].path.name)}, "
        "as of several echoes, phases or time points"
        f"{f' ({differs})' if differs else ''}; {_ADVICE}"
    )


def _check_alike(frames: Sequence[Frame], name: Path) -> None:
    first = frames[0]
    for frame in frames[1:]:
        if frame.size != first.size:
            what = f"sizes, {first.size[0]}×{first.size[1]} and {frame.size[0]}×{frame.size[1]} pixels"
        elif not np.allclose(frame.spacing, first.spacing, rtol=1e-3, atol=0):
            what = f"pixel spacings, {_pair(first.spacing)} and {_pair(frame.spacing)} mm"
        elif not (
            np.allclose(frame.along_row, first.along_row, rtol=0, atol=1e-3)
            and np.allclose(frame.along_column, first.along_column, rtol=0, atol=1e-3)
        ):
            what = "directions of their slices"
        else:
            continue
        raise ValueError(
            f"{printable(name)} holds images of different {what} ({printable(first.path.name)}, "
            f"{printable(frame.path.name)}), expected one stack of parallel slices; {_ADVICE}"
        )


def _planes(frames: Sequence[Frame], name: Path) -> list[list[Frame]]:
    """The images in order, those of one plane together."""
    normal = frames[0].normal
    along = [float(frame.position @ normal) for frame in frames]
    order = sorted(range(len(frames)), key=lambda i: (along[i], i))
    # No scanner's slices come as near as this; exports of one image differ by rounding alone.
    near = min(0.01, 0.1 * min(frames[0].spacing))
    slices: list[list[Frame]] = []
    last = -np.inf
    for i in order:
        if along[i] - last > near:
            slices.append([])
            last = along[i]
        elif np.linalg.norm(frames[i].position - slices[-1][0].position) > 10 * near:
            raise ValueError(
                f"{printable(name)} holds images side by side in one plane (at {_mm(along[i])} mm: "
                f"{printable(slices[-1][0].path.name)}, "
                f"{printable(frames[i].path.name)}), expected one stack of slices; {_ADVICE}"
            )
        slices[-1].append(frames[i])
    return slices


def _single_step(frame: Frame) -> tuple[np.ndarray, tuple[str, ...]]:
    distance = frame.between or frame.thickness or 1.0
    source = "the header's" if frame.between or frame.thickness else "assumed, for the header has none"
    return frame.normal * distance, (f"a single slice; its thickness of {_mm(distance)} mm is {source}",)


def _regular_step(slices: list[list[Frame]], name: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The way from a slice to the next in mm, LPS+, `(3,)`."""
    normal = slices[0][0].normal
    positions = np.array([slice_[0].position for slice_ in slices])
    along = positions @ normal
    steps = np.diff(along)
    # The lower median: of a few slices with a gap, the gap is not the rule.
    typical = float(np.sort(steps)[(len(steps) - 1) // 2])
    tolerance = max(0.02 * typical, min(0.1, 0.2 * typical))
    line = _line(positions)
    if np.abs((positions - line) @ normal).max() > tolerance:
        raise ValueError(_uneven(along, steps, typical, name))
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    sideways = step - (step @ normal) * normal
    if np.linalg.norm(positions - line, axis=1).max() > tolerance + 0.1 * min(slices[0][0].spacing):
        raise ValueError(
            f"{printable(name)} holds slices that don't lie on a straight line one behind the other, expected one "
            f"stack; {_ADVICE}"
        )
    if np.linalg.norm(sideways) * (len(slices) - 1) <= tolerance:
        # Rounded, not tilted: a grid at right angles, as every format can hold it.
        return step - sideways, ()
    degrees = float(np.degrees(np.arctan2(np.linalg.norm(sideways), step @ normal)))
    return step, (f"the slices are shifted by a gantry tilt of {degrees:.1f}°; the grid is sheared accordingly",)


def _line(positions: np.ndarray) -> np.ndarray:
    """Where the slices would lie if they were spaced evenly from the first to the last."""
    share = np.linspace(0.0, 1.0, len(positions))[:, None]
    return positions[0] + share * (positions[-1] - positions[0])


def _uneven(along: np.ndarray, steps: np.ndarray, typical: float, name: Path) -> str:
    gaps = np.flatnonzero(steps > 1.5 * typical)
    if len(gaps) == 0:
        return (
            f"{printable(name)} holds slices at uneven distances, from {_mm(steps.min())} to {_mm(steps.max())} "
            f"mm, expected one distance throughout; {_ADVICE}"
        )
    gap = int(gaps[0])
    missing = max(1, round(steps[gap] / typical) - 1)
    more = f" and in {len(gaps) - 1} more place{'s' if len(gaps) > 2 else ''}" if len(gaps) > 1 else ""
    return (
        f"{printable(name)} has a gap between {_mm(along[gap])} and {_mm(along[gap + 1])} mm along the slices' "
        f"normal{more}: "
        f"about {missing} slice{'s are' if missing > 1 else ' is'} missing there, by a distance of {_mm(typical)} mm "
        "elsewhere; copy or export the whole series again."
    )


def _along(frame: Frame) -> float:
    return float(frame.position @ frame.normal)


def _mm(number: float) -> str:
    return f"{number + 0.0:.5g}"


def _pair(spacing: tuple[float, float]) -> str:
    return f"{spacing[0]:.5g}×{spacing[1]:.5g}"
