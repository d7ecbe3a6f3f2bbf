"""Prediction and scoring of cases under a protocol, and the files with their scores."""

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..data.dataset import Case
from ..inference import Segmenter, predict_slices, segment_volume
from ..model.image_processing_samed import SamedImageProcessor
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..transforms.slicing import cut_slices, join_slices
from ..utils.atomic import write_text
from ..utils.pipelining import Outcome, read_process_write
from ..volumes.geometry import Volume
from .calibration import Calibration
from .intervals import score_intervals
from .measures import Measures, Score
from .metrics import class_members, score_case, summarize

__all__ = ["CaseResult", "describe_results", "evaluate_cases", "score_cases", "summarize_results", "write_metrics"]


Item = TypeVar("Item")
_RAS = Volume(np.empty((2, 2, 2)), np.eye(4))


class CaseResult(NamedTuple):
    """The scores of one case by label, and the unit of their distances."""

    scores: dict[str, Score]
    unit: str


def score_cases(
    model: SamedForSemanticSegmentation | Sequence[SamedForSemanticSegmentation] | Segmenter,
    items: Sequence[Item],
    read: Callable[[Item], Case],
    processor: SamedImageProcessor,
    *,
    protocol: str = "strict",
    input_size: int | None = None,
    batch_size: int | None = None,
    ignore_index: int | None = None,
    measures: Measures | None = None,
    predicted: Callable[[Case, np.ndarray], object] = lambda case, prediction: None,
    done: Callable[[Item, Outcome], None],
) -> None:
    """Predict and score cases; while the model predicts one, a thread reads the next and scores the previous one.

    Under `samed` the predicted slices are zoomed back by order 0, as in the reference implementation, and distances
    are in voxels. Under `strict` the logits are interpolated to the pixels of the slice and distances are in mm, or in
    voxels for a case without spacing. If the model's config has regions, these are scored instead of the labels. A case
    that can't be read, predicted or scored doesn't stop the others.

    Args:
        model: in evaluation mode, or several, whose softmax is averaged; of several planes a segmenter.
        items: what `read` reads, e.g. names.
        read: returns a volume with its labels; called once for each item.
        processor: resizes and normalises the slices.
        protocol: "strict" or "samed"; see [`samed_hf.scoring.metrics`].
        input_size: side in pixels to which slices are resized first (224 in SAMed); defaults to the processor's.
        batch_size: slices per forward pass; `None` chooses it from the free memory.
        ignore_index: label of voxels that aren't scored.
        measures: the scores to compute; by default Dice and HD95.
        predicted: called in the thread with a case and its prediction of shape `(slices, height, width)`.
        done: called with each item and its outcome in order; the outcome's result is a [`CaseResult`], or it has an
            error. If it raises an error, the run ends.
    """

    measures, models = measures or Measures(), model.models if isinstance(model, Segmenter) else model
    config = (models[0] if isinstance(models, Sequence) else models).config
    planes = model if isinstance(model, Segmenter) and model.in_planes else None
    if planes and (protocol == "samed" or input_size or "calibration" in measures.metrics):
        raise ValueError("protocol samed, input_size and metrics calibration are for models of one plane, not several.")
    members = class_members(config.id2label, config.regions)

    def predict(item: Item, case: Case, _: object) -> tuple[Case, np.ndarray, Calibration | None]:
        if planes:
            return case, _predict_planes(planes, case, batch_size), None
        options: dict[str, Any] = {"input_size": input_size, "reference_zoom": protocol == "samed"}
        is_asked = "calibration" in measures.metrics
        calibration = Calibration(case.label, members, case.spacing, ignore_index) if is_asked else None
        options |= {"batch_size": batch_size, "observer": calibration}
        return case, predict_slices(models, case.image, processor, **options), calibration

    def score(item: Item, found: tuple[Case, np.ndarray, Calibration | None]) -> CaseResult:
        case, prediction, calibration = found
        arguments = (prediction, case.label, config.id2label, protocol, case.spacing)
        options: dict[str, Any] = {"regions": config.regions, "ignore_index": ignore_index}
        options |= {"measures": measures, "calibration": calibration and calibration.scores()}
        scores = score_case(*arguments, **options)
        predicted(case, prediction)
        return CaseResult(scores, "voxel" if protocol == "samed" or case.spacing is None else "mm")

    read_process_write(items, read=read, process=predict, write=score, done=done)


def _predict_planes(segmenter: Segmenter, case: Case, batch_size: int | None) -> np.ndarray:
    """The labels of a case, cut as the first model does, by models of several planes."""
    scan = Volume(join_slices(case.image, _RAS, segmenter.processor), np.eye(4))
    rescaled = [one.from_dict(one.to_dict() | {"intensity_window": (0.0, 1.0)}) for one in segmenter.processors]
    found = segment_volume(Segmenter(segmenter.models, tuple(rescaled)), scan, batch_size=batch_size)
    return cut_slices(replace(scan, array=found.labels), segmenter.processor)


def summarize_results(
    results: Mapping[str, CaseResult], protocol: str, measures: Measures | None = None
) -> dict[str, Any]:
    """Return [`summarize`] with the "distance_unit": "mm", or "voxel" if any case is in voxels.

    The parameters of `measures`, by default Dice and HD95, are added where a score depends on them:
    "nsd_tolerance_mm", and "lesion_min_iou", which is `None` if lesions match by one voxel.
    """
    unit = "mm" if all(result.unit == "mm" for result in results.values()) else "voxel"
    found = summarize({name: result.scores for name, result in results.items()}, protocol) | {"distance_unit": unit}
    measures = measures or Measures()
    for metric, parameter in (("nsd", "nsd_tolerance_mm"), ("lesions", "lesion_min_iou")):
        if metric in measures.metrics:
            found[parameter] = getattr(measures, parameter)
    return found


def describe_results(
    results: Mapping[str, CaseResult], protocol: str, *, split: str, measures: Measures
) -> dict[str, Any]:
    """Return the content of `metrics.json`: [`summarize_results`] with the split and the intervals."""
    metrics = summarize_results(results, protocol, measures) | {"split": split}
    return metrics | {"intervals": score_intervals(metrics)}


def evaluate_cases(
    model: SamedForSemanticSegmentation, cases: Sequence[Case], processor: SamedImageProcessor, **options: Any
) -> dict[str, Any]:
    """Predict, score and summarize cases, and return the content of `metrics.json`.

    `options` are those of [`score_cases`]; a case that can't be scored is a `ValueError`.
    """
    results: dict[str, CaseResult] = {}

    def done(case: Case, outcome: Outcome) -> None:
        if outcome.error is not None:
            raise ValueError(f"Case {case.name} cannot be scored: {outcome.error}") from outcome.error
        results[case.name] = outcome.result

    score_cases(model, cases, lambda case: case, processor, done=done, **options)
    return summarize_results(results, options.get("protocol", "strict"), options.get("measures"))


def write_metrics(folder: str | os.PathLike, metrics: dict[str, Any]) -> None:
    """Write `metrics.json`, and `metrics.csv` with one row for each case and label; undefined scores are empty."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["case", "label", *metrics["mean"]])
    for case, labels in metrics["per_case"].items():
        # A score of `None` becomes an empty field.
        writer.writerows([case, label, *score.values()] for label, score in labels.items())
    write_text(folder / "metrics.csv", rows.getvalue())
