"""A scan and where it lies in the body: voxels to millimetres, and the axes brought into one order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

__all__ = ["Volume", "check_orientation", "reorient", "restore_orientation", "same_grid"]

_DIRECTIONS = ("RL", "AP", "SI")


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan, or a map on the grid of a scan.

    Attributes:
        array: Array of shape `(x, y, z)`, or `(x, y, z, channels)` for several images on one grid, the axes in the
            order of the file; a CT holds Hounsfield units.
        affine: Array of shape `(4, 4)`, float64: voxel indices to world coordinates in mm, RAS+.
        header: What the file says of its geometry in its format's own terms, which a written file takes over: a NIfTI
            header, an [`~samed_hf.volumes.itk.ItkHeader`] or a [`~samed_hf.volumes.dicom.series.DicomSeries`].
        path: File or folder it came from.

    Raises:
        ValueError: If `array` has not three or four axes, or `affine` is not an invertible `(4, 4)` matrix.
    """

    array: np.ndarray
    affine: np.ndarray
    header: Any = None
    path: Path | None = None

    def __post_init__(self) -> None:
        """Check the geometry, so that no volume exists without one."""
        if self.array.ndim not in (3, 4):
            raise ValueError(f"array has shape {self.array.shape}, expected (x, y, z) or (x, y, z, channels).")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or np.linalg.cond(affine[:3, :3]) > 1e6:
            raise ValueError(
                f"affine is {affine.tolist()}, expected an invertible (4, 4) matrix from voxels to mm; "
                "repair the geometry (sform, qform or pixdim), or export the scan again."
            )
        object.__setattr__(self, "affine", affine)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Voxels along each axis, the channels apart."""
        return self.array.shape[:3]

    @property
    def num_channels(self) -> int:
        """Images on the grid."""
        return 1 if self.array.ndim == 3 else self.array.shape[3]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel in mm along each array axis."""
        return tuple(np.linalg.norm(self.affine[:3, :3], axis=0).tolist())

    @property
    def voxel_ml(self) -> float:
        """Size of a voxel in millilitres; by the determinant, for a gantry's tilt shears the voxels."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)

    @property
    def orientation(self) -> str:
        """Where the array's axes run to, as three letters, e.g. "LPS": left, posterior, superior.

        Of an oblique scan the nearest ones.
        """
        return "".join(nib.aff2axcodes(self.affine))


def check_orientation(orientation: str) -> str:
    """The orientation in capitals.

    Raises:
        ValueError: It isn't one letter each of R or L, A or P, S or I.
    """
    letters = str(orientation).upper()
    axes = sorted(next((i for i, pair in enumerate(_DIRECTIONS) if letter in pair), -1) for letter in letters)
    if axes != [0, 1, 2]:
        raise ValueError(
            f"orientation is {orientation!r}: expected three letters, one each of R or L, A or P and S or I, "
            "e.g. LPS: the axes run to the left, to the back and upwards."
        )
    return letters


def reorient(volume: Volume, orientation: str | None) -> Volume:
    """The same scan with its axes in another order and direction; nothing is interpolated.

    Args:
        volume: The scan; of an oblique one, the nearest axes count.
        orientation: Where the axes are to run to, e.g. "LPS"; `None` leaves them.

    Returns:
        A volume whose array is a view of the scan's. It has no header: the file's own grid is another one.
    """
    if orientation is None:
        return volume
    change = _change(volume.affine, orientation)
    array = nib.orientations.apply_orientation(volume.array, change)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(change, volume.grid)
    return Volume(array, affine, None, volume.path)


def restore_orientation(array: np.ndarray, volume: Volume, orientation: str | None) -> np.ndarray:
    """Bring a map on the grid of `reorient(volume, orientation)` back onto the scan's own.

    Args:
        array: Of shape `(x, y, z)` in the new order, or `(x, y, z, channels)`.
        volume: The scan as it was read.
        orientation: That to which the scan was brought.

    Returns:
        A view of shape `volume.grid`, or `(*volume.grid, channels)`.
    """
    if orientation is not None:
        there = nib.orientations.axcodes2ornt(check_orientation(orientation))
        back = nib.orientations.ornt_transform(there, nib.io_orientation(volume.affine))
        array = nib.orientations.apply_orientation(array, back)
    return array


def same_grid(one: Volume, other: Volume, tolerance: float = 0.1) -> str | None:
    """How two volumes' grids differ.

    Args:
        one, other: The volumes, their axes in the same order.
        tolerance: How far apart the same voxel may lie, as a share of the smallest side of a voxel.

    Returns:
        A phrase that says how, or `None` where they are the same.
    """
    if one.grid != other.grid:
        return f"shape {_times(one.grid)} against {_times(other.grid)}"
    corners = np.array(np.meshgrid(*[(0, length - 1) for length in one.grid])).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    distance = float(np.linalg.norm(((one.affine - other.affine) @ corners)[:3], axis=0).max())
    if distance > tolerance * min(one.spacing):
        return f"the same voxel lies {distance:.3g} mm apart (voxels of {_times(one.spacing)} mm)"
    return None


def _times(numbers: tuple) -> str:
    return "×".join(f"{number:.4g}" for number in numbers)


def _change(affine: np.ndarray, orientation: str) -> np.ndarray:
    """nibabel's description of the way from a grid's own axes to those of `orientation`."""
    own = nib.io_orientation(affine)
    return nib.orientations.ornt_transform(own, nib.orientations.axcodes2ornt(check_orientation(orientation)))
