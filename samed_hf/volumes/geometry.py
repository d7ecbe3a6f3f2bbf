"""A volume with its affine from voxels to mm, and the order and direction of its axes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

__all__ = ["Volume", "check_orientation", "reorient", "restore_orientation", "same_grid"]


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan, or a map on the grid of a scan.

    Attributes:
        array: `(x, y, z)`, or `(x, y, z, channels)`, the axes in the order of the file; a CT is in HU.
        affine: invertible `(4, 4)`, float64: voxel indices to world coordinates in mm, RAS+.
        header: The geometry in the file format's own terms, which a written file takes over: a NIfTI header, an
            [`~samed_hf.volumes.itk.ItkHeader`] or a [`~samed_hf.volumes.dicom.series.DicomSeries`].
        path: The file or directory that was read.
        is_image: Whether the array is one or several 2-D images, `(width, height, frames[, channels])`, without the
            geometry of a patient: each frame is a slice, as stored.
        is_calibrated: Whether the affine is in mm; `False` for images whose files do not state the size of a pixel.
        notes: What a user should know about how the file was read.
    """

    array: np.ndarray
    affine: np.ndarray
    header: Any = None
    path: Path | None = None
    is_image: bool = False
    is_calibrated: bool = True
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the geometry."""
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
        """Voxels along each axis, without channels."""
        return self.array.shape[:3]

    @property
    def num_channels(self) -> int:
        """Number of images on the grid."""
        return 1 if self.array.ndim == 3 else self.array.shape[3]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel in mm along each array axis."""
        return tuple(np.linalg.norm(self.affine[:3, :3], axis=0).tolist())

    @property
    def voxel_ml(self) -> float:
        """Size of a voxel in ml; the determinant, as a gantry tilt shears the voxels."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)

    @property
    def orientation(self) -> str:
        """Directions of the array axes, the nearest ones of an oblique scan, e.g. "LPS": left, posterior, superior."""
        return "".join(nib.aff2axcodes(self.affine))


def check_orientation(orientation: str) -> str:
    """Return an orientation in capitals; a `ValueError` if it is not one letter each of R or L, A or P, S or I."""
    letters = str(orientation).upper()
    if sorted(letters.translate(str.maketrans("LPI", "RAS"))) != ["A", "R", "S"]:
        raise ValueError(
            f"orientation is {orientation!r}: expected three letters, one each of R or L, A or P and S or I, "
            "e.g. LPS: the axes run to the left, to the back and upwards."
        )
    return letters


def reorient(volume: Volume, orientation: str | None) -> Volume:
    """Change the order and direction of a scan's axes to an orientation such as "LPS"; nothing is interpolated.

    The array of the result is a view of the scan's, and it has no header. `None` returns the scan itself.
    """
    if orientation is None:
        return volume
    own, new = nib.io_orientation(volume.affine), nib.orientations.axcodes2ornt(check_orientation(orientation))
    change = nib.orientations.ornt_transform(own, new)
    array = nib.orientations.apply_orientation(volume.array, change)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(change, volume.grid)
    return Volume(array, affine, None, volume.path)


def restore_orientation(array: np.ndarray, volume: Volume, orientation: str | None) -> np.ndarray:
    """Bring a map on the grid of `reorient(volume, orientation)` back to the scan's own grid.

    The result is a view of shape `volume.grid`, or `(*volume.grid, channels)` of a map with channels.
    """
    if orientation is not None:
        own, new = nib.io_orientation(volume.affine), nib.orientations.axcodes2ornt(check_orientation(orientation))
        array = nib.orientations.apply_orientation(array, nib.orientations.ornt_transform(new, own))
    return array


def same_grid(one: Volume, other: Volume, tolerance: float = 0.1) -> str | None:
    """Describe how the grids of two volumes with the same order of axes differ; `None` if they are the same.

    Args:
        one, other: The volumes.
        tolerance: Largest distance of corresponding voxels, as a share of the smallest side of a voxel.
    """
    if one.grid != other.grid:
        return f"shape {_times(one.grid)} against {_times(other.grid)}"
    corners = np.array(np.meshgrid(*[(0, length - 1) for length in one.grid], [1])).reshape(4, -1)
    distance = float(np.linalg.norm(((one.affine - other.affine) @ corners)[:3], axis=0).max())
    if distance > tolerance * min(one.spacing):
        return f"the same voxel is {distance:.3g} mm apart (voxels of {_times(one.spacing)} mm)"
    return None


def _times(numbers: tuple) -> str:
    return "×".join(f"{number:.4g}" for number in numbers)
