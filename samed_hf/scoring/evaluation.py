"""Cases predicted and scored under a protocol, and the files with their scores."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.dataset import Case
from ..inference.slices import predict_slices
from ..model.image_processing_samed import SamedImageProcessor
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..utils.atomic import write_text
from .metrics import MaskScore, score_case, summarize

__all__ = ["CaseResult", "evaluate_cases", "score_cases", "summarize_results", "write_metrics"]


class CaseResult(NamedTuple):
    """The scores of one case by label, and the unit of their distances."""

    scores: dict[str, MaskScore]
    unit: str


def score_cases(
    model: SamedForSemanticSegmentation,
    cases: Iterable[Case],
    processor: SamedImageProcessor,
    *,
    protocol: str = "strict",
    input_size: int | None = None,
    batch_size: int | None = None,
    on_case: Callable[[Case, np.ndarray, CaseResult], None] | None = None,
) -> dict[str, CaseResult]:
    """Predict volumes one at a time; each is scored while the model predicts the next.

    Under `samed` the slices go the reference implementation's way (order-0 zoom back, distances in voxels); under
    `strict` the logits are interpolated to the slice's own pixels and distances are in mm.

    Args:
        model: in evaluation mode.
        cases: volumes with their labels.
        processor: zooms the slices.
        protocol: "strict" or "samed"; see [`samed_hf.scoring.metrics`].
        input_size: side in pixels to which slices are zoomed on the way (224 in SAMed); defaults to the processor's.
        batch_size: slices through the model at once; `None` chooses by the memory that is free.
        on_case: called with each case, its prediction `(slices, height, width)` and its result, in the order of the
            cases and in the caller's thread, at the latest when the next case is predicted.

    Returns:
        The result of each case by its name.

    Raises:
        ValueError: a case cannot be scored, say because its label holds values that the model has no name for. What
            goes wrong with a later case is raised after the cases before it are through.
    """
    results: dict[str, CaseResult] = {}
    waiting: list[tuple[Case, np.ndarray, Future[dict[str, MaskScore]]]] = []  # none or one: two scans are in memory

    def finish() -> None:
        while waiting:
            case, prediction, scores = waiting.pop()
            unit = "voxel" if protocol == "samed" or case.spacing is None else "mm"
            results[case.name] = CaseResult(_scores(case, scores), unit)
            if on_case is not None:
                on_case(case, prediction, results[case.name])

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="case") as pool:
        try:
            for case in cases:
                if waiting and waiting[0][2].done():
                    finish()  # reading took long enough; nobody waits for the report until this case is predicted
                prediction = predict_slices(
                    model,
                    case.image,
                    processor,
                    input_size=input_size,
                    reference_zoom=protocol == "samed",
                    batch_size=batch_size,
                )
                finish()
                scoring = pool.submit(score_case, prediction, case.label, model.config.id2label, protocol, case.spacing)
                waiting.append((case, prediction, scoring))
        except Exception:
            finish()
            raise
        finish()
    return results


def _scores(case: Case, scoring: Future[dict[str, MaskScore]]) -> dict[str, MaskScore]:
    """The scores when they are there; an error names the case, since by then the next one is under way."""
    try:
        return scoring.result()
    except ValueError as error:
        raise ValueError(f"Case {case.name} cannot be scored: {error}") from error


def summarize_results(results: Mapping[str, CaseResult], protocol: str) -> dict[str, Any]:
    """What [`summarize`] returns, with "distance_unit": "mm", or "voxel" where any case is in voxels."""
    unit = "mm" if all(result.unit == "mm" for result in results.values()) else "voxel"
    return summarize({name: result.scores for name, result in results.items()}, protocol) | {"distance_unit": unit}


def evaluate_cases(
    model: SamedForSemanticSegmentation,
    cases: Iterable[Case],
    processor: SamedImageProcessor,
    *,
    protocol: str = "strict",
    **options: Any,
) -> dict[str, Any]:
    """[`score_cases`] and [`summarize_results`] in one; the content of `metrics.json`."""
    return summarize_results(score_cases(model, cases, processor, protocol=protocol, **options), protocol)


def write_metrics(folder: str | os.PathLike, metrics: dict[str, Any]) -> None:
    """Write `metrics.json`, and `metrics.csv` with one row for each case and label; undefined scores are empty."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["case", "label", "dice", "hd95"])
    for case, labels in metrics["per_case"].items():
        for label, score in labels.items():
            writer.writerow([case, label, *("" if value is None else value for value in score.values())])
    write_text(folder / "metrics.csv", rows.getvalue())
