"""Reading scans and writing volumes on their grid, in any registered format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..utils.text import join_or, printable
from .discovery import ScanFile, search_scans
from .file_checks import check_labels, check_memory
from .frames import Frames, choose_frames, select_images
from .geometry import Volume, same_grid
from .limits import InputLimits
from .registry import FORMATS, case_name, file_kind, format_of, label_suffix, suffix_of

__all__ = ["read_frames", "read_scan", "read_volume", "write_labels", "write_volume"]


def read_scan(scan: ScanFile | str | Path, *, num_channels: int = 1, limits: InputLimits | None = None) -> Volume:
    """Read a scan.

    Args:
        scan: A scan found by [`find_scans`], a file, or a directory with one scan, e.g. a DICOM series.
        num_channels: Expected number of images on the grid, in one file or in the files of a [`ScanFile`].
        limits: The largest scan to read; by default `InputLimits.local()`.

    Returns:
        The volume on the scan's own grid, its axes in the order of the file: `(x, y, z)`, or
        `(x, y, z, num_channels)`; an image is `(width, height, 1)` or `(width, height, 1, 3)`.

    Raises:
        ValueError: If it is damaged, of no registered format, beyond the limits, contains NaN, or another number of
            images.
    """
    return _read_scan(scan, num_channels, limits)


def _read_scan(
    scan: ScanFile | str | Path, num_channels: int, limits: InputLimits | None, frame: int | None = None
) -> Volume:
    if not isinstance(scan, ScanFile):
        scan = _single_scan(Path(scan))
    limits = limits or InputLimits.local()
    if scan.kind == "dicom":
        from .dicom import read_series

        volume = read_series(scan.files, scan.path, limits, num_channels=num_channels, frame=frame)
    elif len(scan.files) > 1:
        volume = _read_channels(scan, num_channels, limits)
    else:
        volume = _read_file(scan.path, num_channels, limits)
    if volume.num_channels != num_channels:
        images = "1 image" if volume.num_channels == 1 else f"{volume.num_channels} images"
        raise ValueError(
            f"{printable(scan.path)} holds {images}, expected {num_channels}; "
            "name a scan of the kind that the model was trained on."
        )
    return volume


def read_frames(
    scan: ScanFile | str | Path,
    *,
    num_channels: int = 1,
    limits: InputLimits | None = None,
    frames: Sequence[int] | None = None,
) -> Frames:
    """Read the frames of a scan, one after the other where the format allows.

    Frames are the images of a fourth axis, if the model has one channel; if it has several, the axis before that of the
    channels; and the time points, echoes and so on of a DICOM file. Pages of a TIFF file and the frames of other images
    are slices of one volume.

    Args:
        scan: See [`read_scan`].
        num_channels: Expected number of images in each frame.
        limits: The largest scan to read, all frames included; by default `InputLimits.local()`.
        frames: Indices of the frames to read, from 0; all by default.

    Returns:
        The frames, which are read when their iterator is advanced. A scan without frames has one.

    Raises:
        ValueError: As [`read_scan`], or a frame is requested that the scan does not have.
    """
    if not isinstance(scan, ScanFile):
        scan = _single_scan(Path(scan))
    if scan.kind == "dicom":
        from .dicom import frame_names

        if (count := len(frame_names(scan.files))) > 1:
            indices = choose_frames(scan.path, count, frames)
            return Frames(count, indices, (_read_scan(scan, num_channels, limits, index) for index in indices))
    form = format_of(scan.path)
    if scan.kind == "dicom" or len(scan.files) > 1 or form is None or not form.frame_reader:
        return select_images(read_scan(scan, num_channels=num_channels, limits=limits), scan.path, frames)
    limits = limits or InputLimits.local()
    read: Frames = form.function("frame_reader")(scan.path, num_channels=num_channels, limits=limits, frames=frames)
    return read


def read_volume(
    path: str | Path, *, num_channels: int = 1, limits: InputLimits | None = None, frame: int | None = None
) -> Volume:
    """[`read_scan`] for a file, or a directory with one scan; `frame` is the index of one of its frames."""
    if frame is None:
        return read_scan(path, num_channels=num_channels, limits=limits)
    return next(read_frames(path, num_channels=num_channels, limits=limits, frames=(frame,)).volumes)


def write_labels(
    path: str | Path,
    array: np.ndarray,
    like: Volume,
    *,
    names: Mapping[int, str] | None = None,
    colors: np.ndarray | None = None,
) -> None:
    """Write a label map on the grid of a scan, atomically.

    Args:
        path: File in an existing directory, which is replaced. Its suffix names the format: NIfTI (`.nii.gz`, `.nii`),
            NRRD (`.nrrd`), MetaImage (`.mha`, `.mhd`), DICOM-SEG (`.dcm`), RTSTRUCT (`.rtstruct.dcm`), PNG for an image
            (`.png`), or TIFF for several (`.tif`).
        array: Integer label map `(x, y, z)`, values in [0, 65535]; stored as uint8 where they fit, else as uint16. Of
            frames `(x, y, z, frames)`, for NIfTI, NRRD and MetaImage.
        like: The scan, whose geometry the file takes over.
        names: Name of each label, required for DICOM.
        colors: RGB in [0, 1] of each label, of shape `(num_labels, 3)`, for DICOM and PNG.
    """
    path = Path(path)
    labels = check_labels(array, like)
    form = format_of(path)
    if form is None or suffix_of(path) not in form.writable:
        suffixes = [suffix for form in FORMATS for suffix in form.writable]
        raise ValueError(f"{printable(path)} cannot hold a label map, expected the suffix {join_or(suffixes)}.")
    if labels.ndim == 4 and not form.frame_reader:
        raise ValueError(f"{printable(path)} cannot hold {labels.shape[3]} frames; write them as .nii.gz.")
    if form.label_writer:
        form.function("label_writer")(path, labels, like, names=names, colors=colors)
    else:
        form.function("writer")(path, Volume(labels, like.affine, like.header))


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write a volume atomically.

    Args:
        path: File in an existing directory, `.nii.gz`, `.nii`, `.nrrd`, `.mha` or `.mhd`; it is replaced.
        volume: The volume, whose values are stored unscaled, in their own type where the format has it.
    """
    path = Path(path)
    form = format_of(path)
    if form is None or not form.writer or suffix_of(path) not in form.writable:
        suffixes = [suffix for form in FORMATS if form.writer for suffix in form.writable]
        raise ValueError(f"{printable(path)} cannot hold a volume, expected the suffix {join_or(suffixes)}.")
    form.function("writer")(path, volume)


def _single_scan(path: Path) -> ScanFile:
    if path.is_file() and (kind := file_kind(path)):
        return ScanFile(case_name(path), path, kind, (), label_suffix(path))
    found, _ = search_scans([path])
    if len(found) > 1:
        names = ", ".join(printable(scan.name) for scan in found[:5])
        raise ValueError(
            f"{printable(path)} holds {len(found)} scans ({names}{', …' if len(found) > 5 else ''}), expected one; "
            "name one file, or move each series into a directory of its own."
        )
    return found[0]


def _read_file(path: Path, num_channels: int, limits: InputLimits) -> Volume:
    form = format_of(path)
    if form is None or not form.reader:
        raise ValueError(f"{printable(path)} is of no known format; convert it, e.g. to .nii.gz.")
    volume: Volume = form.function("reader")(path, num_channels=num_channels, limits=limits)
    return volume


def _read_channels(scan: ScanFile, num_channels: int, limits: InputLimits) -> Volume:
    """Read the channels of a scan, each in a file of its own, and stack them."""
    matches = [re.fullmatch(r"(.+)_(\d{4})", case_name(path)) for path in scan.files]
    stems = {match[1] if match else "" for match in matches}
    numbers = [match[2] for match in matches if match]  # a data set may name its channels otherwise
    if len(stems) == 1 and "" not in stems and numbers != [f"{index:04d}" for index in range(num_channels)]:
        found = ", ".join(numbers)
        raise ValueError(
            f"{printable(scan.path)} is one of channels {found}, expected 0000 to {num_channels - 1:04d}; "
            f"complete the files of {printable(scan.name)}."
        )
    first = _read_file(scan.files[0], 1, limits)
    limits.check_shape(scan.path, (*first.grid, num_channels))
    check_memory(scan.path, first.array.nbytes * num_channels)
    channels = [first.array]
    for path in scan.files[1:]:
        channel = _read_file(path, 1, limits)
        if difference := same_grid(first, channel):
            raise ValueError(
                f"{printable(scan.path)} and {printable(path)} are channels of one scan, but differ in their grid: "
                f"{difference}; resample them."
            )
        channels.append(channel.array)
    return replace(first, array=np.stack(channels, axis=-1), path=scan.path)
