"""Cases whose image and label are files: scans or 2-D images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..model.image_processing_samed import SamedImageProcessor
from ..transforms.slicing import cut_slices, slice_spacing
from ..volumes import ScanFile, Volume, read_scan, read_volume, reorient, same_grid
from ..volumes import images as image_files
from ..volumes.registry import file_kind, label_suffix
from .dataset import CaseSource, RawCase, as_labels, renumber

__all__ = ["FileSource", "ImageSource", "ScanSource", "count_channels"]


class FileSource(CaseSource):
    """A case in files of its own, whose names, sizes and times are the key of its decoded copy."""

    def cache_key(self) -> list[Any]:
        """See [`CaseSource`]."""
        return [[str(path), (stat := path.stat()).st_size, stat.st_mtime_ns] for path in self.files()]


@dataclass(frozen=True)
class ScanSource(FileSource):
    """A scan and its label map on one grid.

    Attributes:
        name: of the case.
        images: one file for each channel, or one file that holds them all.
        label: the label map's file.
        num_channels: of the scan.
        values: the file's number of each label.
        tolerance: largest distance between the grids of image and label, as a share of a voxel's smallest side.
    """

    name: str
    images: tuple[Path, ...]
    label: Path
    num_channels: int
    values: tuple[int, ...]
    tolerance: float = 0.1

    def read(self, processor: SamedImageProcessor) -> RawCase:
        """See [`CaseSource`]. Image and label may have their axes in different orders."""
        image, label = self.read_image(), read_volume(self.label)
        labels = renumber(self.label, as_labels(self.label, label.array), self.values)
        label = reorient(Volume(labels, label.affine), image.orientation)
        # Of two oblique grids that nearly agree, the nearest axes could differ: the image's decide for both.
        if differs := same_grid(reorient(image, image.orientation), label, self.tolerance):
            raise ValueError(
                f"{self.images[0]} and {self.label} are on different grids: {differs}; resample the label, or allow "
                "more with --geometry_tolerance."
            )
        label = Volume(label.array, image.affine)
        return RawCase(cut_slices(image, processor), cut_slices(label, processor), slice_spacing(image, processor))

    def read_image(self) -> Volume:
        """The scan with all its channels."""
        several = self.images if len(self.images) > 1 else ()
        kind = file_kind(self.images[0]) or ""
        scan = ScanFile(self.name, self.images[0], kind, several, label_suffix(self.images[0]))
        return read_scan(scan, num_channels=self.num_channels)

    def files(self) -> tuple[Path, ...]:
        """See [`CaseSource`]."""
        return (*self.images, self.label)


@dataclass(frozen=True)
class ImageSource(FileSource):
    """2-D images of one size and their masks; several are the slices of one case.

    Attributes:
        name: of the case.
        images, labels: the files, slice by slice.
        num_channels: 1 for grey, 3 for colour.
        values: the masks' number of each label.
    """

    name: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    num_channels: int
    values: tuple[int, ...]

    def read(self, processor: SamedImageProcessor) -> RawCase:
        """See [`CaseSource`]."""
        # A model of grey images sees colours as grey, here as in prediction.
        num_channels = processor.num_channels if processor.num_channels in (1, 3) else self.num_channels
        images = [read_volume(path, num_channels=num_channels).array for path in self.images]
        labels = [renumber(path, read_mask(path), self.values) for path in self.labels]
        for image_path, image, label_path, label in zip(self.images, images, self.labels, labels, strict=True):
            if image.shape[:2] != label.shape[::-1]:
                raise ValueError(
                    f"{image_path} has {image.shape[0]}×{image.shape[1]} pixels, but {label_path} "
                    f"{label.shape[1]}×{label.shape[0]}: expected a mask of the image's size."
                )
        if len({image.shape for image in images}) > 1:
            raise ValueError(f"The images of {self.name} differ in size: expected one size for each case.")
        image = np.concatenate(images, axis=2).swapaxes(0, 2)  # (slices, height, width[, channels])
        image = np.moveaxis(image, 3, 1) if image.ndim == 4 else image
        return RawCase(image, np.stack(labels), None)

    def files(self) -> tuple[Path, ...]:
        """See [`CaseSource`]."""
        return (*self.images, *self.labels)


def read_mask(path: Path) -> np.ndarray:
    """Read a 2-D label map `(height, width)`, uint8 or uint16; the indices of an image with a palette.

    Raises:
        ValueError: the file is damaged, coloured, or its values are no labels.
    """
    return as_labels(path, image_files.read_mask(path))


def count_channels(paths: Sequence[Path]) -> int:
    """Return 3 if an image has colours, otherwise 1. Headers decide; a damaged image counts as coloured."""
    return 1 if all(image_files.is_grey(path) for path in paths) else 3
