"""NRRD and MetaImage files (`.nrrd`, `.mha`, `.mhd`) through SimpleITK, with their geometry kept to the last bit."""

from __future__ import annotations

import os
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..utils.atomic import temporary_directory
from ..utils.text import one_line, printable
from ._checks import (
    ITK_SUFFIXES,
    arranged_shape,
    check_file,
    check_finite,
    check_parent,
    damaged,
    made_volume,
    storable,
    suppress_stderr,
)
from .geometry import Volume
from .itk_files import ItkHeader, find_voxels, form_of, with_geometry
from .itk_voxels import read_voxels, unpacked

__all__ = ["ItkHeader", "read_deep_picture", "read_itk", "write_itk"]

_TYPES = {
    getattr(sitk, f"sitk{vector}{name}"): dtype
    for vector in ("", "Vector")
    for name, dtype in {
        **{f"{sign}Int{bits}": np.dtype(f"{sign.lower()}int{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)},
        **{"Float32": np.dtype(np.float32), "Float64": np.dtype(np.float64)},
    }.items()
}


def read_itk(path: str | Path, *, num_channels: int = 1) -> Volume:
    """Read an NRRD or MetaImage file.

    Args:
        path: A `.nrrd`, `.mha` or `.mhd` file; the last has its voxels in a file beside.
        num_channels: Images expected on the grid: as vectors or colours, or as frames of a fourth axis.

    Returns:
        The volume, of shape `(x, y, z)` or `(x, y, z, num_channels)`. `array` keeps the file's integer type, floats
        are float32; `header` is an [`ItkHeader`].

    Raises:
        FileNotFoundError: If there is no such file, or that with the voxels is missing.
        ValueError: If the file is damaged, holds another number of images, no real numbers, NaN or infinity, or more
            than fits into memory.
    """
    path = Path(path)
    check_file(path, ITK_SUFFIXES, form_of(path))
    _check_name(path)
    voxels = find_voxels(path)
    reader = sitk.ImageFileReader()
    # By name: among others, the one for DICOM would look at a damaged file, too.
    reader.SetImageIO("NrrdImageIO" if form_of(path) == "NRRD" else "MetaImageIO")
    reader.SetFileName(str(path))
    try:
        with suppress_stderr():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise damaged(path, form_of(path), _reason(error)) from error
    stored = _TYPES.get(reader.GetPixelIDValue())
    if stored is None:
        kind = sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())
        raise ValueError(
            f"{printable(path)} holds values of type {kind}, expected real numbers; export it in greyscale."
        )
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    target = arranged_shape(path, (*size, components) if components > 1 else size, num_channels)
    array = read_voxels(path, voxels, int(np.prod(target)), stored)
    if components > 1:
        in_file = (*size[: voxels.channel_axis], components, *size[voxels.channel_axis :])
        array = np.moveaxis(array.reshape(in_file, order="F"), voxels.channel_axis, -1)
        array = array if array.shape == target else array.reshape(target, order="F")
    else:
        array = array.reshape(target, order="F")
    check_finite(path, array)
    dimensions = reader.GetDimension()
    header = ItkHeader(
        reader.GetSpacing()[:3],
        reader.GetOrigin()[:3],
        tuple(np.reshape(reader.GetDirection(), (dimensions, dimensions))[:3, :3].ravel().tolist()),
        voxels.geometry,
    )
    return made_volume(array, header.affine, header, path)


def read_deep_picture(path: Path, form: str) -> np.ndarray:
    """The pixels of a coloured picture of 16 bits, which Pillow would halve.

    Args:
        path: The file, known to be whole.
        form: "PNG" or "TIFF".

    Returns:
        uint16 array `(height, width, channels)`.

    Raises:
        ValueError: If ITK cannot read it.
    """
    _check_name(path)
    try:
        with suppress_stderr():
            image = sitk.ReadImage(str(path), imageIO=f"{form}ImageIO")
    except RuntimeError as error:
        raise ValueError(_reason(error)) from error
    return sitk.GetArrayFromImage(image)


def write_itk(path: str | Path, volume: Volume) -> None:
    """Write a volume as NRRD or MetaImage, compressed, in one step: the file is there whole or not at all.

    Args:
        path: A `.nrrd`, `.mha` or `.mhd` file in an existing folder; an older file is replaced. Of an `.mhd` file the
            voxels go to a `.zraw` file beside it.
        volume: The volume. With the [`ItkHeader`] of a file, spacing, origin and direction are exactly that file's.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the values fit no type of the format, or an `.mhd` file's name cannot stand in its header.
        OSError: If the file could not be written.
    """
    path = Path(path)
    _check_name(path)
    if path.suffix.lower() == ".mhd" and (
        not path.stem.isprintable() or "%" in path.stem or path.stem != path.stem.strip()
    ):
        raise ValueError(
            f"{printable(path)} has a name that an .mhd file cannot hold, expected plain signs; write .mha."
        )
    array = storable(volume.array)
    header = volume.header
    if not isinstance(header, ItkHeader) or not np.allclose(header.affine, volume.affine, rtol=0, atol=1e-6):
        header = ItkHeader.of(volume.affine)
    turned = array.transpose(2, 1, 0, *range(3, array.ndim))
    image = sitk.GetImageFromArray(np.ascontiguousarray(turned), isVector=array.ndim == 4)
    image.SetSpacing(header.spacing)
    image.SetOrigin(header.origin)
    image.SetDirection(header.direction)
    check_parent(path)
    with temporary_directory(path.parent) as folder:
        written = folder / f"volume{path.suffix.lower()}"
        try:
            with suppress_stderr():
                sitk.WriteImage(image, str(written), True)
            voxels = find_voxels(written)
            # ITK doesn't always notice that a disk is full.
            whole = sum(map(len, unpacked(voxels))) == array.nbytes
        except (RuntimeError, ValueError, FileNotFoundError, zlib.error):
            whole = False
        if not whole:
            raise OSError(f"{printable(path)} could not be written whole; is the disk full?")
        if header.nrrd and voxels.geometry:
            written = _with_lines(written, voxels.offset, header.nrrd)
        if path.suffix.lower() == ".mhd":
            _move_pair(written, path)
        else:
            written.replace(path)


def _with_lines(written: Path, offset: int, geometry: tuple[tuple[str, str], ...]) -> Path:
    """A copy of an NRRD file that says where its grid lies in the words of another."""
    copy = written.with_name("copy.nrrd")
    with written.open("rb") as source, copy.open("wb") as target:
        target.write(with_geometry(source.read(offset), geometry) + b"\n\n")
        shutil.copyfileobj(source, target)
    return copy


def _move_pair(written: Path, path: Path) -> None:
    """Move an `.mhd` file and that of its voxels to their place: both, or none."""
    voxels, target, older = written.with_suffix(".zraw"), path.with_suffix(".zraw"), written.with_suffix(".older")
    # The name is the last thing in the header.
    head, name, _ = written.read_bytes().rpartition(b"ElementDataFile = ")
    written.write_bytes(head + name + os.fsencode(target.name) + b"\n")
    if target.exists():
        target.replace(older)
    try:
        voxels.replace(target)
        written.replace(path)
    except BaseException:
        target.unlink(missing_ok=True)
        if older.exists():
            older.replace(target)
        raise


def _check_name(path: Path) -> None:
    """SimpleITK ends the process on names that are no text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{printable(path)} has a name that is no UTF-8 text; rename it.") from None


def _reason(error: RuntimeError) -> str:
    """What ITK's message of several lines, with places in its source, has to say."""
    text = one_line(error).split("ERROR: ")[-1].split("[nrrd] ")[-1]
    text = re.sub(r"^(\w+\(0x[0-9a-f]+\)|_?nrrd\w+): ", "", text)
    if text.startswith("File cannot be read"):  # said of whatever it did not expect
        return "its header is incomplete"
    return re.sub(r" (Reason:|Refusing) .*", "", text)[:120].rstrip(". ")
