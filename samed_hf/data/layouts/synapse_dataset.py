"""A folder in the Synapse layout as a data set like the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...model.image_processing_samed import SamedImageProcessor
from ..dataset import CaseDataset, CaseSource, RawCase, as_labels
from ..sources import file_versions
from .synapse import SynapseData

__all__ = ["read_synapse"]


@dataclass(frozen=True)
class SliceSource:
    """A training case: its slices are files of their own."""

    name: str
    data: SynapseData
    slices: tuple[str, ...]

    def read(self, processor: SamedImageProcessor) -> RawCase:
        """See [`CaseSource`]. The slices lie as the layout has them."""
        case = self.data.read_train_case(self.name)
        return RawCase(case.image, as_labels(self.name, case.label), case.spacing, rescaled=True)

    def cache_key(self) -> list[Any]:
        """See [`CaseSource`]."""
        return file_versions([self.data.slice_path(name) for name in self.slices])


@dataclass(frozen=True)
class VolumeSource:
    """A case to score: one file."""

    name: str
    data: SynapseData

    def read(self, processor: SamedImageProcessor) -> RawCase:
        """See [`CaseSource`]. The slices lie as the layout has them."""
        case = self.data.read_test_case(self.name)
        return RawCase(case.image, as_labels(self.name, case.label).astype(np.uint8), case.spacing, rescaled=True)

    def cache_key(self) -> list[Any]:
        """See [`CaseSource`]."""
        return file_versions([self.data.case_path(self.name)])


def read_synapse(root: Path) -> CaseDataset:
    """Read a folder in the Synapse layout; see [`SynapseData`] for what it raises."""
    data = SynapseData(root)
    slices = data.slices_by_case()
    sources: dict[str, CaseSource] = {name: SliceSource(name, data, tuple(found)) for name, found in slices.items()}
    if shared := sorted(set(sources) & set(data.test_cases)):
        raise ValueError(
            f"{root} lists {shared[0]} in train.txt and in test_vol.txt: expected each case in one of them, since "
            "scores of a case trained on say nothing; take it out of one."
        )
    sources |= {name: VolumeSource(name, data) for name in data.test_cases}
    notes = [] if data.declares_labels else ["no lists_Synapse/labels.json: the labels are taken for Synapse's eight"]
    if "orientation" not in data.source:
        notes.append(
            "no orientation in lists_Synapse/source.json: scans to predict must lie as those the slices were cut from; "
            "--orientation says how, e.g. LPS"
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
