"""Prediction and scoring of cases under a protocol, and the files with their scores."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.dataset import Case
from ..inference.slices import predict_slices
from ..model.image_processing_samed import SamedImageProcessor
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..utils.atomic import write_text
from ..utils.pipelining import Outcome, read_process_write
from .metrics import MaskScore, score_case, summarize

__all__ = ["CaseResult", "evaluate_cases", "score_cases", "score_each", "summarize_results", "write_metrics"]


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
    ignore_index: int | None = None,
) -> Iterator[tuple[Case, np.ndarray, CaseResult]]:
    """Predict cases one at a time; each is scored in a thread while the model predicts the next.

    Under `samed` the predicted slices are zoomed back by order 0, as in the reference implementation, and distances
    are in voxels. Under `strict` the logits are interpolated to the pixels of the slice and distances are in mm, or in
    voxels for a case without spacing. If the model's config has regions, these are scored instead of the labels.

    Args:
        model: in evaluation mode.
        cases: volumes with their labels.
        processor: resizes and normalises the slices.
        protocol: "strict" or "samed"; see [`samed_hf.scoring.metrics`].
        input_size: side in pixels to which slices are resized first (224 in SAMed); defaults to the processor's.
        batch_size: slices per forward pass; `None` chooses it from the free memory.
        ignore_index: label of voxels that aren't scored.

    Yields:
        Each case, its prediction of shape `(slices, height, width)` and its result, in the order of `cases`, at the
        latest after the prediction of the next case.

    Raises:
        ValueError: a case cannot be scored, e.g. a label value has no name; after the cases before it.
    """
    waiting: list[tuple[Case, np.ndarray, Future[dict[str, MaskScore]]]] = []  # at most one, for two cases in memory

    def finish() -> Iterator[tuple[Case, np.ndarray, CaseResult]]:
        while waiting:
            case, prediction, scoring = waiting.pop()
            try:
                scores = scoring.result()
            except ValueError as error:  # the next case is predicted by now
                raise ValueError(f"Case {case.name} cannot be scored: {error}") from error
            yield case, prediction, CaseResult(scores, _unit(case, protocol))

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="case") as pool:
        try:
            for case in cases:
                if waiting and waiting[0][2].done():
                    yield from finish()  # reading this case took longer than scoring the previous one
                prediction = _predict(model, case, processor, protocol, input_size, batch_size)
                yield from finish()
                scoring = pool.submit(_score, model, case, prediction, protocol, ignore_index)
                waiting.append((case, prediction, scoring))
        except Exception:
            yield from finish()
            raise
        yield from finish()


def _predict(
    model: SamedForSemanticSegmentation,
    case: Case,
    processor: SamedImageProcessor,
    protocol: str,
    input_size: int | None,
    batch_size: int | None,
) -> np.ndarray:
    reference_zoom = protocol == "samed"
    options: dict[str, Any] = {"input_size": input_size, "reference_zoom": reference_zoom, "batch_size": batch_size}
    return predict_slices(model, case.image, processor, **options)


def _score(
    model: SamedForSemanticSegmentation, case: Case, prediction: np.ndarray, protocol: str, ignore_index: int | None
) -> dict[str, MaskScore]:
    id2label, regions = model.config.id2label, model.config.regions
    arguments = (prediction, case.label, id2label, protocol, case.spacing)
    return score_case(*arguments, regions=regions, ignore_index=ignore_index)


def _unit(case: Case, protocol: str) -> str:
    return "voxel" if protocol == "samed" or case.spacing is None else "mm"


def score_each(
    model: SamedForSemanticSegmentation,
    names: Sequence[str],
    read: Callable[[str], Case],
    processor: SamedImageProcessor,
    *,
    protocol: str = "strict",
    input_size: int | None = None,
    batch_size: int | None = None,
    ignore_index: int | None = None,
    draw: Callable[[Case, np.ndarray], None],
    done: Callable[[str, Outcome], None],
) -> None:
    """Score cases as [`score_cases`]; one that fails doesn't stop the others.

    A thread reads each case once, while another one is predicted, and scores and draws it.

    Args:
        names: of the cases.
        read: reads a case.
        draw: called with a case and its prediction.
        done: called with a case's name and its outcome, whose result is a [`CaseResult`], in order.
    """

    def predict(name: str, case: Case, _: object) -> tuple[Case, np.ndarray]:
        return case, _predict(model, case, processor, protocol, input_size, batch_size)

    def score(name: str, predicted: tuple[Case, np.ndarray]) -> CaseResult:
        case, prediction = predicted
        scores = _score(model, case, prediction, protocol, ignore_index)
        draw(case, prediction)
        return CaseResult(scores, _unit(case, protocol))

    read_process_write(names, read=read, process=predict, write=score, done=done)


def summarize_results(results: Mapping[str, CaseResult], protocol: str) -> dict[str, Any]:
    """Return [`summarize`] with an added "distance_unit": "mm", or "voxel" if any case is in voxels."""
    unit = "mm" if all(result.unit == "mm" for result in results.values()) else "voxel"
    return summarize({name: result.scores for name, result in results.items()}, protocol) | {"distance_unit": unit}


def evaluate_cases(
    model: SamedForSemanticSegmentation,
    cases: Iterable[Case],
    processor: SamedImageProcessor,
    *,
    protocol: str = "strict",
    input_size: int | None = None,
    batch_size: int | None = None,
    ignore_index: int | None = None,
) -> dict[str, Any]:
    """Predict, score and summarize cases as [`score_cases`], and return the content of `metrics.json`."""
    scored = score_cases(
        model,
        cases,
        processor,
        protocol=protocol,
        input_size=input_size,
        batch_size=batch_size,
        ignore_index=ignore_index,
    )
    return summarize_results({case.name: result for case, _, result in scored}, protocol)


def write_metrics(folder: str | os.PathLike, metrics: dict[str, Any]) -> None:
    """Write `metrics.json`, and `metrics.csv` with one row for each case and label; undefined scores are empty."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["case", "label", "dice", "hd95"])
    for case, labels in metrics["per_case"].items():
        # A score of `None` becomes an empty field.
        writer.writerows([case, label, *score.values()] for label, score in labels.items())
    write_text(folder / "metrics.csv", rows.getvalue())
