"""Cases whose image and label are files: scans or 2-D images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..model.image_processing_samed import SamedImageProcessor
from ..transforms.slicing import cut_image, cut_slices, slice_spacing
from ..volumes import ScanFile, Volume, read_scan, read_volume, reorient, same_grid
from ..volumes import images as image_files
from .dataset import CaseSource, RawCase, as_labels, renumber

__all__ = ["ImageSource", "ScanSource", "cut_pair", "image_channels", "read_mask", "require_files", "stack_images"]


@dataclass(frozen=True)
class ScanSource(CaseSource):
    """A scan and its label map on one grid."""

    name: str
    images: tuple[Path, ...]  # one file for each channel, or one file that holds them all
    label: Path
    num_channels: int
    values: tuple[int, ...]  # the file's number of each label
    tolerance: float = 0.1  # largest distance between the grids of image and label, in sides of a voxel

    def read(self, processor: SamedImageProcessor) -> RawCase:
        """See [`CaseSource`]."""
        label, notes = self.read_label()
        raw = cut_pair(self.name, self.read_image(), label, self.values, self.tolerance, processor)
        return raw._replace(notes=notes)

    def read_image(self) -> Volume:
        """The scan with all its channels."""
        return read_scan(ScanFile(self.name, self.images[0], "", self.images), num_channels=self.num_channels)

    def read_label(self) -> tuple[Volume, tuple[str, ...]]:
        """The label map with the file's numbers, and notes on it."""
        return read_volume(self.label), ()

    def files(self) -> tuple[Path, ...]:
        """See [`CaseSource`]."""
        return (*self.images, self.label)


@dataclass(frozen=True)
class ImageSource(CaseSource):
    """2-D images of one size and their masks; several are the slices of one case."""

    name: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    num_channels: int  # 1 for grey, 3 for colour
    values: tuple[int, ...]  # the masks' number of each label

    def read(self, processor: SamedImageProcessor) -> RawCase:
        """See [`CaseSource`]."""
        # A model of grey images sees colours as grey, here as in prediction.
        num_channels = processor.num_channels if processor.num_channels in (1, 3) else self.num_channels
        images = [cut_image(read_volume(path, num_channels=num_channels)) for path in self.images]
        labels = [renumber(path, read_mask(path), self.values)[None] for path in self.labels]
        for image_path, image, label_path, label in zip(self.images, images, self.labels, labels, strict=True):
            if image.shape[-2:] != label.shape[-2:]:
                raise ValueError(
                    f"{image_path} has {image.shape[-1]}×{image.shape[-2]} pixels, but {label_path} "
                    f"{label.shape[-1]}×{label.shape[-2]}: expected a mask of the image's size."
                )
        return stack_images(self.name, images, labels)

    def files(self) -> tuple[Path, ...]:
        """See [`CaseSource`]."""
        return (*self.images, *self.labels)


def cut_pair(
    name: str, image: Volume, label: Volume, values: Sequence[int], tolerance: float, processor: SamedImageProcessor
) -> RawCase:
    """Cut a scan and its label map, whose axes may be in another order; see [`ScanSource`] for the arguments."""
    label_name = label.path or name
    labels = renumber(label_name, as_labels(label_name, label.array), values)
    label = reorient(Volume(labels, label.affine), image.orientation)
    if differs := same_grid(image, label, tolerance):
        pair = f"{image.path} and {label_name}" if image.path else f"The image and the label of {name}"
        raise ValueError(
            f"{pair} are on different grids: {differs}; resample the label, or allow more with --geometry_tolerance."
        )
    # Of two oblique grids that nearly agree, the nearest axes could differ: the image's decide for both.
    label = Volume(label.array, image.affine)
    return RawCase(cut_slices(image, processor), cut_slices(label, processor), slice_spacing(image, processor))


def stack_images(name: str, images: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> RawCase:
    """One case of 2-D images `(slices[, channels], height, width)` and label maps `(slices, height, width)`."""
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"The images of {name} differ in size: expected one size for each case.")
    return RawCase(np.concatenate(images), np.concatenate(labels), None)


def read_mask(path: Path) -> np.ndarray:
    """Read a 2-D label map `(height, width)`, uint8 or uint16; the indices of an image with a palette."""
    return as_labels(path, image_files.read_mask(path))


def image_channels(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return the channels of images: three if one has colours. Headers decide; a damaged image counts as coloured."""
    return ("image",) if all(image_files.is_grey(path) for path in paths if path.is_file()) else ("R", "G", "B")


def require_files(listing: Path, files: Iterable[Path]) -> None:
    """Refuse a data set whose description or list names files that do not exist."""
    if missing := [file for file in files if not file.is_file()]:
        others = f" (nor do {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{listing} names {missing[0]}, which does not exist{others}: add or remove it.")
