"""A data set as its cases: what every layout is read into."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..model.image_processing_samed import SamedImageProcessor
from ..transforms.intensity import intensity_range
from ..transforms.slicing import SliceStack, image_bounds
from ..volumes.file_checks import check_finite
from .file_stamps import file_stamps
from .softened import describe_softened

__all__ = ["IGNORED_LABEL", "Case", "CaseDataset", "CaseSource", "FileValues", "RawCase", "as_labels"]
__all__ += ["check_label_values", "label_numbers", "renumber"]

IGNORED_LABEL = 255
"""Label of voxels that are neither trained nor scored, in data sets that declare such a label."""
FileValues = Sequence[int] | Mapping[int, int]
"""The files' number of each label in order, e.g. 0, 255; or the label of each number, if several are one label."""
_NOISE = 1e-3  # of labels stored with a slope
_UNKNOWN = 65535  # no label

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """One patient's scan and label map, cut into slices as the model reads them.

    Attributes:
        name: e.g. "case0001".
        image: of shape `(slices, height, width)` or `(slices, channels, height, width)`, float32 in [0, 1].
        label: of shape `(slices, height, width)`, integer; 0 is the background.
        spacing: mm along `(slices, height, width)`; `None` if the files do not record it.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float] | None = None


class RawCase(NamedTuple):
    """A case as its files hold it, cut into slices."""

    image: np.ndarray  # (slices, height, width) or (slices, channels, height, width), in the files' unit and type
    label: np.ndarray  # (slices, height, width), uint8 or uint16; IGNORED_LABEL where it is unknown
    spacing: tuple[float, float, float] | None  # mm along (slices, height, width)
    rescaled: bool = False  # whether the intensities are in [0, 1] already
    notes: tuple[str, ...] = ()  # what a user should know about the case


class CaseSource(Protocol):
    """Reads a case from its files."""

    def read(self, processor: SamedImageProcessor) -> RawCase:
        """Read the case and cut it into slices as the processor defines.

        Raises:
            ValueError, FileNotFoundError: a file is missing or damaged, or image and label differ in shape or grid.
        """

    def files(self) -> tuple[Path, ...]:
        """Return the files of image and label; none for a case that is not in files of its own."""

    def cache_key(self) -> list[Any]:
        """Return what changes when the case's content does, as JSON: here the stamps of its files."""
        return [stamp for path in self.files() for stamp in file_stamps(path)]


@dataclass
class CaseDataset:
    """Cases with their labels, split into training, validation and test cases.

    Attributes:
        layout: name of the layout, for messages.
        root: the directory, or the name of the data set.
        id2label: name of each label, keys 0, 1, …; 0 is the background.
        sources: reads each case, by its name.
        train, validation, test: names of the cases; no case is in two of them.
        channel_names: what the channels of a scan are.
        is_2d: whether the files are images without a unit of intensity, such as PNG.
        is_sliced: whether the cases are stored as slices, so that none can be cut in another plane.
        intensity_range: what becomes 0 and 1 in 2-D images of more than 8 bits.
        orientation: of the slices: "LPS" if the files record theirs, otherwise what the data set declares.
        input_size: side in pixels to which the slices were zoomed beforehand, if they were.
        about: facts that the data set states, e.g. "name", "synthetic".
        notes: what a user should know.
        split_notes: those of them that describe how the data set itself divides its cases.
        selection: validation cases that are scored during a training, and so choose the best adapter.
        explanation: what each kind of file was taken for, one sentence.
        groups: the patient of each case whose patient may have several; a patient's cases stay in one split.
        declares_labels, declares_folds: whether the data set itself names its labels and has folds.
        regions: by name, the labels of which a region is the union, if scores are of regions instead of labels.
        has_ignored: whether voxels can have `IGNORED_LABEL`.
    """

    layout: str
    root: Path | str
    id2label: dict[int, str]
    sources: dict[str, CaseSource]
    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    channel_names: tuple[str, ...] = ("image",)
    is_2d: bool = False
    is_sliced: bool = False
    intensity_range: tuple[float, float] | None = None
    orientation: str | None = "LPS"
    input_size: int | None = None
    about: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    split_notes: list[str] = field(default_factory=list)
    selection: list[str] = field(default_factory=list)
    explanation: str = ""
    groups: dict[str, str] = field(default_factory=dict)
    declares_labels: bool = True
    declares_folds: bool = False
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    has_ignored: bool = False

    def add_cases(self, split: str, sources: Mapping[str, CaseSource]) -> None:
        """Add the cases of "train", "validation" or "test".

        Raises:
            ValueError: a case is in another split.
        """
        if shared := sorted(set(sources) & set(self.sources)):
            raise ValueError(
                f"{self.root} has the case {shared[0]} in two splits: expected each case in one of them, since scores "
                "of a training case mean nothing; remove it from one, or rename one if they differ."
            )
        self.sources.update(sources)
        getattr(self, split).extend(sources)

    def set_intensity_range(self, ranges: Sequence[tuple[float, float]]) -> None:
        """Set `intensity_range` by the lowest and the highest intensity of each image of more than 8 bits."""
        if ranges:
            low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
            self.intensity_range = intensity_range(low, high)
        if self.intensity_range not in (None, (0.0, 65535.0)):
            bits = f" ({int(self.intensity_range[1]).bit_length()} bits)" if low >= 0 else ""
            self.notes.append(
                f"images of more than 8 bits hold {low:g} to {high:g}: training scales {self.intensity_range[0]:g} to "
                f"{self.intensity_range[1]:g}{bits} to [0, 1] and records it in the adapter; --intensity_window "
                "replaces it"
            )

    @property
    def ignore_index(self) -> int | None:
        """The label of voxels that aren't scored, if there can be some."""
        return IGNORED_LABEL if self.has_ignored else None

    @property
    def evaluation_split(self) -> tuple[str, list[str]]:
        """The split of the final scores and its cases: the test cases, else those for validation."""
        return ("test", self.test) if self.test else ("validation", self.validation)

    def read_raw(self, name: str, processor: SamedImageProcessor) -> RawCase:
        """Read one case and check it.

        Raises:
            ValueError: a damaged file, image and label of different shapes, NaN, or a label without a name.
        """
        raw = self.sources[name].read(processor)
        for note in [f"{name}: {note}" for note in raw.notes]:
            if note not in self.notes:
                logger.warning(note)
                self.notes.append(note)
        if raw.image.shape[-2:] != raw.label.shape[-2:] or len(raw.image) != len(raw.label):
            raise ValueError(f"{name} has an image of shape {raw.image.shape} and a label of {raw.label.shape}.")
        check_finite(Path(name), raw.image)
        check_label_values(name, raw.label, len(self.id2label), has_ignored=self.has_ignored)
        return raw

    def read_case(self, name: str, processor: SamedImageProcessor) -> Case:
        """Read one case with its intensities in [0, 1]; raises as [`read_raw`].

        A processor without names of channels takes those of the data set.
        """
        raw = self.read_raw(name, processor)
        if raw.image.ndim == 4 and processor.channel_names is None:
            processor = processor.from_dict(processor.to_dict() | {"channel_names": list(self.channel_names)})
        stack = SliceStack(raw.image, processor, bounds=self.bounds(raw, processor), rescaled=raw.rescaled)
        return Case(name, stack.scaled(), raw.label, raw.spacing)

    def bounds(self, raw: RawCase, processor: SamedImageProcessor) -> list[list[float]] | None:
        """The intensities of a case that become 0 and 1 for each channel; `None` if it is rescaled already."""
        if raw.rescaled:
            return None
        return image_bounds(raw.image, processor) if self.is_2d else processor.intensity_bounds(raw.image)

    def expect_channels(self, count: int) -> None:
        """Refuse scans that have another number of channels than the `count` a model was trained on."""
        if not self.is_2d and len(self.channel_names) != count:
            names = ", ".join(self.channel_names)
            raise ValueError(f"{self.root} has the channels {names}, the model {count}: choose by --image_column A,B.")

    def expect_labels(self, id2label: Mapping[int, str], regions: Mapping[str, Sequence[int]] | None = None) -> None:
        """Read the label values as a model names them, and its regions.

        Raises:
            ValueError: the data set names them otherwise.
        """
        own, expected = (
            {name: tuple(labels) for name, labels in (one or {}).items()} for one in (self.regions, regions)
        )
        if self.declares_labels and (dict(id2label), expected) != (self.id2label, own):
            theirs = "" if own == expected else f" with the regions {own}, of the model {expected}"
            raise ValueError(
                f"{self.root} has the labels {self.id2label}, but the model has {dict(id2label)}{theirs}: expected the "
                "same; score the model on data of its own labels."
            )
        self.id2label, self.regions = dict(id2label), expected


def check_label_values(name: str | Path, label: np.ndarray, num_labels: int, *, has_ignored: bool = False) -> None:
    """Refuse label values outside [0, num_labels), but `IGNORED_LABEL`; the error names file or case and value."""
    low, high = (int(label.min()), int(label.max())) if label.size else (0, 0)
    if low < 0 or high >= num_labels:
        strange = (label < 0) | (label >= num_labels)
        if has_ignored:
            strange &= label != IGNORED_LABEL
            if not strange.any():
                return
            low = high = int(label[strange].flat[0])
        where = f", slice {int(np.flatnonzero(strange.any(axis=(1, 2)))[0])}," if label.ndim == 3 else ""
        raise ValueError(
            f"{name}{where} holds the label value {high if high >= num_labels else low}: expected values from 0 to "
            f"{num_labels - 1} for {num_labels} labels, the background counted"
            f"{describe_softened(np.maximum(label, 0))}. Name more labels or repair the file."
        )


def as_labels(name: str | Path, label: np.ndarray) -> np.ndarray:
    """A label map as uint8 or uint16; one of floats must hold whole numbers from 0 to 65535, within 1e-3.

    A file's slope and intercept leave such noise: 3.00005 is 3.
    """
    if label.dtype in (bool, np.uint8, np.uint16):
        return label.astype(np.uint8) if label.dtype == bool else label
    whole = label if label.dtype.kind in "iu" else np.round(label)
    low, high = (float(whole.min()), float(whole.max())) if label.size else (0.0, 0.0)
    if not (low >= 0 and high <= 65535 and (whole is label or (np.abs(whole - label) <= _NOISE).all())):
        low, high = float(label.min()), float(label.max())
        raise ValueError(
            f"{name} holds labels from {low:g} to {high:g}, some between the whole numbers or out of range: expected "
            "whole numbers from 0 to 65535; a probability map, or a mask anti-aliased/softened at its border, is no "
            "label map: give each voxel one label, e.g. by a threshold, and resample without interpolation (order 0)."
        )
    return whole.astype(np.uint8 if high < 256 else np.uint16)


def label_numbers(values: FileValues) -> dict[int, int]:
    """The label of each of a file's numbers."""
    return dict(values) if isinstance(values, Mapping) else {value: index for index, value in enumerate(values)}


def renumber(name: str | Path, label: np.ndarray, values: FileValues) -> np.ndarray:
    """Number an integer label map 0, 1, … by the file's own numbers of the labels, e.g. 0, 255.

    In a map of colours (uint32) they are 0xRRGGBB.
    """
    numbers = label_numbers(values)
    if not isinstance(values, Mapping) and list(values) == list(range(len(values))):
        return label
    table = np.full(int(max(int(label.max(initial=0)), *numbers)) + 1, _UNKNOWN, dtype=np.uint16)
    table[list(numbers)] = list(numbers.values())
    numbered = table[label]
    if (strange := numbered == _UNKNOWN).any():
        first, known = int(label[strange].flat[0]), ", ".join(map(str, numbers))
        what = f"the label value {first}"
        if label.dtype == np.uint32:
            pixels, known = np.count_nonzero(label == first), ", ".join(f"#{value:06x}" for value in numbers)
            what = f"{np.count_nonzero(strange)} pixels of unlisted colours, {pixels} of them #{first:06x}"
        raise ValueError(
            f"{name} holds {what}: expected one of {known}, those that have a name{describe_softened(label)}."
        )
    return numbered.astype(np.uint8 if max(numbers.values()) < 256 else np.uint16)
