"""Cases whose labels are DICOM: a structure set (RTSTRUCT) or a segmentation (SEG) of a series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..model.image_processing_samed import SamedImageProcessor
from ..volumes import Volume
from ..volumes.dicom import read_label_map, read_series
from .dataset import RawCase
from .sources import ScanSource, cut_pair

__all__ = ["DicomSource"]


@dataclass(frozen=True)
class DicomSource(ScanSource):
    """A DICOM series, whose files are `images`, and a structure set or a segmentation of it."""

    names: tuple[str, ...] = ()  # of the labels 1, 2, …

    def read(self, processor: SamedImageProcessor) -> RawCase:
        """See [`CaseSource`]."""
        image = self.read_image()
        label, notes = read_label_map(self.label, image, self.names)
        return cut_pair(self.name, image, label, self.values, self.tolerance, processor)._replace(notes=tuple(notes))

    def read_image(self) -> Volume:
        """See [`ScanSource`]."""
        return read_series(self.images, self.images[0].parent)

    def read_label(self) -> tuple[Volume, tuple[str, ...]]:
        """See [`ScanSource`]; the label map is on the series' grid."""
        label, notes = read_label_map(self.label, self.read_image(), self.names)
        return label, tuple(notes)

    def cache_key(self) -> list[Any]:
        """See [`CaseSource`]; also the names, by which regions are chosen."""
        return [*super().cache_key(), list(self.names)]
