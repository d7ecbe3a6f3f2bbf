"""Prediction of one case: read, segment, clean, measure, draw and write."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..inference import Segmentation, Segmenter, segment_volume
from ..inference.statistics import measure_labels, write_statistics
from ..reporting.charts import label_colors, save_png
from ..reporting.formatting import format_ml
from ..reporting.preview import draw_preview, slice_plane
from ..transforms.intensity import guess_preprocessing
from ..utils.console import ProgressCallback
from ..utils.text import printable
from ..volumes import Volume, read_scan, write_labels, write_volume
from .cleaning import clean_labels
from .files import PREVIEW, STATISTICS, Job, case_files, label_file_names
from .settings import PredictionSettings

__all__ = ["SegmentedCase", "describe_labels", "predict_case", "read_case", "segment_case", "write_case"]


def predict_case(
    segmenter: Segmenter,
    job: Job,
    output: Path,
    settings: PredictionSettings,
    *,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Segment one scan and write its files, all or none.

    Args:
        segmenter: the model or models.
        job: the scan.
        output: directory for the results, created where it is missing.
        settings: how to segment and what to write.
        progress: called with how many of how many slices are done.

    Returns:
        Content of `statistics.json`.

    Raises:
        ValueError: the scan can't be read or doesn't suit the model.
        OSError: a file can't be written.
    """
    segmented = segment_case(segmenter, job, read_case(segmenter, job), output, settings, progress)
    return write_case(segmenter, job, segmented, settings)


class SegmentedCase(NamedTuple):
    """A segmented scan whose files are still to be written.

    Attributes:
        scan: the scan.
        segmentation: labels, confidence and probabilities.
        directory: temporary directory for the files; see [`~samed_hf.prediction.files.case_files`].
        files: context manager that moves the files into the output directory.
    """

    scan: Volume
    segmentation: Segmentation
    directory: Path
    files: ExitStack


def read_case(segmenter: Segmenter, job: Job) -> Volume:
    """First step of [`predict_case`]: read the scan, with the model's number of channels."""
    return read_scan(job.scan, num_channels=segmenter.processor.num_channels)


def segment_case(
    segmenter: Segmenter,
    job: Job,
    scan: Volume,
    output: Path,
    settings: PredictionSettings,
    progress: ProgressCallback | None,
) -> SegmentedCase:
    """Second step of [`predict_case`]: predict the labels of the scan."""
    with ExitStack() as files:
        directory = files.enter_context(case_files(output, job))
        segmentation = segment_volume(
            segmenter,
            scan,
            batch_size=settings.batch_size,
            tta=settings.tta,
            is_image=job.is_image,
            progress=progress,
            probabilities=directory.parent / "probabilities.raw" if settings.probabilities else None,
        )
        return SegmentedCase(scan, segmentation, directory, files.pop_all())


def write_case(
    segmenter: Segmenter, job: Job, segmented: SegmentedCase, settings: PredictionSettings
) -> dict[str, Any]:
    """Last step of [`predict_case`]: clean, measure, draw and write; returns the content of `statistics.json`."""
    scan, segmentation, directory, files = segmented
    with files:
        labels, removed = clean_labels(segmentation.labels, scan, segmenter.id2label, settings)
        names = settings.requested(segmenter.id2label)
        measured = measure_labels(labels, scan, names, confidence=segmentation.confidence, is_image=job.is_image)
        _write_maps(directory, job, segmented, labels, segmenter, settings)
        if settings.preview:
            _draw(directory / job.directory / PREVIEW, job, scan, labels, segmenter, measured)
        grid: dict[str, Any] = {"shape": list(scan.grid)}
        if not job.is_image:
            grid |= {"spacing_mm": list(scan.spacing), "voxel_ml": scan.voxel_ml, "orientation": scan.orientation}
        statistics = {
            "case": job.scan.name,
            "file": str(job.scan.path),
            "kind": job.scan.kind,
            "grid": grid,
            "notes": [*getattr(scan.header, "notes", ()), *_mismatches(scan, segmenter, job.is_image)],
            "labels": measured,
            "removed": removed,
            "files": _list_files(directory, job),
        }
        write_statistics(directory / job.directory / STATISTICS, statistics)
    return statistics


def _list_files(directory: Path, job: Job) -> list[str]:
    """Return the files written so far and the statistics; those in the subdirectory come last."""
    top = sorted(path.name for path in directory.iterdir() if path.is_file())
    names = [STATISTICS, *(path.name for path in (directory / job.directory).iterdir())]
    return [*top, *sorted(f"{job.directory}/{name}" for name in names)]


def _mismatches(scan: Volume, segmenter: Segmenter, is_image: bool) -> list[str]:
    """Describe how a scan's modality differs from those that the model was trained on, as far as files state it."""
    names = segmenter.processor.channel_names or []
    trained = guess_preprocessing(names)
    modality = getattr(scan.header, "modality", None)
    warning = "the result may be meaningless"
    notes = []
    if names and modality and (modality == "CT") != ("ct" in trained):
        notes.append(f"its DICOM modality is {modality}, the model was trained on {', '.join(names)}: {warning}")
    if "ct" in trained and not is_image and scan.array.min() >= 0:
        notes.append(f"no intensity is below 0, while air in CT is, in Hounsfield units: {warning}")
    if names and "ct" not in trained and not is_image and scan.array.min() < -500:
        notes.append(f"its intensities are like those of CT, the model was trained on {', '.join(names)}: {warning}")
    return notes


def _write_maps(
    directory: Path,
    job: Job,
    segmented: SegmentedCase,
    labels: np.ndarray,
    segmenter: Segmenter,
    settings: PredictionSettings,
) -> None:
    """Write the label map, and masks and probabilities if requested."""
    scan, probabilities = segmented.scan, segmented.segmentation.probabilities
    colors = label_colors(segmenter.num_labels)
    names = settings.requested(segmenter.id2label)
    write_labels(directory / job.labels, labels, scan, names=names, colors=colors)
    if settings.per_class:
        for index, file in label_file_names(names, job.suffix).items():
            mask = (labels == index).astype(np.uint8)
            path = directory / job.directory / file
            write_labels(path, mask, scan, names={1: names[index]}, colors=colors[[0, index]])
    if probabilities is not None:
        # Without the scan's header, which holds an intensity window for display.
        write_volume(directory / job.directory / job.probabilities, Volume(probabilities, scan.affine))


def _draw(
    path: Path, job: Job, scan: Volume, labels: np.ndarray, segmenter: Segmenter, measured: dict[str, Any]
) -> None:
    processor = segmenter.processor
    window = None if job.is_image else processor.intensity_window
    if window is not None and isinstance(window[0], list):
        window = window[0]
    texts = {row["index"]: f"{name}  {_size(row)}" for name, row in measured.items()}
    figure = draw_preview(
        scan,
        labels,
        dict(segmenter.id2label) | texts,
        plane=slice_plane(processor.orientation or scan.orientation, processor.axis_order[0]),
        window=window,
        title=printable(job.scan.name),
        is_image=job.is_image,
    )
    save_png(figure, path, dpi=100)


def describe_labels(statistics: dict[str, Any]) -> str:
    """Return the labels that were found and their sizes in one line."""
    labels = [f"{printable(name)} {_size(row)}" for name, row in statistics["labels"].items() if row["bounding_box"]]
    return ", ".join(labels) or "nothing found"


def _size(row: dict[str, Any]) -> str:
    return f"{format_ml(row['ml'])} ml" if "ml" in row else f"{row['pixels']} pixels"
