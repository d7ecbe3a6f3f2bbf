"""Prediction of one case: read, segment, clean, measure, draw and write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
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
from ..inference.statistics import part_names
from ..reporting.charts import label_colors, save_png
from ..reporting.formatting import format_indices
from ..reporting.preview import PreviewSlices, draw_slices, select_slices, slice_plane
from ..transforms.intensity import guess_preprocessing
from ..transforms.slicing import slice_axes
from ..utils.console import ProgressCallback
from ..utils.text import printable
from ..volumes import Frames, Volume, read_frames, reorient, restore_orientation, write_labels, write_volume
from ..volumes.registry import VOLUME_SUFFIXES
from .existing import describe_method
from .files import PREVIEW, STATISTICS, Job, case_files, hash_files, label_file_names, write_json
from .files import results as results_of
from .frames import FrameResult, are_shown, describe_sizes, largest_rows, split_images
from .settings import PredictionSettings

__all__ = ["CasePipeline", "SegmentedCase", "clean_labels", "predict_case"]

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

    scan: Volume  # the last frame
    segmentation: Segmentation
    results: list[FrameResult]  # of several frames; of one it is made while the next case is segmented
    frames: Frames
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

    def read(self, job: Job) -> Frames:
        """Read the scan's first frame, with the model's number of channels, and prepare to read the others."""
        with suppress(OSError, ValueError):  # reading the scan raises an error that names the file
            self.hashes[job.scan.name] = hash_files(job.inputs)  # before reading: a later change is noticed
        num_channels = self.segmenter.processor.num_channels
        frames = read_frames(job.scan, num_channels=num_channels, frames=self.settings.frames)
        first = next(frames.volumes)
        if first.is_image and self.settings.min_island_ml:
            raise ValueError(
                f"{printable(job.scan.path)} is a 2-D image, whose labels have no volume in ml: leave out "
                "--min_island_ml."
            )
        if len(frames.indices) > 1 and not first.is_image and job.suffix not in VOLUME_SUFFIXES:
            raise ValueError(
                f"{printable(job.scan.path)} has several volumes as frames, which {job.suffix} cannot hold; write "
                ".nii.gz, .nrrd or .mha, or choose one of them with --frames."
            )
        return replace(frames, volumes=chain([first], frames.volumes))

    def segment(self, job: Job, frames: Frames, progress: ProgressCallback | None) -> SegmentedCase:
        """Predict the labels of the scan, frame by frame."""
        results: list[FrameResult] = []
        with ExitStack() as files:
            directory = files.enter_context(case_files(self.output, job))
            for number, scan in enumerate(frames.volumes):
                # Images are frames of one volume.
                total = 1 if scan.is_image else len(frames.indices)
                segmentation = segment_volume(
                    self.segmenter,
                    scan,
                    batch_size=self.settings.batch_size,
                    tta=self.settings.tta,
                    progress=_of_frame(progress, number, total),
                    probabilities=directory.parent / "probabilities.raw" if self.settings.probabilities else None,
                )
                if total > 1:
                    positions = results[0].shown.positions if results and results[0].shown else None
                    name = f"frame {frames.indices[number]}" if number in are_shown(total) else None
                    results.append(self._finish(scan, segmentation, name, positions))
                    self._write_probabilities(directory, job, scan, segmentation, frames.indices[number])
            return SegmentedCase(scan, segmentation, results, frames, directory, files.pop_all())

    def write(self, job: Job, segmented: SegmentedCase) -> dict[str, Any]:
        """Clean, measure, draw and write; return the content of `statistics.json`."""
        scan, segmentation, results, frames, directory, files = segmented
        name = job.scan.name
        with files:
            if not results:
                parts = list(split_images(scan, segmentation))
                kept = are_shown(len(parts))
                names = [f"frame {index}" if number in kept else None for number, index in enumerate(frames.indices)]
                names = names if len(parts) > 1 else [""]
                results = [self._finish(*part, name) for part, name in zip(parts, names, strict=True)]
                self._write_probabilities(directory, job, scan, segmentation)
            labels = results[0].labels
            if len(results) > 1:
                maps = [result.labels for result in results]
                labels = np.concatenate(maps, axis=2) if scan.is_image else np.stack(maps, axis=3)
            self._write_maps(directory, job, scan, labels)
            found = self._describe(job, scan, frames, results)
            if self.settings.preview:
                shown = [result.shown for result in results if result.shown]
                self._draw(directory / name / PREVIEW, job, scan, PreviewSlices.join(shown), found)
            written = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
            listed = sorted([*written, f"{name}/{STATISTICS}"], key=lambda file: ("/" in file, file))
            statistics = found | {
                "files": listed,
                "method": self.method,
                "inputs_hash": self.hashes.pop(name, None),
                "files_hash": hash_files(directory / file for file in results_of(listed)),
            }
            write_json(directory / name / STATISTICS, statistics)
        return statistics

    def _finish(
        self, scan: Volume, segmentation: Segmentation, name: str | None, positions: Sequence[int] | None = None
    ) -> FrameResult:
        """Clean and measure a frame, and keep slices for the preview unless `name` is `None`."""
        id2label = self.segmenter.id2label
        labels, removed = clean_labels(segmentation.labels, scan, id2label, self.settings)
        if regions := self.segmenter.regions:
            measured = measure_regions(labels, scan, regions, confidence=segmentation.confidence)
        else:
            names = self.settings.requested(id2label)
            measured = measure_labels(labels, scan, names, confidence=segmentation.confidence)
        shown = None
        if name is not None and self.settings.preview:
            processor = self.segmenter.processor
            plane = slice_plane(processor.orientation or scan.orientation, slice_axes(scan, processor)[0])
            # Of several frames one slice, the same in each.
            shown = select_slices(scan, labels, plane, count=1 if name else 3, positions=positions, name=name)
        return FrameResult(labels, measured, removed, shown)

    def _describe(self, job: Job, scan: Volume, frames: Frames, results: list[FrameResult]) -> dict[str, Any]:
        """What `statistics.json` states of the scan and its labels."""
        grid: dict[str, Any] = {"shape": list(scan.grid)}
        if not scan.is_image:
            grid |= {"spacing_mm": list(scan.spacing), "voxel_ml": scan.voxel_ml, "orientation": scan.orientation}
        notes = [*job.scan.notes, *scan.notes, *getattr(scan.header, "notes", ())]
        if frames.count > 1:
            grid |= {"frames": list(frames.indices), "frames_in_file": frames.count}
            every = len(frames.indices) == frames.count
            done = "each segmented alone" if every else f"of which {format_indices(frames.indices)} were segmented"
            notes.append(f"it has {frames.count} frames, {done}")
        notes += _region_notes(self.segmenter.regions, self.settings.requested(self.segmenter.id2label))
        statistics: dict[str, Any] = {
            "case": job.scan.name,
            "file": str(job.scan.path),
            "kind": job.scan.kind,
            "grid": grid,
            "notes": [*notes, *_mismatches(scan, self.segmenter)],
            "labels": results[0].measured,
            "removed": results[0].removed,
        }
        if len(results) > 1:
            by_index = dict(zip(frames.indices, results, strict=True))
            statistics["labels"] = largest_rows(by_index)
            statistics["removed"] = dict(sum((Counter(one.removed) for one in results), Counter[str]()))
            statistics["frames"] = [{"frame": index, "labels": one.measured} for index, one in by_index.items()]
        return statistics

    def _write_maps(self, top: Path, job: Job, scan: Volume, labels: np.ndarray) -> None:
        """Write the label map, and masks if requested."""
        directory, names = top / job.scan.name, self.settings.requested(self.segmenter.id2label)
        regions = self.segmenter.regions
        colors = label_colors(max(self.segmenter.num_labels, *regions, 0) + bool(regions))
        write_labels(top / job.labels, labels, scan, names=part_names(regions, names), colors=colors)
        if self.settings.per_class:
            masks = {index: name for index, (name, _) in regions.items()} or names
            for index, file in label_file_names(masks, job.suffix).items():
                mask = np.isin(labels, regions[index][1]) if regions else labels == index
                mask = mask.astype(np.uint8)
                write_labels(directory / file, mask, scan, names={1: masks[index]}, colors=colors[[0, index]])

    def _write_probabilities(
        self, top: Path, job: Job, scan: Volume, segmentation: Segmentation, frame: int | None = None
    ) -> None:
        """Write the probabilities if requested, of each frame in a file of its own."""
        if segmentation.probabilities is not None:
            file = job.probabilities if frame is None else job.probabilities.replace(".", f"_frame-{frame:03d}.", 1)
            # Without the scan's header, which holds an intensity window for display.
            write_volume(top / job.scan.name / file, Volume(segmentation.probabilities, scan.affine))

    def _draw(self, path: Path, job: Job, scan: Volume, shown: PreviewSlices, found: dict[str, Any]) -> None:
        window = None if scan.is_image else self.segmenter.processor.channel_windows[0]
        texts = {row["index"]: f"{name}  {describe_sizes(found, name)}" for name, row in found["labels"].items()}
        id2label = dict(self.segmenter.id2label) | texts
        save_png(draw_slices(shown, id2label, window=window, title=printable(job.scan.name)), path, dpi=100)


def _of_frame(progress: ProgressCallback | None, number: int, total: int) -> ProgressCallback | None:
    """The progress in all slices of all frames, during frame `number` of `total`."""
    if progress is None or total == 1:
        return progress
    return lambda done, slices: progress(number * slices + done, total * slices)


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
