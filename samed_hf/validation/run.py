"""A data set looked through: every case is read once, and let go before the next."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..data.dataset import CaseDataset
from ..model.image_processing_samed import SamedImageProcessor
from ..utils.progress import ProgressCallback
from .case_checks import check_case
from .charts import draw_case
from .cohort_checks import check_cohort, splits_of
from .measuring import CaseFacts, measure_case
from .problems import Problem, sort_problems
from .reading import read_for_faults

__all__ = ["Validation", "validate_data"]

_SAMPLED = 2_000_000
"""Intensities kept over all cases, of whole scans and of labels each: 8 MB a channel."""
_LEAST, _MOST = 200, 50_000


@dataclass
class Validation:
    """What was found.

    Attributes:
        data: the data set.
        processor: how its scans were cut.
        cases: what is known of the cases that could be read, in the splits' order.
        problems: what is wrong, the worst first.
        images: JPEGs of some cases, by name.
    """

    data: CaseDataset
    processor: SamedImageProcessor
    cases: list[CaseFacts] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)

    def count(self, severity: str) -> int:
        """How many problems are so bad."""
        return sum(1 for problem in self.problems if problem.severity == severity)


def validate_data(
    data: CaseDataset,
    processor: SamedImageProcessor,
    *,
    images_per_split: int = 3,
    progress: ProgressCallback | None = None,
) -> Validation:
    """Look through a data set for what would spoil a training.

    Args:
        data: the data set; nothing of it is changed.
        processor: says how scans are cut; see [`~samed_hf.training.data.make_processor`].
        images_per_split: how many cases of each split are drawn, and as many with doubtful labels.
        progress: called with how many of how many cases are done.
    """
    validation = Validation(data, processor)
    splits: dict[str, str] = {}
    for split, names in splits_of(data).items():
        for name in names:
            splits.setdefault(name, split)
    drawn = _spread(data, images_per_split)
    budget = int(np.clip(_SAMPLED // max(1, len(splits)), _LEAST, _MOST))
    for done, (name, split) in enumerate(splits.items(), 1):
        _look_at(validation, name, split, budget, drawn, images_per_split)
        if progress is not None:
            progress(done, len(splits))
    failed = len(splits) - sum(facts.voxels is not None for facts in validation.cases)
    validation.problems = sort_problems([*validation.problems, *check_cohort(data, validation.cases, failed)])
    return validation


def _spread(data: CaseDataset, count: int) -> set[str]:
    """A few cases of each split, spread over it."""
    drawn = set()
    for names in splits_of(data).values():
        for index in np.linspace(0, len(names) - 1, min(count, len(names))).round():
            drawn.add(names[int(index)])
    return drawn


def _look_at(validation: Validation, name: str, split: str, budget: int, drawn: set[str], num_doubtful: int) -> None:
    data, processor = validation.data, validation.processor
    reading = read_for_faults(data, name, processor)
    facts = measure_case(name, split, reading, len(data.id2label), budget)
    found = [Problem(one.severity, one.kind, one.text, name, split) for one in reading.problems]
    if facts is not None:
        validation.cases.append(facts)
        found += check_case(facts, data.id2label, processor, rescaled=reading.rescaled)
        doubtful = any(one.kind in ("geometry", "swapped", "sparse", "label-values") for one in found)
        others = len(validation.images.keys() - drawn)
        if name in drawn or (doubtful and others < num_doubtful):
            picture = draw_case(facts, reading, data, processor, f"{name} · {split}")
            if picture is not None:
                validation.images[name] = picture
    validation.problems += found
