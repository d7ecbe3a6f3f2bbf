"""Validation during a training: the cases are divided over the processes, and each is scored once."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np
from accelerate.utils import gather_object

from ..data.dataset import IGNORED_LABEL
from ..inference import predict_slices
from ..model import SamedForSemanticSegmentation
from ..scoring.metrics import binary_dice, class_mask, drop_ignored
from .checkpointing.run_directory import on_all_ranks
from .distributed.fsdp import is_sharded
from .distributed.interruption import Interruption
from .monitoring.checks import CaseLabels, labels_in
from .setup import TrainingRun

__all__ = ["Validation", "scored_labels", "validate"]


class Validation(NamedTuple):
    """Scores of a validation, the same on every process; a label absent from truth and prediction has none."""

    dice: float  # mean over cases and labels, in [0, 1]
    per_class: dict[str, float]  # mean over the cases, by the label's name
    labels: list[CaseLabels]  # of each case
    predictions: dict[str, np.ndarray]  # label maps of shape (slices, height, width) of the cases to draw, by name


class _Scored(NamedTuple):
    dice: dict[str, float]  # of the labels, or regions, in truth or prediction
    labels: CaseLabels
    prediction: np.ndarray | None


def validate(run: TrainingRun, interruption: Interruption, drawn: Collection[str] = ()) -> Validation | None:
    """Score the data's `selection`, and return the predictions of `drawn` cases; every process must call.

    Returns `None` if a signal to any process interrupts it. The model is in training mode at the end.
    """
    accelerator, names = run.accelerator, run.data.selection
    mine: list[tuple[str, _Scored]] = []
    run.model.eval()
    model = _unsharded_model(run)
    try:
        for first in range(0, len(names), accelerator.num_processes):
            for name in names[first : first + accelerator.num_processes][accelerator.process_index :][:1]:
                scored = interruption.attempt(partial(_score, run, model, name, name in drawn))
                mine += [(name, scored)] if scored is not None else []
            if interruption.requested:
                return None
    finally:
        run.model.train()
    gathered = dict(gather_object(mine))
    # In the order of the cases, so that the means do not depend on the number of processes.
    return _summarize(run, [gathered[name] for name in names])


def _unsharded_model(run: TrainingRun) -> SamedForSemanticSegmentation:
    """Return a model that each process can use alone: the run's own, or a copy of a sharded one."""
    if not is_sharded(run.model):
        return run.model
    directory = run.output_dir / ".validated.tmp"
    on_all_ranks(run.accelerator, lambda: run.save_adapter(directory))
    model = SamedForSemanticSegmentation.from_pretrained(directory).to(run.accelerator.device)
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        shutil.rmtree(directory)
    return model.eval()


def _score(run: TrainingRun, model: SamedForSemanticSegmentation, name: str, keep: bool) -> _Scored:
    case = run.store.case(name)
    # bfloat16 weights need autocast, as the model is used without Accelerate's wrapper.
    with run.accelerator.autocast() if run.args.frozen_dtype == "bfloat16" else nullcontext():
        prediction = predict_slices(model, case.image, run.processor)
    truth, found, dice = case.label, prediction, {}
    if run.data.has_ignored:
        found, truth = drop_ignored(prediction, case.label, IGNORED_LABEL)
    for label, members in scored_labels(run).items():
        masks = class_mask(found, members), class_mask(truth, members)
        if masks[0].any() or masks[1].any():
            dice[label] = float(binary_dice(*masks))
    labels = CaseLabels(name, labels_in(truth), labels_in(found))
    return _Scored(dice, labels, prediction if keep else None)


def scored_labels(run: TrainingRun) -> dict[str, tuple[int, ...]]:
    """The classes of each label, or each region, by its name."""
    return run.data.regions or {name: (index,) for index, name in run.model.config.id2label.items() if index}


def _summarize(run: TrainingRun, cases: list[_Scored]) -> Validation:
    everything = [dice for case in cases for dice in case.dice.values()]
    per_class = {}
    for label in scored_labels(run):
        found = [case.dice[label] for case in cases if label in case.dice]
        if found:
            per_class[label] = sum(found) / len(found)
    predictions = {case.labels.name: case.prediction for case in cases if case.prediction is not None}
    dice = sum(everything) / len(everything) if everything else 0.0
    return Validation(dice, per_class, [case.labels for case in cases], predictions)
