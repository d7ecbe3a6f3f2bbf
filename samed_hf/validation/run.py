"""Validation of a data set: every case is read once, and released before the next."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import nibabel as nib
import numpy as np

from ..data.dataset import CaseDataset
from ..model.image_processing_samed import SamedImageProcessor
from ..reporting.charts import figure_jpeg
from ..reporting.preview import draw_preview, representative_slices, slice_plane
from ..transforms.intensity import CT_WINDOW
from ..transforms.slicing import rows_point_up
from ..utils.console import ProgressCallback
from ..volumes.geometry import Volume
from .case_checks import check_case, looks_like_ct
from .cohort_checks import check_cohort, splits_of
from .measuring import CaseFacts, measure_case
from .problems import Problem, sort_problems
from .reading import CaseReading, read_for_faults

__all__ = ["Validation", "validate_data"]

_SAMPLES = 2_000_000  # of intensities over all cases, of whole scans and of labels each: 8 MB a channel
_MIN_SAMPLES, _MAX_SAMPLES = 200, 50_000  # of a case
_DOUBTFUL = ("geometry", "swapped", "sparse", "label-values")  # problems for which an image of the case helps


@dataclass
class Validation:
    """Result of a validation."""

    data: CaseDataset
    processor: SamedImageProcessor  # how its scans were cut
    cases: list[CaseFacts] = field(default_factory=list)  # measurements of the readable ones, in the splits' order
    problems: list[Problem] = field(default_factory=list)  # the worst first
    images: dict[str, bytes] = field(default_factory=dict)  # JPEGs of some cases, by name

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
    """
    validation = Validation(data, processor)
    splits: dict[str, str] = {}
    for split, names in splits_of(data).items():
        splits |= {name: split for name in names if name not in splits}
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
        is_drawn = name in drawn or (doubtful and len(validation.images.keys() - drawn) < max_doubtful)
        if is_drawn and (image := _draw_case(facts, reading, data, processor, f"{name} · {split}")):
            validation.images[name] = image
    validation.problems += problems


def _draw_case(
    facts: CaseFacts, reading: CaseReading, data: CaseDataset, processor: SamedImageProcessor, title: str
) -> bytes | None:
    """Draw representative slices of a case as a JPEG, unless image and label differ in size or aren't finite."""
    image, label = reading.image, reading.label
    if image is None or label is None or (len(image), *image.shape[-2:]) != label.shape or facts.not_finite:
        return None
    image = np.moveaxis(image, 1, 3) if image.ndim == 4 else image
    label = np.where(label < len(data.id2label), label, 0).astype(label.dtype)  # those to ignore aren't drawn
    plane = "axial"
    if facts.spacing is None or processor.orientation is None:
        # The orientation of the patient is unknown: show the most representative slice as a 2-D image.
        index = representative_slices(label, 1)[0]
        up = slice(None, None, -1) if not data.is_2d and rows_point_up(processor) else slice(None)
        image = image[..., :1] if image.ndim == 4 and image.shape[-1] != 3 else image
        scan = Volume(image[index : index + 1, up].swapaxes(0, 2), np.diag([-1.0, -1.0, 1.0, 1.0]), is_image=True)
        labels = label[index : index + 1, up].swapaxes(0, 2)
    else:
        order = np.argsort(processor.axis_order)
        world, direction = nib.orientations.axcodes2ornt(processor.orientation).T
        affine = np.diag([0.0, 0.0, 0.0, 1.0])
        affine[world.astype(int), range(3)] = direction * np.array(facts.spacing)[order]
        scan = Volume(np.transpose(image, [*order, *range(3, image.ndim)]), affine)
        labels = np.transpose(label, order)
        plane = slice_plane(processor.orientation, processor.axis_order[0])
    # The processor's window if the intensities fit it, SAMed's if they look like CT.
    window: Sequence[float] | None = processor.channel_windows[0]
    if window is None and facts.sample is not None and looks_like_ct(*np.percentile(facts.sample[0], (1, 99.5))):
        window = CT_WINDOW
    elif window and (scan.num_channels > 2 or min(facts.low) >= 0 or window[0] >= max(facts.high)):
        window = None
    figure = draw_preview(scan, labels, data.id2label, plane=plane, window=window, title=title)
    return figure_jpeg(figure)
