"""Prediction of one case: read, segment, clean, measure, draw and write."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..inference import (
    Segmentation,
    Segmenter,
    keep_largest,
    measure_labels,
    measure_regions,
    remove_islands,
    segment_volume,
)
from ..inference.postprocessing import keep_labels
from ..reporting.charts import label_colors, save_png
from ..reporting.formatting import format_ml
from ..reporting.preview import draw_preview, slice_plane
from ..transforms.intensity import guess_preprocessing
from ..transforms.slicing import slice_axes
from ..utils.console import ProgressCallback
from ..utils.text import printable
from ..volumes import Volume, read_scan, reorient, restore_orientation, write_labels, write_volume
from .existing import describe_method
from .files import PREVIEW, STATISTICS, Job, case_files, hash_files, label_file_names, results, write_json
from .settings import PredictionSettings

__all__ = ["CasePipeline", "SegmentedCase", "clean_labels", "describe_size", "predict_case"]

_CANONICAL = "LPS"


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
        job: the scan and the names of its files.
        output: directory for the results, created where it is missing.
        settings: how to segment and what to write.
        progress: called with the number of slices done and the number of all slices.

    Returns:
        Content of `statistics.json`.

    Raises:
        ValueError: the scan can't be read or doesn't suit the model.
    """
    pipeline = CasePipeline(segmenter, output, settings)
    return pipeline.write(job, pipeline.segment(job, pipeline.read(job), progress))


class SegmentedCase(NamedTuple):
    """A segmented scan whose files are still to be written."""

    scan: Volume
    segmentation: Segmentation
    directory: Path  # temporary directory for the files
    files: ExitStack  # moves the files into the output directory


@dataclass(frozen=True)
class CasePipeline:
    """The steps of [`predict_case`], which [`predict_cases`] runs for several cases at once."""

    segmenter: Segmenter
    output: Path
    settings: PredictionSettings
    hashes: dict[str, str] = field(default_factory=dict)  # of the inputs of the cases that are read, by their names

    @cached_property
    def method(self) -> dict[str, Any]:
        """See [`describe_method`]."""
        return describe_method(self.segmenter, self.settings)

    def read(self, job: Job) -> Volume:
        """Read the scan, with the model's number of channels."""
        with suppress(OSError, ValueError):  # reading the scan raises an error that names the file
            self.hashes[job.scan.name] = hash_files(job.inputs)  # before reading: a later change is noticed
        return read_scan(job.scan, num_channels=self.segmenter.processor.num_channels)

    def segment(self, job: Job, scan: Volume, progress: ProgressCallback | None) -> SegmentedCase:
        """Predict the labels of the scan."""
        with ExitStack() as files:
            directory = files.enter_context(case_files(self.output, job))
            segmentation = segment_volume(
                self.segmenter,
                scan,
                batch_size=self.settings.batch_size,
                tta=self.settings.tta,
                progress=progress,
                probabilities=directory.parent / "probabilities.raw" if self.settings.probabilities else None,
            )
            return SegmentedCase(scan, segmentation, directory, files.pop_all())

    def write(self, job: Job, segmented: SegmentedCase) -> dict[str, Any]:
        """Clean, measure, draw and write; return the content of `statistics.json`."""
        scan, segmentation, directory, files = segmented
        name, id2label = job.scan.name, self.segmenter.id2label
        with files:
            labels, removed = clean_labels(segmentation.labels, scan, id2label, self.settings)
            names = self.settings.requested(id2label)
            if regions := self.segmenter.regions:
                measured = measure_regions(labels, scan, regions, confidence=segmentation.confidence)
            else:
                measured = measure_labels(labels, scan, names, confidence=segmentation.confidence)
            self._write_maps(job, segmented, labels, names)
            if self.settings.preview:
                self._draw(directory / name / PREVIEW, job, scan, labels, measured)
            grid: dict[str, Any] = {"shape": list(scan.grid)}
            if not scan.is_image:
                grid |= {"spacing_mm": list(scan.spacing), "voxel_ml": scan.voxel_ml, "orientation": scan.orientation}
            written = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
            listed = sorted([*written, f"{name}/{STATISTICS}"], key=lambda file: ("/" in file, file))
            statistics = {
                "case": name,
                "file": str(job.scan.path),
                "kind": job.scan.kind,
                "grid": grid,
                "notes": [
                    *job.scan.notes,
                    *scan.notes,
                    *getattr(scan.header, "notes", ()),
                    *_region_notes(regions, names),
                    *_mismatches(scan, self.segmenter),
                ],
                "labels": measured,
                "removed": removed,
                "files": listed,
                "method": self.method,
                "inputs_hash": self.hashes.pop(name, None),
                "files_hash": hash_files(directory / file for file in results(listed)),
            }
            write_json(directory / name / STATISTICS, statistics)
        return statistics

    def _write_maps(self, job: Job, segmented: SegmentedCase, labels: np.ndarray, names: dict[int, str]) -> None:
        """Write the label map, and masks and probabilities if requested."""
        scan, segmentation, top, _ = segmented
        directory = top / job.scan.name
        regions = self.segmenter.regions
        colors = label_colors(max(self.segmenter.num_labels, *regions, 0) + bool(regions))
        write_labels(top / job.labels, labels, scan, names=part_names(regions, names), colors=colors)
        if self.settings.per_class:
            masks = {index: name for index, (name, _) in regions.items()} or names
            for index, file in label_file_names(masks, job.suffix).items():
                mask = np.isin(labels, regions[index][1]) if regions else labels == index
                mask = mask.astype(np.uint8)
                write_labels(directory / file, mask, scan, names={1: masks[index]}, colors=colors[[0, index]])
        if segmentation.probabilities is not None:
            # Without the scan's header, which holds an intensity window for display.
            write_volume(directory / job.probabilities, Volume(segmentation.probabilities, scan.affine))

    def _draw(self, path: Path, job: Job, scan: Volume, labels: np.ndarray, measured: dict[str, Any]) -> None:
        processor = self.segmenter.processor
        window = None if scan.is_image else processor.channel_windows[0]
        texts = {row["index"]: f"{name}  {describe_size(row)}" for name, row in measured.items()}
        figure = draw_preview(
            scan,
            labels,
            dict(self.segmenter.id2label) | texts,
            plane=slice_plane(processor.orientation or scan.orientation, slice_axes(scan, processor)[0]),
            window=window,
            title=printable(job.scan.name),
        )
        save_png(figure, path, dpi=100)


def part_names(regions: Mapping[int, tuple[str, list[int]]], names: Mapping[int, str]) -> dict[int, str]:
    """Names of the labels in a label map, of which those of regions are parts."""
    whole = {name for name, members in regions.values() if len(members) == 1}
    return {index: name if not regions or name in whole else f"{name} (rest)" for index, name in names.items()}


def _region_notes(regions: Mapping[int, tuple[str, list[int]]], names: Mapping[int, str]) -> list[str]:
    parts = ", ".join(f"{index} {name}" for index, name in part_names(regions, names).items())
    return [f"the label map holds exclusive parts of the regions ({parts})"] if regions else []


def clean_labels(
    labels: np.ndarray, scan: Volume, id2label: dict[int, str], settings: PredictionSettings
) -> tuple[np.ndarray, dict[str, int]]:
    """Clean a label map as the settings state; also returns the voxels removed from each requested label."""
    if settings.labels is not None:
        labels = keep_labels(labels, settings.requested(id2label))
    min_voxels = {index: ml / scan.voxel_ml for index, ml in settings.island_ml(id2label).items()}
    largest = settings.largest_only(id2label)
    if not min_voxels and not largest:
        return labels, {}
    # In one orientation for all files, so that the same of two equally large components is kept.
    array = reorient(Volume(labels, scan.affine), _CANONICAL).array
    array, islands = remove_islands(array, min_voxels)
    array, pieces = keep_largest(array, largest)
    removed = {id2label[index]: islands.get(index, 0) + pieces.get(index, 0) for index in islands | pieces}
    return restore_orientation(array, scan, _CANONICAL), removed


def _mismatches(scan: Volume, segmenter: Segmenter) -> list[str]:
    """Describe how a scan's modality differs from those that the model was trained on, as far as files state it."""
    names = segmenter.processor.channel_names or []
    trained = guess_preprocessing(names)
    modality = getattr(scan.header, "modality", None)
    warning = "the result may be meaningless"
    notes = []
    if names and modality and (modality == "CT") != ("ct" in trained):
        notes.append(f"its DICOM modality is {modality}, the model was trained on {', '.join(names)}: {warning}")
    if "ct" in trained and not scan.is_image and scan.array.min() >= 0:
        notes.append(f"no intensity is below 0, while air in CT is, in Hounsfield units: {warning}")
    if names and "ct" not in trained and not scan.is_image and scan.array.min() < -500:
        notes.append(f"its intensities are like those of CT, the model was trained on {', '.join(names)}: {warning}")
    return notes


def describe_size(row: dict[str, Any]) -> str:
    """The size of a label in the statistics: in ml, mm² or pixels."""
    if "ml" in row:
        return f"{format_ml(row['ml'])} ml"
    return f"{row['mm2']:.4g} mm²" if "mm2" in row else f"{row['pixels']} pixels"
