"""The validation of a training on the way: cases divided over the processes, each scored exactly once."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np
from accelerate.utils import gather_object

from ..inference.slices import predict_slices
from ..model.modeling_samed import SamedForSemanticSegmentation
from ..scoring.metrics import binary_dice
from .checkpointing.run_directory import on_all_ranks
from .distributed.fsdp import adapter_weights
from .distributed.interruption import Interruption
from .monitoring.label_checks import CaseLabels, labels_in
from .setup import TrainingRun

__all__ = ["Validation", "validate", "validation_cases"]

_MAX_CASES = 12


def validation_cases(run: TrainingRun) -> list[str]:
    """The cases scored during a training: at most twelve, evenly spaced among those for validation."""
    cases = run.data.validation
    count = min(len(cases), _MAX_CASES)
    return [cases[index * len(cases) // count] for index in range(count)]


class Validation(NamedTuple):
    """What a validation found, the same on every process but for the pictures.

    Attributes:
        dice: the mean over cases and labels, in [0, 1]; labels absent from both truth and prediction are left out.
        per_class: the mean over the cases by a label's name; labels that are nowhere are left out.
        labels: which labels each case holds.
        predictions: label maps `(slices, height, width)` of the cases to be pictured, by name; on the main process.
    """

    dice: float
    per_class: dict[str, float]
    labels: list[CaseLabels]
    predictions: dict[str, np.ndarray]


class _Scored(NamedTuple):
    """One case: the Dice of the labels that are in its truth or its prediction."""

    dice: dict[int, float]
    labels: CaseLabels
    prediction: np.ndarray | None


def validate(run: TrainingRun, interruption: Interruption, pictured: Collection[str] = ()) -> Validation | None:
    """Score [`validation_cases`]; every process must call.

    Args:
        run: the run; its model is left in training mode.
        interruption: breaks the validation off, on all processes.
        pictured: cases whose predictions are wanted.

    Returns:
        `None` where it was broken off.
    """
    accelerator, names = run.accelerator, validation_cases(run)
    mine: list[tuple[str, _Scored]] = []
    run.model.eval()
    model = _whole_model(run)
    try:
        for first in range(0, len(names), accelerator.num_processes):
            for name in names[first : first + accelerator.num_processes][accelerator.process_index :][:1]:
                scored = interruption.attempt(partial(_score, run, model, name, name in pictured))
                mine += [(name, scored)] if scored is not None else []
            if interruption.asked:
                return None
    finally:
        run.model.train()
    return _summarize(run, dict(gather_object(mine)))


def _whole_model(run: TrainingRun) -> SamedForSemanticSegmentation:
    """The model as each process can use it alone: of a divided one a copy, by way of the run's folder."""
    weights = adapter_weights(run.model)
    if weights is None:
        return run.model
    folder = run.output_dir / ".validated.tmp"

    def save() -> None:
        if run.accelerator.is_main_process:
            run.model.save_pretrained(folder, image_processor=run.processor, state_dict=weights)

    on_all_ranks(run.accelerator, save)
    model = SamedForSemanticSegmentation.from_pretrained(folder).to(run.accelerator.device)
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        shutil.rmtree(folder)
    return model.eval()


def _score(run: TrainingRun, model: SamedForSemanticSegmentation, name: str, keep: bool) -> _Scored:
    case = run.store.case(name)
    with _precision(run):
        prediction = predict_slices(model, case.image, run.processor)
    dice = {}
    for label in range(1, run.model.config.num_labels):
        masks = prediction == label, case.label == label
        if masks[0].any() or masks[1].any():
            dice[label] = float(binary_dice(*masks))
    labels = CaseLabels(name, labels_in(case.label), labels_in(prediction))
    return _Scored(dice, labels, prediction if keep else None)


def _precision(run: TrainingRun) -> AbstractContextManager:
    """What the model needs around it outside of Accelerate's own wrapper."""
    return run.accelerator.autocast() if run.args.frozen_dtype == "bfloat16" else nullcontext()


def _summarize(run: TrainingRun, scored: dict[str, _Scored]) -> Validation:
    """Means in the order of the cases, so that they don't depend on the number of processes."""
    cases = [scored[name] for name in validation_cases(run)]
    everything = [dice for case in cases for dice in case.dice.values()]
    per_class = {}
    for label, name in run.model.config.id2label.items():
        found = [case.dice[label] for case in cases if label in case.dice]
        if found:
            per_class[name] = sum(found) / len(found)
    predictions = {case.labels.name: case.prediction for case in cases if case.prediction is not None}
    dice = sum(everything) / len(everything) if everything else 0.0
    return Validation(dice, per_class, [case.labels for case in cases], predictions)
