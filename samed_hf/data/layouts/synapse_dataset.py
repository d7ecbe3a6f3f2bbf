"""The Synapse layout as a [`CaseDataset`]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...model.image_processing_samed import SamedImageProcessor
from ..dataset import CaseDataset, CaseSource, RawCase, as_labels
from ..sources import FileSource
from .synapse import SynapseData

__all__ = ["is_synapse", "read_synapse"]


@dataclass(frozen=True)
class SliceSource(FileSource):
    """A training case, each of whose slices is a file."""

    name: str
    data: SynapseData
    slices: tuple[str, ...]

    def read(self, processor: SamedImageProcessor) -> RawCase:
        """See [`CaseSource`]. The slices keep the orientation of the files."""
        case = self.data.read_train_case(self.name)
        return RawCase(case.image, as_labels(self.name, case.label), case.spacing, rescaled=True)

    def files(self) -> tuple[Path, ...]:
        """See [`CaseSource`]."""
        return tuple(self.data.slice_path(name) for name in self.slices)


@dataclass(frozen=True)
class VolumeSource(FileSource):
    """A test case in one file."""

    name: str
    data: SynapseData

    def read(self, processor: SamedImageProcessor) -> RawCase:
        """See [`CaseSource`]. The slices keep the orientation of the files."""
        case = self.data.read_test_case(self.name)
        return RawCase(case.image, as_labels(self.name, case.label).astype(np.uint8), case.spacing, rescaled=True)

    def files(self) -> tuple[Path, ...]:
        """See [`CaseSource`]."""
        return (self.data.case_path(self.name),)


def is_synapse(root: Path) -> bool:
    """Return whether a directory has this layout."""
    return any((root / name).is_dir() for name in ("lists_Synapse", "lists", "train_npz", "test_vol_h5"))


def read_synapse(root: Path) -> CaseDataset:
    """Describe a directory in the Synapse layout; see [`SynapseData`] for what it raises."""
    data = SynapseData(root)
    slices = data.slices_by_case()
    sources: dict[str, CaseSource] = {name: SliceSource(name, data, tuple(found)) for name, found in slices.items()}
    if shared := sorted(set(sources) & set(data.test_cases)):
        raise ValueError(
            f"{root} lists {shared[0]} in train.txt and in test_vol.txt: expected each case in one of them, since "
            "scores of a training case mean nothing; remove it from one."
        )
    sources |= {name: VolumeSource(name, data) for name in data.test_cases}
    notes = [] if data.declares_labels else ["no lists_Synapse/labels.json: the eight labels of Synapse are assumed"]
    if "orientation" not in data.source:
        notes.append(
            "no orientation in lists_Synapse/source.json: scans to predict must have the orientation of those the "
            "slices were cut from; give it with --orientation, e.g. LPS"
        )
    return CaseDataset(
        "Synapse",
        data.root,
        data.id2label,
        sources,
        train=list(slices),
        test=list(data.test_cases),
        channel_names=("CT",),
        orientation=data.source.get("orientation"),
        input_size=data.train_size(),
        about=data.source,
        declares_labels=data.declares_labels,
        notes=notes,
    )
