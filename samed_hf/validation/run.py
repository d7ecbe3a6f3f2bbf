"""Validation of a data set: every case is read once, and released before the next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ..data.dataset import CaseDataset
from ..model.image_processing_samed import SamedImageProcessor
from ..utils.console import ProgressCallback
from .case_checks import check_case
from .charts import draw_case
from .cohort_checks import check_cohort, splits_of
from .measuring import CaseFacts, measure_case
from .problems import Problem, sort_problems
from .reading import read_for_faults

__all__ = ["Validation", "validate_data"]

_SAMPLES = 2_000_000  # of intensities over all cases, of whole scans and of labels each: 8 MB a channel
_MIN_SAMPLES, _MAX_SAMPLES = 200, 50_000  # of a case
_DOUBTFUL = ("geometry", "swapped", "sparse", "label-values")  # problems for which an image of the case helps


@dataclass
class Validation:
    """Result of a validation.

    Attributes:
        data: the data set.
        processor: how its scans were cut.
        cases: measurements of the readable cases, in the splits' order.
        problems: problems, the worst first.
        images: JPEGs of some cases, by name.
    """

    data: CaseDataset
    processor: SamedImageProcessor
    cases: list[CaseFacts] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)

    def count(self, severity: str) -> int:
        """Return the number of problems of a severity."""
        return sum(problem.severity == severity for problem in self.problems)


def validate_data(
    data: CaseDataset,
    processor: SamedImageProcessor,
    *,
    images_per_split: int = 3,
    progress: ProgressCallback | None = None,
) -> Validation:
    """Find problems of a data set that would spoil a training.

    Args:
        data: the data set; it isn't changed.
        processor: how to cut scans; see [`~samed_hf.data.make_processor`].
        images_per_split: number of cases of each split to draw, and of cases with doubtful labels.
        progress: called with how many of how many cases are done.

    Returns:
        Problems, measurements and images.
    """
    validation = Validation(data, processor)
    splits: dict[str, str] = {}
    for split, names in splits_of(data).items():
        for name in names:
            splits.setdefault(name, split)
    drawn = {
        names[int(index)]
        for names in splits_of(data).values()
        for index in np.linspace(0, len(names) - 1, min(images_per_split, len(names))).round()
    }
    budget = int(np.clip(_SAMPLES // max(1, len(splits)), _MIN_SAMPLES, _MAX_SAMPLES))
    for done, (name, split) in enumerate(splits.items(), 1):
        _check(validation, name, split, budget, drawn, images_per_split)
        if progress is not None:
            progress(done, len(splits))
    failed = len(splits) - sum(bool(facts.voxels) for facts in validation.cases)
    validation.problems = sort_problems([*validation.problems, *check_cohort(data, validation.cases, failed)])
    return validation


def _check(validation: Validation, name: str, split: str, budget: int, drawn: set[str], max_doubtful: int) -> None:
    """Read, measure, check and draw one case."""
    data, processor = validation.data, validation.processor
    reading = read_for_faults(data, name, processor)
    facts = measure_case(name, split, reading, len(data.id2label), budget)
    problems = [replace(problem, case=name, split=split) for problem in reading.problems]
    if facts is not None:
        validation.cases.append(facts)
        problems += check_case(facts, data.id2label, processor, rescaled=reading.rescaled)
        doubtful = any(problem.kind in _DOUBTFUL for problem in problems)
        if name in drawn or (doubtful and len(validation.images.keys() - drawn) < max_doubtful):
            image = draw_case(facts, reading, data, processor, f"{name} · {split}")
            if image is not None:
                validation.images[name] = image
    validation.problems += problems
