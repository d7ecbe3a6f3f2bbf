"""A case read for its faults: image and label apart, and all that is wrong with either, not only the first thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np

from ..data.dataset import CaseDataset, as_labels
from ..data.layouts.synapse import read_slice
from ..data.layouts.synapse_dataset import SliceSource
from ..data.sources import ImageSource, ScanSource, read_mask
from ..model.image_processing_samed import SamedImageProcessor
from ..transforms.slicing import cut_slices, slice_spacing
from ..utils.text import one_line
from ..volumes import Volume, read_volume, reorient, same_grid
from .problems import Problem

__all__ = ["CaseReading", "read_for_faults"]

_MAX_LABEL = 65535

Result = TypeVar("Result")


@dataclass
class CaseReading:
    """A case as far as it could be read, cut into slices.

    Attributes:
        image: of shape `(slices, height, width)` or `(slices, channels, height, width)`, in the files' unit and type.
        label: of shape `(slices, height, width)`, numbered as `id2label`; values without a name are 0.
        aligned: image and label lie on one grid.
        spacing: mm along `(slices, height, width)`.
        voxel_ml: size of a voxel in ml.
        orientation: in which the file has the scan, e.g. "RAS".
        oblique: angle in degrees between the scan's axes and the patient's.
        label_type: type of the label map's numbers in its file, where it is known.
        rescaled: the intensities are in [0, 1] already.
        problems: what was found on the way.
    """

    image: np.ndarray | None = None
    label: np.ndarray | None = None
    aligned: bool = True
    spacing: tuple[float, float, float] | None = None
    voxel_ml: float | None = None
    orientation: str | None = None
    oblique: float = 0.0
    label_type: str | None = None
    rescaled: bool = False
    problems: list[Problem] = field(default_factory=list)

    def add(self, severity: str, kind: str, text: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(severity, kind, text))

    def attempt(self, read: Callable[[], Result], kind: str = "unreadable") -> Result | None:
        """What `read` returns, or `None` and the reason among the problems."""
        try:
            return read()
        except (ValueError, OSError, MemoryError) as error:
            self.add("error", kind, one_line(error))
            return None


def read_for_faults(data: CaseDataset, name: str, processor: SamedImageProcessor) -> CaseReading:
    """Read one case as far as it can be read.

    Args:
        data: the data set.
        name: of the case.
        processor: says how scans are cut.
    """
    source, reading = data.sources[name], CaseReading()
    if isinstance(source, ScanSource):
        _read_scan(source, processor, reading)
    elif isinstance(source, ImageSource):
        _read_pictures(source, reading)
    else:
        if isinstance(source, SliceSource):
            _read_slices(source, len(data.id2label), reading)
        elif (raw := reading.attempt(lambda: source.read(processor))) is not None:
            reading.image, reading.spacing, reading.rescaled = raw.image, raw.spacing, raw.rescaled
            reading.label = name_labels(name, raw.label, range(len(data.id2label)), reading)
    if reading.image is not None and reading.label is not None:
        shape = (len(reading.image), *reading.image.shape[-2:])
        if shape != reading.label.shape:
            if reading.aligned:
                reading.add("error", "geometry", f"image of shape {shape}, label of shape {reading.label.shape}.")
            reading.aligned = False
    if reading.spacing is not None and reading.voxel_ml is None:
        reading.voxel_ml = float(np.prod(reading.spacing)) / 1000
    return reading


def name_labels(name: object, label: np.ndarray, values: Sequence[int], reading: CaseReading) -> np.ndarray | None:
    """A label map numbered 0, 1, …; values that have no name are told and become background.

    Args:
        name: of the file, for messages.
        label: of any type.
        values: the file's number of each label, in order.
        reading: gets the problems.

    Returns:
        uint8 or uint16, or `None` where the map holds no whole numbers in range.
    """
    label = reading.attempt(lambda: as_labels(str(name), label), "no-labels-between")
    if label is None:
        return None
    if label.size and int(label.max()) > _MAX_LABEL:
        text = f"{name} holds label values up to {int(label.max())}: expected values up to {_MAX_LABEL}."
        reading.add("error", "label-values", text)
        return None
    counts = np.zeros(_MAX_LABEL + 1, np.int64)
    for part in label:  # bincount would need eight bytes for every voxel at once
        found = np.bincount(part.ravel())
        counts[: len(found)] += found
    unnamed = sorted(set(np.flatnonzero(counts).tolist()) - set(values))
    if unnamed:
        several = ", ".join(f"{value} ({counts[value]} voxels)" for value in unnamed[:6])
        more = f" and {len(unnamed) - 6} more" if len(unnamed) > 6 else ""
        known = ", ".join(map(str, values[:12])) + (", …" if len(values) > 12 else "")
        hint = " It looks like a mask saved in black and white." if unnamed == [255] and len(values) == 2 else ""
        reading.add(
            "error",
            "label-values",
            f"{name} holds label values that have no name: {several}{more}. Expected {known}; name them or mend the "
            f"file.{hint}",
        )
    if not unnamed and list(values) == list(range(len(values))):
        return label
    table = np.zeros(max(_MAX_LABEL + 1, len(values)), np.uint8 if len(values) <= 256 else np.uint16)
    table[list(values)] = np.arange(len(values))
    return table[label]


def _read_scan(source: ScanSource, processor: SamedImageProcessor, reading: CaseReading) -> None:
    image = reading.attempt(source.read_image)
    label = reading.attempt(lambda: read_volume(source.label))
    if image is not None:
        reading.image, reading.spacing = cut_slices(image, processor), slice_spacing(image, processor)
        reading.voxel_ml, reading.orientation = image.voxel_ml, image.orientation
        reading.oblique = float(np.degrees(nib.affines.obliquity(image.affine).max()))
        _check_header(image, source.images[0], source.tolerance, reading)
    if label is None:
        return
    reading.label_type = str(label.array.dtype)
    named = name_labels(source.label, label.array, source.values, reading)
    if named is None:
        return
    label = Volume(named, label.affine)
    if image is None:
        reading.label, reading.spacing = cut_slices(label, processor), slice_spacing(label, processor)
        reading.voxel_ml = label.voxel_ml
        return
    turned, own = reorient(label, image.orientation), reorient(image, image.orientation)
    if differs := same_grid(own, turned, source.tolerance):
        reading.aligned = False
        reading.add(
            "error",
            "geometry",
            f"{source.images[0]} and {source.label} don't lie on one grid: {differs}. {_advice(own, turned, label)}",
        )
    if own.grid == turned.grid:
        turned = Volume(turned.array, image.affine)
    reading.label = cut_slices(turned, processor)


def _advice(image: Volume, turned: Volume, label: Volume) -> str:
    """What probably happened to a label map on another grid."""
    if np.allclose(label.affine, np.eye(4)):
        return "The label's header has no geometry: write it again with the image's."
    if sorted(image.grid) == sorted(turned.grid) and image.grid != turned.grid:
        return "The axes are in another order: write the label in the image's order."
    if image.grid == turned.grid:
        return "The voxels may belong together under two headers: look at both, and write the label with the image's."
    return "Resample the label onto the image's grid, order 0."


def _check_header(volume: Volume, path: Path, tolerance: float, reading: CaseReading) -> None:
    """Whether a NIfTI header says in one way, and only one, where the scan lies."""
    header = volume.header
    if not isinstance(header, nib.Nifti1Header):
        return
    try:
        qform, sform = header.get_qform(coded=True)[0], header.get_sform(coded=True)[0]
        grid = np.broadcast_to(np.uint8(0), volume.grid)
        both = qform is not None and sform is not None
        differs = both and same_grid(Volume(grid, sform), Volume(grid, qform), max(tolerance, 0.01))
    except (ValueError, nib.spatialimages.HeaderDataError) as error:
        reading.add("warning", "header", f"{path} has a qform that is none ({one_line(error)}): its sform counts here.")
        return
    if qform is None and sform is None:
        text = "has neither sform nor qform: how the patient lies in it is guessed. Convert it again from its source."
        reading.add("warning", "header", f"{path} {text}")
    elif differs:
        text = f"has an sform and a qform that differ: {differs}. Programs will disagree; the sform counts here."
        reading.add("warning", "header", f"{path} {text}")


def _read_pictures(source: ImageSource, reading: CaseReading) -> None:
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for image_path, label_path in zip(source.images, source.labels, strict=True):
        image = reading.attempt(lambda path=image_path: read_volume(path, num_channels=source.num_channels).array)
        mask = reading.attempt(lambda path=label_path: read_mask(path))
        named = None if mask is None else name_labels(label_path, mask[None], source.values, reading)
        if image is None or named is None:
            continue
        image = image.swapaxes(0, 2)  # (1, height, width[, channels])
        image = np.moveaxis(image, 3, 1) if image.ndim == 4 else image
        if image.shape[-2:] != named.shape[1:]:
            sizes = f"{image.shape[-1]}×{image.shape[-2]} pixels, but {label_path} {named.shape[2]}×{named.shape[1]}"
            reading.add("error", "geometry", f"{image_path} has {sizes}: expected a mask of the picture's size.")
            continue
        images.append(image)
        labels.append(named)
    _stack(source.name, images, labels, reading)


def _read_slices(source: SliceSource, num_labels: int, reading: CaseReading) -> None:
    reading.rescaled = True
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for name in source.slices:
        path = source.data.slice_path(name)
        found = reading.attempt(lambda path=path: read_slice(path))
        label = None if found is None else name_labels(path, found[1][None], range(num_labels), reading)
        if label is not None:
            images.append(found[0][None])
            labels.append(label)
    _stack(source.name, images, labels, reading)


def _stack(name: str, images: list[np.ndarray], labels: list[np.ndarray], reading: CaseReading) -> None:
    """Put slices of one size together."""
    if len(sizes := sorted({image.shape[-2:] for image in images})) > 1:
        shown = ", ".join(f"{width}×{height}" for height, width in sizes[:4])
        reading.add(
            "error", "geometry", f"the slices of {name} differ in size ({shown}): expected one size for each case."
        )
    elif images:
        reading.image, reading.label = np.concatenate(images), np.concatenate(labels)
