"""Cases whose image and label are files: scans or 2-D images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..model.image_processing_samed import SamedImageProcessor
from ..transforms.slicing import cut_image, cut_slices, slice_spacing
from ..volumes import ScanFile, Volume, read_scan, read_volume, reorient, same_grid
from ..volumes import images as image_files
from ..volumes.masks import is_deep, mask_palette, read_mask_pixels
from .dataset import CaseDataset, CaseSource, FileValues, RawCase, as_labels, renumber
from .softened import describe_softened

__all__ = [
    "ImageMaskSource",
    "ImageSource",
    "MaskSource",
    "ScanSource",
    "are_colored",
    "cut_pair",
    "describe_images",
    "image_channels",
    "read_mask",
    "require_files",
    "stack_images",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanSource(CaseSource):
    """A scan and its label map on one grid."""

    name: str
    images: tuple[Path, ...]  # one file for each channel, or one file that holds them all
    label: Path
    num_channels: int
    values: FileValues  # the file's number of each label
    tolerance: float = 0.1  # largest distance between the grids of image and label, in sides of a voxel

    def read(self, processor: SamedImageProcessor) -> RawCase:
        """See [`CaseSource`]."""
        label, notes = self.read_label()
        raw = cut_pair(self.name, self.read_image(), label, self.values, self.tolerance, processor)
        return raw._replace(notes=notes)

    def read_image(self) -> Volume:
        """The scan with all its channels."""
        scan = ScanFile(self.name, self.images[0], "", self.images)
        return _noted(read_scan(self.images[0] if self.images[0].is_dir() else scan, num_channels=self.num_channels))

    def read_label(self) -> tuple[Volume, tuple[str, ...]]:
        """The label map with the file's numbers, and notes on it."""
        return read_volume(self.label), ()

    def files(self) -> tuple[Path, ...]:
        """See [`CaseSource`]; of a directory with a DICOM series its files."""
        return (*self._image_files(), self.label)

    def _image_files(self) -> tuple[Path, ...]:
        found = (sorted(path.rglob("*")) if path.is_dir() else [path] for path in self.images)
        return tuple(file for files in found for file in files if not file.is_dir())


@dataclass(frozen=True)
class MaskSource(ScanSource):
    """A scan and one file for each class, whose voxels other than 0 are the class; `label` is their directory."""

    masks: tuple[Path | None, ...] = ()  # of the labels 1, 2, …; `None` where the case has none

    def read_label(self) -> tuple[Volume, tuple[str, ...]]:
        """The classes as one label map, in which a later class covers an earlier one; overlaps are noted."""
        volumes = [(value, read_volume(path)) for value, path in enumerate(self.masks, 1) if path is not None]
        if not volumes:
            raise FileNotFoundError(f"{self.name} has no mask in {self.label}: expected one file for each class.")
        first = volumes[0][1]
        for _, volume in volumes:
            if differs := same_grid(first, volume, self.tolerance):
                raise ValueError(f"{volume.path} is on another grid than the other masks of {self.name}: {differs}.")
        label, notes = merge_masks((value, volume.path, volume.array) for value, volume in volumes)
        return Volume(label, first.affine, first.header, self.label), notes

    def files(self) -> tuple[Path, ...]:
        """See [`CaseSource`]."""
        return (*self._image_files(), *(path for path in self.masks if path is not None))

    def cache_key(self) -> list[Any]:
        """See [`CaseSource`]; also which class each mask is."""
        return [*super().cache_key(), [path and path.name for path in self.masks]]


@dataclass(frozen=True)
class ImageSource(CaseSource):
    """2-D images of one size and their masks; several are the slices of one case."""

    name: str
    images: tuple[Path | tuple[Path, ...], ...]  # each image, or the files of its channels, one grey channel each
    labels: tuple[Path | tuple[Path, ...], ...]  # the mask of each image, or the masks that make one label map
    num_channels: int  # 1 for grey, 3 for colour
    values: FileValues  # the masks' number of each label
    as_colors: bool = False  # whether these are colours, 0xRRGGBB

    def read(self, processor: SamedImageProcessor) -> RawCase:
        """See [`CaseSource`]."""
        # A model of grey images sees colours as grey, here as in prediction.
        num_channels = processor.num_channels if processor.num_channels in (1, 3) else self.num_channels
        images = [self.read_pixels(index, num_channels) for index in range(len(self.images))]
        masks = [renumber(self.masks(index)[0], self.read_label(index), self.values) for index in range(len(images))]
        labels = [mask if mask.ndim == 3 else mask[None] for mask in masks]  # several pages of one file, or one
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            if (len(image), *image.shape[-2:]) != label.shape:
                sizes = [
                    f"{one.shape[-1]}×{one.shape[-2]} pixels" + (f" in {len(one)} pages" if len(one) > 1 else "")
                    for one in (image, label)
                ]
                image_file, mask_file = _as_tuple(self.images[index])[0], self.masks(index)[0]
                raise ValueError(
                    f"{image_file} has {sizes[0]}, but {mask_file} {sizes[1]}: expected a mask of the image's size."
                )
        return stack_images(self.name, images, labels)

    def read_pixels(self, index: int, num_channels: int | None = None) -> np.ndarray:
        """An image as stored, `(pages, height, width)` or `(pages, channels, height, width)`."""
        first, *others = files = _as_tuple(self.images[index])
        if not others:
            return cut_image(_noted(read_volume(first, num_channels=num_channels or self.num_channels)))
        if coloured := [path for path in files if path.is_file() and not image_files.is_grey(path)]:
            raise ValueError(
                f"{coloured[0]} has colours or can't be read: expected one grey channel in each of the {len(files)} "
                f"files of {self.name}."
            )
        return cut_image(read_scan(ScanFile(self.name, first, "image", files), num_channels=len(files)))

    def masks(self, index: int) -> tuple[Path, ...]:
        """The masks of an image."""
        return _as_tuple(self.labels[index])

    def read_label(self, index: int) -> np.ndarray:
        """The label map of an image `(height, width)` in its masks' numbers; these must agree where they overlap."""
        background = next(iter(self.values)) if self.as_colors else 0
        first, *others = self.masks(index)
        label = read_mask(first, as_colors=self.as_colors)
        for path in others:
            more = read_mask(path, as_colors=self.as_colors)
            if more.shape != label.shape:
                sizes = (
                    f"{path} has {more.shape[1]}×{more.shape[0]} pixels, but {first} {label.shape[1]}×{label.shape[0]}"
                )
                raise ValueError(f"{sizes}: expected masks of one image in one size.")
            if (both := (label != background) & (more != background) & (label != more)).any():
                raise ValueError(
                    f"{path} and {first} overlap with different labels in {np.count_nonzero(both)} pixels: expected "
                    "masks of one image that agree; remove one, or write one label map."
                )
            label = np.where(label == background, more, label)
        return label

    def files(self) -> tuple[Path, ...]:
        """See [`CaseSource`]."""
        return tuple(path for paths in (*self.images, *self.labels) for path in _as_tuple(paths))


@dataclass(frozen=True)
class ImageMaskSource(ImageSource):
    """2-D images with one mask for each class, whose pixels other than 0 are the class."""

    numbers: tuple[tuple[int, ...], ...] = ()  # the label of each mask of each image

    def read(self, processor: SamedImageProcessor) -> RawCase:
        """See [`CaseSource`]; overlaps are noted."""
        return super().read(processor)._replace(notes=self.overlaps())

    def overlaps(self) -> tuple[str, ...]:
        """A note on each mask that covers pixels of others."""
        return tuple(note for index in range(len(self.images)) for note in self._merge(index)[1])

    def read_label(self, index: int) -> np.ndarray:
        """The classes as one label map `(height, width)`, in which a later class covers an earlier one."""
        return self._merge(index)[0]

    def _merge(self, index: int) -> tuple[np.ndarray, tuple[str, ...]]:
        masks = zip(self.numbers[index], self.masks(index), strict=True)
        return merge_masks((value, path, read_mask(path)) for value, path in masks)

    def cache_key(self) -> list[Any]:
        """See [`CaseSource`]; also which class each mask is."""
        return [*super().cache_key(), self.numbers]


def _as_tuple(paths: Path | tuple[Path, ...]) -> tuple[Path, ...]:
    return paths if isinstance(paths, tuple) else (paths,)


def cut_pair(
    name: str, image: Volume, label: Volume, values: FileValues, tolerance: float, processor: SamedImageProcessor
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


def merge_masks(masks: Iterable[tuple[int, Path | None, np.ndarray]]) -> tuple[np.ndarray, tuple[str, ...]]:
    """One label map, uint16, of masks with their labels and files, and a note on each that covers voxels of others.

    Raises:
        ValueError: a mask has two values besides 0, or another shape.
    """
    label, notes = np.zeros(0, np.uint16), []
    for value, path, array in masks:
        numbers = as_labels(str(path), array)
        mask = numbers > 0
        label = label if label.size else np.zeros(mask.shape, np.uint16)
        if (values := np.unique(numbers[mask])).size > 1:
            found = ", ".join(map(str, values[:5].tolist()))
            raise ValueError(
                f"{path} holds the values {found} besides 0: expected one, as it is the mask of a "
                f"class{describe_softened(numbers)}."
            )
        if mask.shape != label.shape:
            raise ValueError(
                f"{path} is of shape {mask.shape}: expected {label.shape}, as the other masks of the image."
            )
        if count := int(np.count_nonzero(label[mask])):
            notes.append(f"{path} covers {count} voxels of the masks before it: they get its label")
        label[mask] = value
    return label, tuple(notes)


def _noted(volume: Volume) -> Volume:
    """Log how a file was read, e.g. that it was turned; too many of a data set have the same notes for its own."""
    for note in volume.notes:
        logger.info("note        %s: %s", volume.path, note)
    return volume


def stack_images(name: str, images: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> RawCase:
    """One case of 2-D images `(slices[, channels], height, width)` and label maps `(slices, height, width)`."""
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"The images of {name} differ in size: expected one size for each case.")
    return RawCase(np.concatenate(images), np.concatenate(labels), None)


def read_mask(path: Path, *, as_colors: bool = False) -> np.ndarray:
    """Read labels `([pages,] height, width)`: uint8 or uint16 values or palette indices; uint32 0xRRGGBB of colours."""
    pixels = read_mask_pixels(path, as_colors=as_colors)
    return pixels if pixels.dtype == np.uint32 else as_labels(path, pixels)


def are_colored(paths: Sequence[Path]) -> bool:
    """Whether masks have colours: not only grey ones, or palettes that give one index several colours."""
    palettes = {path: palette for path in paths if (palette := mask_palette(path)) is not None}
    if any(read_mask_pixels(path).dtype == np.uint32 for path, palette in palettes.items() if not palette):
        return True
    indexed = {path: palette for path, palette in palettes.items() if palette}
    if len({tuple(palette) for palette in indexed.values()}) < 2:
        return False
    colors: dict[int, int] = {}
    for path, palette in indexed.items():
        used = (index for index in np.unique(read_mask_pixels(path)).tolist() if index < len(palette))
        if any(colors.setdefault(index, palette[index]) != palette[index] for index in used):
            return True
    return False


def describe_images(data: CaseDataset, paths: Iterable[Path]) -> None:
    """Set the channels of a data set of images and the range of those with more than 8 bits, with a note on it.

    There are three channels if one image has colours. Headers decide; a damaged image counts as coloured.
    """
    paths = [path for path in paths if path.is_file()]
    data.channel_names = image_channels(paths)
    ranges = []
    for path in filter(is_deep, paths):
        with suppress(ValueError, OSError):  # told when the case is read
            array = read_volume(path, num_channels=len(data.channel_names)).array
            ranges.append((float(array.min()), float(array.max())))
    data.set_intensity_range(ranges)


def image_channels(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return the channels of images: three if one has colours. Headers decide; a damaged image counts as coloured."""
    return ("image",) if all(image_files.is_grey(path) for path in paths if path.is_file()) else ("R", "G", "B")


def require_files(listing: Path, files: Iterable[Path]) -> None:
    """Refuse a data set whose description or list names files that do not exist."""
    if missing := [file for file in files if not file.is_file()]:
        others = f" (nor do {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{listing} names {missing[0]}, which does not exist{others}: add or remove it.")
