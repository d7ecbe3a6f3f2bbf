"""Reading a scan and writing what lies on its grid, whatever the format: each goes to the module that knows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..utils.text import printable
from ._checks import check_labels, check_memory
from .discovery import find_scans
from .geometry import Volume, same_grid
from .naming import ScanFile, case_name, file_kind, label_suffix
from .nifti import read_nifti, write_nifti, write_nifti_labels

__all__ = ["ScanFile", "case_name", "find_scans", "read_scan", "read_volume", "write_labels", "write_volume"]

_WRITABLE = ".nii.gz, .nii, .nrrd, .mha or .mhd"


def read_scan(scan: ScanFile | str | Path, *, num_channels: int = 1) -> Volume:
    """Read a scan.

    Args:
        scan: What [`find_scans`] found, a file, or a folder with one scan, e.g. a DICOM series.
        num_channels: Images expected on the grid: in one file, or in the files of a [`ScanFile`].

    Returns:
        The volume on the scan's own grid, its axes as the file has them: `(x, y, z)`, or `(x, y, z, num_channels)`;
        a picture is `(width, height, 1)` or `(width, height, 1, 3)`.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If it is damaged, of no known format, holds NaN, or another number of images.
    """
    if not isinstance(scan, ScanFile):
        scan = _only_scan(Path(scan))
    if scan.kind == "dicom":
        from .dicom.series import read_series

        volume = read_series(scan.files, scan.path)
    elif len(scan.files) > 1:
        volume = _read_channels(scan, num_channels)
    else:
        volume = _read_file(scan.path, scan.kind, num_channels)
    if volume.num_channels != num_channels:
        raise ValueError(
            f"{printable(scan.path)} holds {_images(volume.num_channels)}, expected {num_channels}; "
            "name a scan of the kind that the model was trained on."
        )
    return volume


def read_volume(path: str | Path, *, num_channels: int = 1) -> Volume:
    """[`read_scan`] for a file, or a folder with one scan."""
    return read_scan(path, num_channels=num_channels)


def write_labels(
    path: str | Path,
    array: np.ndarray,
    like: Volume,
    *,
    names: Mapping[int, str] | None = None,
    colors: np.ndarray | None = None,
) -> None:
    """Write a label map on the grid of a scan, in one step: the file is there whole or not at all.

    Args:
        path: File in an existing folder, of the format that its suffix names: NIfTI (`.nii.gz`, `.nii`), NRRD
            (`.nrrd`), MetaImage (`.mha`, `.mhd`), DICOM-SEG (`.dcm`), or PNG for a picture (`.png`); an older one is
            replaced.
        array: Integer label map of shape `(x, y, z)`, values in [0, 65535]; stored as uint8 where they fit, else as
            uint16.
        like: The scan, whose geometry the file takes over.
        names: Name of each label, for DICOM-SEG.
        colors: RGB in [0, 1] of each label, of shape `(num_labels, 3)`, for DICOM-SEG and PNG.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the shape is not that of the scan, the values are not integers in range, or the suffix is
            another one.
    """
    path = Path(path)
    labels = check_labels(array, like)
    kind = file_kind(path)
    if kind == "nifti":
        write_nifti_labels(path, labels, like)
    elif kind == "itk":
        from .itk import write_itk

        write_itk(path, Volume(labels, like.affine, like.header))
    elif path.suffix.lower() == ".png":
        from .images import write_mask

        write_mask(path, labels, colors)
    elif path.suffix.lower() == ".dcm":
        if names is None:
            raise ValueError(f"{printable(path)} needs the labels' names, and names is None; give {{1: 'liver', …}}.")
        from .dicom.seg_writer import write_segmentation

        write_segmentation(path, labels, like, names, colors)
    else:
        raise ValueError(
            f"{printable(path)} is of no format that a label map can be written in, expected {_WRITABLE}, .dcm or .png."
        )


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write a volume as it is, in one step: the file is there whole or not at all.

    Args:
        path: File in an existing folder, `.nii.gz`, `.nii`, `.nrrd`, `.mha` or `.mhd`; an older one is replaced.
        volume: The volume, whose values are stored unscaled, in their own type where readers know it.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the suffix is another one, or the values fit no type of the format.
    """
    path = Path(path)
    kind = file_kind(path)
    if kind == "nifti":
        write_nifti(path, volume)
    elif kind == "itk":
        from .itk import write_itk

        write_itk(path, volume)
    else:
        raise ValueError(f"{printable(path)} is of no format that a volume can be written in, expected {_WRITABLE}.")


def _only_scan(path: Path) -> ScanFile:
    if path.is_file() and (kind := file_kind(path)):
        return ScanFile(case_name(path), path, kind, (), label_suffix(path))
    found = find_scans(path, report=lambda note: None)
    if len(found) > 1:
        names = ", ".join(printable(scan.name) for scan in found[:5])
        raise ValueError(
            f"{printable(path)} holds {len(found)} scans ({names}{', …' if len(found) > 5 else ''}), expected one; "
            "name one file, or put each series into a folder of its own."
        )
    return found[0]


def _read_file(path: Path, kind: str, num_channels: int) -> Volume:
    if kind == "nifti":
        return read_nifti(path, num_channels=num_channels)
    if kind == "itk":
        from .itk import read_itk

        return read_itk(path, num_channels=num_channels)
    from .images import read_picture

    return read_picture(path, num_channels=num_channels)


def _read_channels(scan: ScanFile, num_channels: int) -> Volume:
    """Put the channels of a scan, each in a file of its own, side by side."""
    numbers = [int(case_name(path)[-4:]) for path in scan.files]
    if numbers != list(range(num_channels)):
        there = ", ".join(f"{number:04d}" for number in numbers)
        raise ValueError(
            f"{printable(scan.path)} is one of channels {there}, expected 0000 to {num_channels - 1:04d}; "
            f"complete the files of {printable(scan.name)}."
        )
    first = _read_file(scan.files[0], scan.kind, 1)
    check_memory(scan.path, first.array.nbytes * num_channels)
    channels = [first.array]
    for path in scan.files[1:]:
        channel = _read_file(path, scan.kind, 1)
        if differs := same_grid(first, channel):
            raise ValueError(
                f"{printable(scan.path)} and {printable(path)} are channels of one scan, but do not lie on one grid: "
                f"{differs}; resample them."
            )
        channels.append(channel.array)
    return Volume(np.stack(channels, axis=-1), first.affine, first.header, scan.path)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
