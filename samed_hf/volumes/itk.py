"""NRRD and MetaImage files (`.nrrd`, `.nhdr`, `.mha`, `.mhd`) with their geometry, by SimpleITK."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..utils.atomic import atomic_update
from ..utils.console import c_stderr_silenced
from ..utils.text import one_line, printable
from . import file_checks
from .frames import Frames, Layout, choose_frames, color_layout, convert_colors, split_shape
from .geometry import Volume
from .itk_voxel_data import VoxelData, check_voxels, find_voxels, is_nrrd
from .limits import InputLimits

__all__ = ["ItkHeader", "check_name", "itk_reason", "read_itk", "read_itk_frames", "recode_itk", "write_itk"]

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class ItkHeader:
    """The geometry of an image in ITK's terms."""

    spacing: tuple[float, ...]  # size of a voxel in mm along each array axis
    origin: tuple[float, ...]  # centre of the first voxel in mm, LPS+
    direction: tuple[float, ...]  # the 3 × 3 matrix, row by row, whose columns are the directions of the axes, LPS+
    dimension: int = 3  # of the file: 2 for one slice, 4 for frames
    fourth: tuple[float, float] | None = None  # spacing and origin of the fourth axis, e.g. in seconds

    @classmethod
    def from_affine(cls, affine: np.ndarray) -> ItkHeader:
        """Make the header of a `(4, 4)` matrix from voxels to mm, RAS+."""
        columns = affine[:3, :3] * _LPS_TO_RAS[:, None]
        spacing = np.linalg.norm(columns, axis=0)
        origin = affine[:3, 3] * _LPS_TO_RAS
        return cls.of(spacing, origin, columns / spacing)

    @classmethod
    def of(cls, spacing: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> ItkHeader:
        """Make the header of arrays."""
        return cls(tuple(spacing.tolist()), tuple(origin.tolist()), tuple(direction.ravel().tolist()))

    @property
    def affine(self) -> np.ndarray:
        """The `(4, 4)` matrix from voxels to mm, RAS+."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing * _LPS_TO_RAS[:, None]
        affine[:3, 3] = self.origin * _LPS_TO_RAS
        return affine


def read_itk(path: Path, *, num_channels: int = 1, limits: InputLimits | None = None) -> Volume:
    """Read an NRRD or MetaImage file of one frame of `num_channels` images: vectors, colours, or a fourth axis.

    The voxels may be in other files: one, a list or a pattern. `array` keeps the file's integer type, floats are
    float32; `header` is an [`ItkHeader`].
    """
    return read_itk_frames(path, num_channels=num_channels, limits=limits).only(path)


def read_itk_frames(
    path: Path, *, num_channels: int = 1, limits: InputLimits | None = None, frames: Sequence[int] | None = None
) -> Frames:
    """[`read_itk`] for the frames of a fourth axis or of a list, or some of them.

    One frame is in memory at a time if ITK can read it alone: of an uncompressed MetaImage.
    """
    file_checks.check_file(path, "itk")
    check_name(path)
    limits = limits or InputLimits.local()
    voxels = find_voxels(path)
    reader = sitk.ImageFileReader()
    # ITK would try other readers on a damaged file, among them that for DICOM.
    reader.SetImageIO("NrrdImageIO" if is_nrrd(path) else "MetaImageIO")
    reader.SetFileName(str(path))
    kept = _read_information(path, reader, voxels)
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())  # e.g. "vector of 16-bit signed integer"
    bits = re.fullmatch(r"(?:vector of )?(\d+)-bit .+", kind)
    if bits is None:
        raise ValueError(f"{printable(path)} has values of type {kind}, expected real numbers; export it in greyscale.")
    is_colored = components in (3, 4) and "8-bit unsigned" in kind and num_channels in (1, 3)
    if is_colored:
        layout = color_layout(path, size, components, num_channels)
    else:
        whole = (*size, *[1] * (3 - len(size)), components) if components > 1 else size
        layout = split_shape(path, whole, num_channels)
    check_voxels(path, voxels, size, int(bits[1]) // 8 * components, limits)
    indices = choose_frames(path, layout.frames, frames)
    is_alone = not is_nrrd(path) and voxels.encoding == "raw" and len(voxels.files) == 1 and len(size) == 4
    if not is_alone or layout.frames == 1:
        return Frames(layout.frames, indices, _split(path, reader, layout, indices, is_colored, kept))

    def read_alone() -> Iterator[Volume]:
        for index in indices:
            reader.SetExtractIndex([0, 0, 0, index])
            reader.SetExtractSize([*size[:3], 0])
            yield from _split(path, reader, replace(layout, frames=1), [0], is_colored)

    return Frames(layout.frames, indices, read_alone())


def _read_information(path: Path, reader: sitk.ImageFileReader, voxels: VoxelData) -> object:
    """Read the header; return what must exist until the image has been read.

    ITK takes the axis of an NRRD file whose kind is "time" for one of space, which has no direction then. A copy of the
    header calls it a list.
    """
    try:
        _call(reader.ReadImageInformation, path)
        return None
    except ValueError as error:
        if "number of domain axes" not in str(error) or len(voxels.files) > 1:
            raise
        with path.open("rb") as file:
            header = re.split(rb"\r?\n\r?\n", file.read(1 << 22))[0]
        if not re.search(rb"\nkinds:.*\btime\b", header):
            raise ValueError(
                f"{printable(path)} has fewer axes than its space; save it as a volume of one slice, or without space."
            ) from error
    fields = [line.strip() for line in header.splitlines()]
    skipped = [int(line.split(b":")[1]) for line in fields if line.startswith(b"line skip:")]
    if voxels.files == (path,):
        skipped.append(len(fields) + 1)  # the header with the empty line after it
    fields = [re.sub(rb"\btime\b", b"list", one) if one.startswith(b"kinds:") else one for one in fields]
    fields = [one for one in fields if not re.match(rb"line skip:|data ?file:", one)]
    fields += [b"line skip: %d" % sum(skipped), b"data file: " + os.fsencode(voxels.files[0].resolve())]
    directory = TemporaryDirectory()
    copy = Path(directory.name) / "header.nhdr"
    copy.write_bytes(b"\n".join(fields) + b"\n")
    reader.SetFileName(str(copy))
    _call(reader.ReadImageInformation, path)
    return directory


def _split(
    path: Path,
    reader: sitk.ImageFileReader,
    layout: Layout,
    indices: Sequence[int],
    is_colored: bool,
    kept: object = None,
) -> Iterator[Volume]:
    """Read the image, and yield some of its frames; `kept` is what the reader needs."""
    whole = sitk.GetArrayFromImage(_call(reader.Execute, path))
    whole = (np.moveaxis(whole, -1, 0) if reader.GetNumberOfComponents() > 1 else whole).T
    whole = whole.reshape((*layout.grid, layout.frames, layout.channels), order="F")
    header = _header(reader)
    flat: tuple[str, ...] = (file_checks.NO_THICKNESS.format(1),) if header.dimension == 2 else ()
    for index in indices:
        array, notes = whole[:, :, :, index].reshape(layout.shape, order="F"), flat
        if is_colored:
            array, of_colors = convert_colors(array, layout)
            notes += of_colors
        if array.dtype == np.float64:
            with np.errstate(all="ignore"):  # overflow gives infinity, which file_checks.check_finite refuses
                array = array.astype(np.float32)
        file_checks.check_finite(path, array)
        yield file_checks.make_volume(array, header.affine, header, path, notes)


def _header(reader: sitk.ImageFileReader) -> ItkHeader:
    """The geometry of the file, of which two axes are completed to three."""
    dimension = reader.GetDimension()
    along = min(dimension, 3)
    spacing, origin, direction = np.ones(3), np.zeros(3), np.eye(3)
    spacing[:along], origin[:along] = reader.GetSpacing()[:3], reader.GetOrigin()[:3]
    direction[:along, :along] = np.reshape(reader.GetDirection(), (dimension, dimension))[:along, :along]
    fourth = (reader.GetSpacing()[3], reader.GetOrigin()[3]) if dimension > 3 else None
    return replace(ItkHeader.of(spacing, origin, direction), dimension=dimension, fourth=fourth)


def _call(function: Callable[[], Any], path: Path) -> Any:
    """Call a function of SimpleITK; its error is one line on a damaged file."""
    try:
        with c_stderr_silenced():
            return function()
    except RuntimeError as error:
        raise file_checks.damaged_file_error(path, itk_reason(error)) from error


def write_itk(path: Path, volume: Volume) -> None:
    """Write a volume as NRRD or MetaImage, compressed, atomically.

    The voxels of an `.mhd` file are written to a `.zraw` file beside it. If the volume's header is an [`ItkHeader`] of
    its affine, spacing, origin and direction are those of the header.
    """
    check_name(path)
    stem, suffix = path.stem, path.suffix.lower()
    if suffix == ".mhd" and (not stem.isprintable() or "%" in stem or stem != stem.strip()):
        raise ValueError(f"{printable(path)} has a name that an .mhd file cannot refer to; rename it, or write .mha.")
    array = file_checks.storable(volume.array)
    header = volume.header
    if not isinstance(header, ItkHeader) or not np.allclose(header.affine, volume.affine, rtol=0, atol=1e-6):
        header = ItkHeader.from_affine(volume.affine)
    image = _make_image(array, header)
    file_checks.check_parent(path)
    with atomic_update(path.parent, order=lambda file: file.name == path.name) as directory:
        temporary = directory / f"{stem if suffix == '.mhd' else 'volume'}{suffix}"
        try:
            _call(lambda: sitk.WriteImage(image, str(temporary), True), temporary)
            # ITK does not notice every full disk.
            check_voxels(temporary, find_voxels(temporary), array.shape, array.itemsize, None)
        except (ValueError, FileNotFoundError) as error:
            raise OSError(f"{printable(path)} could not be written completely; is the disk full?") from error
        temporary.replace(directory / path.name)


def recode_itk(path: Path, *, dtype: str | None, compress: bool) -> None:
    """Write an image again in another data type, e.g. "uint16", or without compression.

    Raises:
        ValueError: A value doesn't fit the type.
    """
    image = sitk.ReadImage(str(path))
    if dtype is not None:
        array = sitk.GetArrayViewFromImage(image)
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise ValueError(f"The image has values from {array.min()} to {array.max()}, which don't fit {dtype}.")
        image = sitk.Cast(image, getattr(sitk, f"sitk{dtype.capitalize().replace('Ui', 'UI')}"))
    sitk.WriteImage(image, str(path), compress)


def _make_image(array: np.ndarray, header: ItkHeader) -> sitk.Image:
    """Make the image of a volume; several images are a fourth axis if the header has one, else vectors."""
    if array.ndim == 4 and header.fourth is not None:
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T), isVector=False)
        direction = np.eye(4)
        direction[:3, :3] = np.reshape(header.direction, (3, 3))
        image.SetSpacing((*header.spacing, header.fourth[0]))
        image.SetOrigin((*header.origin, header.fourth[1]))
        image.SetDirection(direction.ravel().tolist())
        return image
    axes = (2, 1, 0, *range(3, array.ndim))
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(axes)), isVector=array.ndim == 4)
    image.SetSpacing(header.spacing)
    image.SetOrigin(header.origin)
    image.SetDirection(header.direction)
    return image[:, :, 0] if header.dimension == 2 and array.shape[2] == 1 else image


def check_name(path: Path) -> None:
    """Refuse a path that is not valid UTF-8, as SimpleITK would end the process."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{printable(path)} has a name that is not valid UTF-8; rename it.") from None


def itk_reason(error: RuntimeError) -> str:
    """Return the reason of an ITK error without ITK's source lines and addresses."""
    text = one_line(error).split("ERROR: ")[-1].split("[nrrd] ")[-1]
    text = re.sub(r"^(\w+\(0x[0-9a-f]+\)|_?nrrd\w+): ", "", text)
    if text.startswith("File cannot be read"):  # ITK's message for any unexpected content
        return "its header is incomplete"
    return re.sub(r" (Reason:|Refusing) .*", "", text)[:120].rstrip(". ")
