"""One scan read, segmented, cleaned, measured, pictured and written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..inference import Segmentation, Segmenter, segment_volume
from ..inference.postprocessing import keep_labels, keep_largest, remove_islands
from ..inference.statistics import measure_labels, write_statistics
from ..reporting.charts import save_png
from ..reporting.colors import label_colors
from ..reporting.preview import draw_preview, slice_plane
from ..transforms.intensity import guess_preprocessing
from ..utils.text import printable
from ..volumes import Volume, read_scan, reorient, restore_orientation, write_labels, write_volume
from .files import PREVIEW, STATISTICS, Job, label_file_names, staged
from .report import format_ml
from .settings import PredictionSettings

__all__ = [
    "SegmentedCase",
    "clean_labels",
    "describe_found",
    "predict_case",
    "read_case",
    "segment_case",
    "write_case",
]

_CANONICAL = "LPS"


def predict_case(
    segmenter: Segmenter,
    job: Job,
    output: Path,
    settings: PredictionSettings,
    *,
    on_slices: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Segment one scan and write its files, all together when all are whole.

    Args:
        segmenter: The model or models.
        job: The scan.
        output: Folder for the results, made where it is missing.
        settings: How, and what is written.
        on_slices: Told how many of how many slices are done.

    Returns:
        What `statistics.json` holds.

    Raises:
        ValueError: The scan can't be read, or isn't one for this model.
        OSError: A file can't be written.
    """
    segmented = segment_case(segmenter, job, read_case(segmenter, job), output, settings, on_slices)
    return write_case(segmenter, job, segmented, settings)


class SegmentedCase(NamedTuple):
    """A scan and what the model said of it, and the folders to write that in, closed by whoever writes."""

    scan: Volume
    segmentation: Segmentation
    top: Path
    inside: Path
    folders: ExitStack


def read_case(segmenter: Segmenter, job: Job) -> Volume:
    """The first step of [`predict_case`]: the scan, with the channels that the model knows."""
    return read_scan(job.scan, num_channels=segmenter.processor.num_channels)


def segment_case(
    segmenter: Segmenter,
    job: Job,
    scan: Volume,
    output: Path,
    settings: PredictionSettings,
    on_slices: Callable[[int, int], None] | None,
) -> SegmentedCase:
    """The second step: what the model says of the scan, and folders to write it in, which [`write_case`] closes."""
    with ExitStack() as folders:
        top, inside = folders.enter_context(staged(output, job))
        segmentation = segment_volume(
            segmenter,
            scan,
            batch_size=settings.batch_size,
            tta=settings.tta,
            is_image=job.scan.kind == "picture",
            progress=on_slices,
            probabilities=top.parent / "probabilities.raw" if settings.probabilities else None,
        )
        return SegmentedCase(scan, segmentation, top, inside, folders.pop_all())


def write_case(
    segmenter: Segmenter, job: Job, segmented: SegmentedCase, settings: PredictionSettings
) -> dict[str, Any]:
    """The last step: clean, measure, write and draw; returns what `statistics.json` holds."""
    scan, segmentation, top, inside, folders = segmented
    picture = job.scan.kind == "picture"
    with folders:
        labels, removed = clean_labels(segmentation.labels, scan, segmenter.id2label, settings)
        wanted = settings.wanted(segmenter.id2label)
        measured = measure_labels(labels, scan, wanted, confidence=segmentation.confidence, is_image=picture)
        _write_maps(job, scan, labels, segmentation, segmenter, settings, (top, inside))
        if settings.preview:
            _draw(inside / PREVIEW, job, scan, labels, segmenter, measured)
        grid = {"shape": list(scan.grid)}
        if not picture:
            grid |= {"spacing_mm": list(scan.spacing), "voxel_ml": scan.voxel_ml, "orientation": scan.orientation}
        files = [*sorted(file.name for file in top.iterdir())]
        files += sorted(f"{job.folder}/{name}" for name in [STATISTICS, *(file.name for file in inside.iterdir())])
        statistics = {
            "case": job.scan.name,
            "file": str(job.scan.path),
            "kind": job.scan.kind,
            "grid": grid,
            "notes": [*getattr(scan.header, "notes", ()), *_strangeness(scan, segmenter, picture)],
            "labels": measured,
            "removed": removed,
            "files": files,
        }
        write_statistics(inside / STATISTICS, statistics)
    return statistics


def _strangeness(scan: Volume, segmenter: Segmenter, picture: bool) -> list[str]:
    """In words, where a scan is of another kind than those that the model was trained on, as far as files tell."""
    names = segmenter.processor.channel_names or []
    trained = guess_preprocessing(names)
    notes = []
    modality = getattr(scan.header, "modality", None)
    if names and modality and (modality == "CT") != ("ct" in trained):
        notes.append(f"DICOM says {modality}, the model was trained on {', '.join(names)}: the result may mean nothing")
    if "ct" in trained and not picture and scan.array.min() >= 0:
        notes.append("no intensity below 0, where CT in Hounsfield units has air: the result may mean nothing")
    if names and "ct" not in trained and not picture and scan.array.min() < -500:
        notes.append(f"intensities like those of CT, the model was trained on {', '.join(names)}: it may mean nothing")
    return notes


def clean_labels(
    labels: np.ndarray, scan: Volume, id2label: dict[int, str], settings: PredictionSettings
) -> tuple[np.ndarray, dict[str, int]]:
    """Leave the wanted labels, no small islands and the largest pieces, as the settings say.

    Args:
        labels: Label map of shape `scan.grid`.
        scan: The scan, for its grid.
        id2label: The model's labels.
        settings: What to clean.

    Returns:
        The label map, and the voxels that the clean-up took from each label (those of unwanted labels not counted).
    """
    if settings.labels is not None:
        labels, _ = keep_labels(labels, settings.wanted(id2label))
    steps = [
        (remove_islands, {index: ml / scan.voxel_ml for index, ml in settings.island_ml(id2label).items()}),
        (keep_largest, settings.largest_only(id2label)),
    ]
    removed: dict[str, int] = {}
    for step, what in steps:
        if what:
            # In one order of the axes for all files, so that of two equal pieces the same one stays.
            turned = reorient(Volume(labels, scan.affine), _CANONICAL).array
            turned, gone = step(turned, what)
            labels = restore_orientation(turned, scan, _CANONICAL)
            for index, count in gone.items():
                removed[id2label[index]] = removed.get(id2label[index], 0) + count
    return labels, removed


def _write_maps(
    job: Job,
    scan: Volume,
    labels: np.ndarray,
    segmentation: Segmentation,
    segmenter: Segmenter,
    settings: PredictionSettings,
    folders: tuple[Path, Path],
) -> None:
    """The label map, and masks and probabilities where they are asked for."""
    top, inside = folders
    colors = label_colors(segmenter.num_labels)
    wanted = settings.wanted(segmenter.id2label)
    write_labels(top / job.labels, labels, scan, names=wanted, colors=colors)
    if settings.per_class:
        for index, name in label_file_names(wanted, job.suffix).items():
            mask = (labels == index).astype(np.uint8)
            write_labels(inside / name, mask, scan, names={1: wanted[index]}, colors=colors[[0, index]])
    if segmentation.probabilities is not None:
        # A header of its own: the scan's says in which window to show it.
        write_volume(inside / job.probabilities, Volume(segmentation.probabilities, scan.affine))


def _draw(
    path: Path, job: Job, scan: Volume, labels: np.ndarray, segmenter: Segmenter, measured: dict[str, Any]
) -> None:
    processor = segmenter.processor
    picture = job.scan.kind == "picture"
    windows = processor.intensity_window
    window = None if picture or windows is None else windows[0] if isinstance(windows[0], list) else windows
    texts = {row["index"]: f"{name}  {_size(row)}" for name, row in measured.items()}
    plane = slice_plane(processor.orientation or scan.orientation, processor.axis_order[0])
    names = {index: texts.get(index, name) for index, name in segmenter.id2label.items()}
    title = printable(job.scan.name)
    figure = draw_preview(scan, labels, names, plane=plane, window=window, title=title, is_image=picture)
    save_png(figure, path, dpi=100)


def describe_found(statistics: dict[str, Any]) -> str:
    """The labels found and their sizes, in a line."""
    found = [f"{printable(name)} {_size(row)}" for name, row in statistics["labels"].items() if row["bounding_box"]]
    return ", ".join(found) or "nothing found"


def _size(row: dict[str, Any]) -> str:
    return f"{format_ml(row['ml'])} ml" if "ml" in row else f"{row['pixels']} pixels"
