"""What the folds of a cross-validation are collected to: scores of all cases, mean ± SD, a page and an ensemble."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ..data.labels import read_json
from ..hub.card import PRIVATE_SETTINGS
from ..inference import write_ensemble
from ..scoring import summarize, write_metrics
from ..scoring.intervals import score_intervals
from ..utils.atomic import write_text
from .pages import write_cv_page

__all__ = ["read_result", "write_cross_validation"]

_COMPUTED = ("mean", "per_class", "per_case", "intervals", "distance_unit", "split")
_OF_A_FOLD = (*PRIVATE_SETTINGS, "fold", "run")  # settings that differ between folds, or are private


def write_cross_validation(output_dir: Path, folds: Sequence[Path]) -> dict[str, Any]:
    """Collect the folds of a cross-validation; the same files of the folds give the same results.

    Writes `metrics.json` and `metrics.csv` with the out-of-fold scores of all cases, as `samed-hf evaluate` does,
    `cv_summary.json`, `cv_report.html` and `ensemble/`.

    Args:
        output_dir: with `splits_final.json`, or its parent with it, and `images/CASE.png` for the page.
        folds: output directory of the training of each fold, in the order of the folds.

    Returns:
        The content of `cv_summary.json`: "mean" of the labels and "per_class", each score with its mean and its sample
        standard deviation (n - 1) "over_cases" and "over_folds", and the same over the cases of each of the "folds".
        The mean over cases is that of `metrics.json`, over the cases of each label and then over the labels; its SD is
        that of the cases' own means over their labels.

    Raises:
        FileNotFoundError: a fold isn't finished.
        ValueError: folds that were scored otherwise than the others or on other cases than those that they held out.
    """
    scores, settings = (
        [read_result(fold, name) for fold in folds] for name in ("metrics.json", "training_settings.json")
    )
    _check_folds(output_dir, folds, scores, settings)
    metrics, first = _pool(scores), settings[0]
    names = [Path(os.path.relpath(fold, output_dir)).as_posix() for fold in folds]
    values = {key: [one.get(key) for one in settings] for key in first if key not in _OF_A_FOLD}
    differing = {key: found for key, found in values.items() if any(value != first[key] for value in found)}
    summary = {
        **_facts(scores[0]),
        "distance_unit": metrics["distance_unit"],
        "sd": "sample standard deviation, n - 1",
        "cases": len(metrics["per_case"]),
        "over_cases": _over_cases(metrics),
        "over_folds": _over_folds(scores),
        "intervals": metrics["intervals"],
        "folds": [_describe_fold(*row) for row in zip(names, scores, settings, strict=True)],
        "seconds": round(sum(one["run"]["seconds"] for one in settings), 1),
        "settings": {key: first[key] for key in values if key not in differing},
        "differing_settings": differing,
        "synthetic": any(one["run"]["synthetic"] for one in settings),
        "random_base": any(one["run"]["random_base"] for one in settings),
        "ensemble": "ensemble",
    }
    write_ensemble(output_dir / "ensemble", {fold.name: fold for fold in folds})
    write_metrics(output_dir, metrics)
    write_text(output_dir / "cv_summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    fold_of = {case: index for index, one in enumerate(scores) for case in one["per_case"]}
    write_cv_page(output_dir, summary, metrics, fold_of)
    return summary


def read_result(directory: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of a finished training or cross-validation."""
    if not (directory / name).is_file():
        raise FileNotFoundError(f"{directory} has no {name}: expected a finished run; repeat samed-hf cross-validate.")
    return dict(read_json(directory / name))


def _facts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of scores that can't be averaged with others: protocol, labels, names and parameters of the scores."""
    own = {key: value for key, value in metrics.items() if key not in _COMPUTED}
    return own | {"labels": list(metrics["per_class"]), "scores": list(metrics["mean"])}


def _check_folds(
    output_dir: Path, folds: Sequence[Path], scores: Sequence[dict[str, Any]], settings: Sequence[dict[str, Any]]
) -> None:
    """Raise a `ValueError` unless each case was scored once, in the same way, by the fold that held it out."""
    file = next((one for one in (output_dir, output_dir.parent) if (one / "splits_final.json").is_file()), None)
    splits = read_json(file / "splits_final.json") if file else None
    if splits is not None and len(splits) != len(folds):
        raise ValueError(f"{output_dir} has {len(folds)} folds, splits_final.json {len(splits)}: expected all of them.")
    seen, first = set[str](), _facts(scores[0])
    for index, fold in enumerate(folds):
        own = _facts(scores[index])
        if differing := [key for key in sorted(own.keys() | first.keys()) if own.get(key) != first.get(key)]:
            key = differing[0]
            raise ValueError(
                f"{fold} was scored with {key} {own.get(key)}, {folds[0]} with {first.get(key)}: "
                "expected the same in all folds; train one of them anew."
            )
        cases = set(scores[index]["per_case"])
        held_out = cases if splits is None else set(splits[index]["val"])
        if wrong := sorted((cases ^ held_out) | (cases & {*settings[index]["cases"]["train"], *seen})):
            raise ValueError(
                f"{fold} scores other cases than those that fold {index} holds out, e.g. {wrong[0]}: "
                "expected each case once, by a model that wasn't trained on it. Train this fold anew."
            )
        seen |= cases


def _pool(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The content of `metrics.json` for the cases of all folds."""
    first = {key: value for key, value in scores[0].items() if key not in _COMPUTED}
    cases = {case: row for one in scores for case, row in one["per_case"].items()}
    unit = "mm" if all(one["distance_unit"] == "mm" for one in scores) else "voxel"
    metrics = summarize(cases, first["protocol"]) | {"distance_unit": unit} | first | {"split": "cross-validation"}
    return metrics | {"intervals": score_intervals(metrics)}


def _describe_fold(name: str, metrics: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "adapter": name,
        "fold": settings["fold"],
        "seed": settings["seed"],
        "steps": settings["run"]["optimizer_steps"],
        "seconds": settings["run"]["seconds"],
        "cases": len(metrics["per_case"]),
        "train_cases": len(settings["cases"]["train"]),
        "over_cases": _over_cases(metrics),
    }


def _over_cases(metrics: Mapping[str, Any]) -> dict[str, Any]:
    cases = list(metrics["per_case"].values())
    per_class = {
        label: {
            key: _spread(case[label][key] for case in cases) | {"undefined": row.get(f"{key}_undefined", 0)}
            for key in metrics["mean"]
        }
        for label, row in metrics["per_class"].items()
    }
    means = {
        key: _spread(_spread(row[key] for row in case.values())["mean"] for case in cases) | {"mean": mean}
        for key, mean in metrics["mean"].items()
    }
    return {"mean": means, "per_class": per_class}


def _over_folds(folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    keys = list(folds[0]["mean"])
    per_class = {
        label: {key: _spread(fold["per_class"][label][key] for fold in folds) for key in keys}
        for label in folds[0]["per_class"]
    }
    return {"mean": {key: _spread(fold["mean"][key] for fold in folds) for key in keys}, "per_class": per_class}


def _spread(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean and sample standard deviation of the defined values, `None` where there are too few, and their number."""
    found = [value for value in values if value is not None]
    mean, sd = fmean(found) if found else None, stdev(found) if len(found) > 1 else None
    return {"mean": mean, "sd": sd, "count": len(found)}
