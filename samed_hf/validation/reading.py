"""Reading of a case that reports all problems of its image and label, not only the first."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np

from ..data.dataset import IGNORED_LABEL, CaseDataset, FileValues, as_labels, label_numbers, renumber
from ..data.layouts.synapse import SliceSource, read_slice
from ..data.sources import ImageMaskSource, ImageSource, ScanSource
from ..model.image_processing_samed import SamedImageProcessor
from ..transforms.slicing import cut_slices, slice_spacing
from ..utils.text import name_some, one_line
from ..volumes import Volume, reorient, same_grid
from .problems import Problem

__all__ = ["CaseReading", "read_for_faults"]

_MAX_LABEL = 65535  # of label maps that `as_labels` accepts

Result = TypeVar("Result")


@dataclass
class CaseReading:
    """Image and label of a case, as far as they could be read, cut into slices."""

    image: np.ndarray | None = None  # `(slices, [channels,] height, width)`, in the files' unit and type
    label: np.ndarray | None = None  # `(slices, height, width)`, as `id2label`; values without a name are 0
    aligned: bool = True  # image and label have the same grid
    spacing: tuple[float, float, float] | None = None  # mm along `(slices, height, width)`
    voxel_ml: float | None = None
    orientation: str | None = None  # of the file, e.g. "RAS"
    oblique: float = 0.0  # degrees between the scan's axes and the patient's
    label_type: str | None = None  # of the label map's numbers in its file, if known
    rescaled: bool = False  # the intensities are in [0, 1] already
    problems: list[Problem] = field(default_factory=list)

    def add(self, severity: str, kind: str, text: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(severity, kind, text))

    def attempt(self, read: Callable[[], Result], kind: str = "unreadable") -> Result | None:
        """Return what `read` returns, or `None` after adding its error to the problems."""
        try:
            return read()
        except (ValueError, OSError, MemoryError) as error:
            self.add("error", kind, one_line(error))
            return None


def read_for_faults(data: CaseDataset, name: str, processor: SamedImageProcessor) -> CaseReading:
    """Read one case as far as possible."""
    source, reading = data.sources[name], CaseReading()
    if isinstance(source, ScanSource):
        _read_scan(source, processor, reading)
    elif isinstance(source, ImageSource):
        if isinstance(source, ImageMaskSource):
            for note in reading.attempt(source.overlaps) or ():
                reading.add("warning", "overlap", f"{note}.")
        _read_slices(source, source.values, reading)
    elif isinstance(source, SliceSource):
        reading.rescaled = True
        _read_slices(source, range(len(data.id2label)), reading)
    elif (raw := reading.attempt(lambda: source.read(processor))) is not None:
        reading.image, reading.spacing, reading.rescaled = raw.image, raw.spacing, raw.rescaled
        named = [*range(len(data.id2label)), *([IGNORED_LABEL] if data.has_ignored else [])]
        reading.label = name_labels(name, raw.label, {value: value for value in named}, reading)
    if reading.image is not None and reading.label is not None:
        shape = (len(reading.image), *reading.image.shape[-2:])
        if shape != reading.label.shape:
            if reading.aligned:
                reading.add("error", "geometry", f"image of shape {shape}, label of shape {reading.label.shape}.")
            reading.aligned = False
    if reading.spacing is not None and reading.voxel_ml is None:
        reading.voxel_ml = float(np.prod(reading.spacing)) / 1000
    return reading


def name_labels(name: object, array: np.ndarray, values: FileValues, reading: CaseReading) -> np.ndarray | None:
    """Number a label map whose file uses other `values`; those without a name are reported and become background.

    Returns uint8 or uint16, or `None` if the values are no whole numbers or out of range.
    """
    numbers = label_numbers(values)
    label = reading.attempt(lambda: as_labels(str(name), array), "no-labels-between")
    if label is None:
        return None
    # By slice: bincount on the whole scan would use eight bytes for every voxel.
    counts = sum((np.bincount(part.ravel(), minlength=_MAX_LABEL + 1) for part in label), np.zeros(1, np.int64))
    unnamed = sorted(set(np.flatnonzero(counts).tolist()) - set(numbers))
    if unnamed:
        several = name_some([f"{value} ({counts[value]} voxels)" for value in unnamed], 6)
        known = ", ".join(map(str, list(numbers)[:12])) + (", …" if len(numbers) > 12 else "")
        hint = " It looks like a mask saved in black and white." if unnamed == [255] and len(numbers) == 2 else ""
        text = f"{name} has label values without a name: {several}. Expected {known}; name them or correct the file."
        reading.add("error", "label-values", f"{text}{hint}")
    elif all(value == number for value, number in numbers.items()):
        return label
    table = np.zeros(_MAX_LABEL + 1, np.uint8 if max(numbers.values()) < 256 else np.uint16)
    table[list(numbers)] = list(numbers.values())
    return table[label]


def _read_scan(source: ScanSource, processor: SamedImageProcessor, reading: CaseReading) -> None:
    image = reading.attempt(source.read_image)
    label, notes = reading.attempt(source.read_label) or (None, ())
    for note in notes:
        reading.add("warning", "overlap", f"{note}.")
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
    if difference := same_grid(own, turned, source.tolerance):
        reading.aligned = False
        text = f"{source.images[0]} and {source.label} have different grids: {difference}."
        reading.add("error", "geometry", f"{text} {_advice(own, turned, label)}")
    if own.grid == turned.grid:
        turned = Volume(turned.array, image.affine)
    reading.label = cut_slices(turned, processor)


def _advice(image: Volume, turned: Volume, label: Volume) -> str:
    """Guess why a label map has another grid than its image, and advise."""
    if np.allclose(label.affine, np.eye(4)):
        return "The label's header has no geometry: write it again with the image's."
    if image.grid == turned.grid:
        return "The voxels may correspond under two headers: view both, and write the label with the image's."
    if sorted(image.grid) == sorted(turned.grid):
        return "The axes are in another order: write the label in the image's order."
    return "Resample the label onto the image's grid, order 0."


def _check_header(volume: Volume, path: Path, tolerance: float, reading: CaseReading) -> None:
    """Check that a NIfTI header has a qform or an sform, and that they agree."""
    header = volume.header
    if not isinstance(header, nib.Nifti1Header):
        return
    try:
        qform, sform = header.get_qform(coded=True)[0], header.get_sform(coded=True)[0]
        difference = None
        if qform is not None and sform is not None:
            one, other = (Volume(np.broadcast_to(np.uint8(0), volume.grid), affine) for affine in (sform, qform))
            difference = same_grid(one, other, max(tolerance, 0.01))
    except (ValueError, nib.spatialimages.HeaderDataError) as error:
        reading.add("warning", "header", f"{path} has an invalid qform ({one_line(error)}): its sform is used.")
        return
    if qform is None and sform is None:
        text = "has neither sform nor qform: its orientation is guessed. Convert it again from its source."
        reading.add("warning", "header", f"{path} {text}")
    elif difference:
        text = f"has an sform and a qform that differ: {difference}. Programs will disagree; the sform is used here."
        reading.add("warning", "header", f"{path} {text}")


def _read_slices(source: ImageSource | SliceSource, values: FileValues, reading: CaseReading) -> None:
    """Read 2-D images with their masks, or slices of the Synapse layout, and stack them if they are of one size."""
    slices: list[tuple[np.ndarray, np.ndarray]] = []
    numbers = range(len(values)) if isinstance(source, ImageSource) and source.as_colors else values
    for index, path in enumerate(source.images if isinstance(source, ImageSource) else source.files()):
        path = path[0] if isinstance(path, tuple) else path
        label_path = source.masks(index)[0] if isinstance(source, ImageSource) else path
        if isinstance(source, ImageSource):
            image = reading.attempt(partial(source.read_pixels, index))
            label = reading.attempt(partial(source.read_label, index))
            if label is not None and source.as_colors:
                label = reading.attempt(partial(renumber, label_path, label, values), "label-values")
        else:
            image, label = reading.attempt(partial(read_slice, path)) or (None, None)
            image = None if image is None else image[None]
        label = label[None] if label is not None and label.ndim == 2 else label
        named = None if label is None else name_labels(label_path, label, numbers, reading)
        if image is None or named is None:
            continue
        (height, width), (rows, columns) = image.shape[-2:], named.shape[1:]
        if (len(image), height, width) == named.shape:
            slices.append((image, named))
            continue
        text = f"{path} has {width}×{height} pixels, but {label_path} {columns}×{rows}: expected a mask of the image's "
        reading.add("error", "geometry", f"{text}size and pages.")
    if len(sizes := sorted({image.shape[-2:] for image, _ in slices})) > 1:
        several = name_some([f"{width}×{height}" for height, width in sizes], 4)
        text = f"the slices of {source.name} differ in size ({several}): expected one size for each case."
        reading.add("error", "geometry", text)
    elif slices:
        reading.image, reading.label = (np.concatenate(arrays) for arrays in zip(*slices, strict=True))
