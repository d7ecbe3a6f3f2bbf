"""Cases whose labels are DICOM: a structure set (RTSTRUCT) or a segmentation (SEG) of a series."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..model.image_processing_samed import SamedImageProcessor
from ..utils.text import name_some, printable
from ..volumes import Volume
from ..volumes.dicom import LabelObject, read_label_map, read_label_object, read_series
from .dataset import RawCase
from .labels import Labels
from .sources import ScanSource, cut_pair

__all__ = ["DicomSource", "read_regions", "region_labels"]

_MOST = 254  # labels beside the background; 255 is the ignored one


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
        return super().read_image() if self.images[0].is_dir() else read_series(self.images, self.images[0].parent)

    def read_label(self) -> tuple[Volume, tuple[str, ...]]:
        """See [`ScanSource`]; the label map is on the series' grid."""
        label, notes = read_label_map(self.label, self.read_image(), self.names)
        return label, tuple(notes)

    def cache_key(self) -> list[Any]:
        """See [`CaseSource`]; also the names, by which regions are chosen."""
        return [*super().cache_key(), list(self.names)]


def read_regions(files: Iterable[Path], strict: bool, notes: list[str]) -> list[LabelObject]:
    """Return the structure sets and segmentations among files, and add their notes to `notes`.

    A damaged file is an error if `strict`, else a note.
    """
    objects = []
    for file in files:
        try:
            if found := read_label_object(file):
                objects.append(found)
                notes += [f"{printable(file)}: {note}" for note in found.notes]
        except (ValueError, OSError) as error:
            if strict:
                raise
            notes.append(f"left out: {error}")
    return objects


def region_labels(root: Path, objects: list[LabelObject], named: Labels | None, notes: list[str]) -> Labels:
    """Return the labels of the cases' regions, or those that `named` chooses, and note what is left out or lacking."""
    counts = Counter(name for one in objects for name in dict.fromkeys(one.names.values()))
    found = [name for name in counts if name.lower() != "background"]
    names = list(named.id2label.values())[1:] if named else found
    if len(names) > _MOST:
        raise ValueError(f"{root} has {len(names)} regions, expected at most {_MOST}: choose some by --label_names.")
    if not set(names) & set(found):
        raise ValueError(
            f"{root} has the regions {name_some(counts, 8)}, none called {name_some(names, 8)}: name some of them."
        )
    if left_out := [name for name in counts if name not in names]:
        notes.append(f"regions that are no label, and count as background: {name_some(left_out, 8)}")
    alike = defaultdict(list)
    for name in counts:
        alike["".join(name.split()).casefold()].append(name)
    for several in alike.values():
        if len(several) > 1:
            notes.append(f"{', '.join(map(repr, several))} differ only in case or spacing and are not the same label")
    if rare := [f"{name} in {counts[name]}" for name in names if counts[name] < len(objects)]:
        notes.append(f"of {len(objects)} cases some lack a region, which is background there: {name_some(rare, 12)}")
    return Labels(dict(enumerate(["background", *names])), tuple(range(len(names) + 1)))
