"""What the folds of a cross-validation are collected to: scores of all cases, mean ± SD, a page and an ensemble."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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

__all__ = ["Fold", "read_fold", "write_cross_validation"]

_COMPUTED = ("mean", "per_class", "per_case", "intervals", "distance_unit", "split", "failed")
_OF_A_FOLD = (*PRIVATE_SETTINGS, "fold", "run")  # settings that differ between folds, or are private


@dataclass(frozen=True)
class Fold:
    """A finished training: the content of its `metrics.json` and `training_settings.json`."""

    directory: Path
    metrics: dict[str, Any]
    settings: dict[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        """The scores that can't be averaged with others: protocol, labels, names and parameters of the scores."""
        own = {key: value for key, value in self.metrics.items() if key not in _COMPUTED}
        method = {key: value for key, value in own.pop("method", {}).items() if key != "models"}
        return own | method | {"labels": list(self.metrics["per_class"]), "scores": list(self.metrics["mean"])}


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
    runs = [read_fold(directory) for directory in folds]
    splits = _check_folds(output_dir, runs)
    metrics = _pool(runs)
    names = [os.path.relpath(run.directory, output_dir) for run in runs]
    seconds = [run.settings["run"].get("seconds") for run in runs]
    summary = {
        **runs[0].facts,
        "distance_unit": metrics["distance_unit"],
        "sd": "sample standard deviation, n - 1",
        "cases": len(metrics["per_case"]),
        "over_cases": _over_cases(metrics),
        "over_folds": _over_folds([run.metrics for run in runs]),
        "intervals": metrics["intervals"],
        "folds": [_describe_fold(*pair) for pair in zip(names, runs, strict=True)],
        "seconds": round(sum(one for one in seconds if one), 1),
        "settings": {
            key: value
            for key, value in runs[0].settings.items()
            if key not in _OF_A_FOLD and all(run.settings.get(key) == value for run in runs)
        },
        "differing_settings": {
            key: [run.settings.get(key) for run in runs]
            for key in runs[0].settings
            if key not in _OF_A_FOLD and any(run.settings.get(key) != runs[0].settings[key] for run in runs)
        },
        "synthetic": any(run.settings["run"].get("synthetic") for run in runs),
        "random_base": any(run.settings["run"].get("random_base") for run in runs),
        "ensemble": "ensemble",
    }
    write_ensemble(output_dir / "ensemble", dict(zip((Path(name).name for name in names), folds, strict=True)))
    write_metrics(output_dir, metrics)
    write_text(output_dir / "cv_summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    write_cv_page(output_dir, summary, metrics, [list(run.metrics["per_case"]) for run in runs], splits)
    return summary


def read_fold(directory: Path) -> Fold:
    """Read a finished training, or what is collected of a cross-validation, which has no settings."""
    for name in ("metrics.json", "training_settings.json"):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory} has no {name}: expected a finished training; run this fold first.")
    settings = read_json(directory / "training_settings.json")
    return Fold(directory, read_json(directory / "metrics.json"), settings | {"run": settings.get("run", {})})


def _check_folds(output_dir: Path, runs: Sequence[Fold]) -> list[dict[str, list[str]]] | None:
    """Raise a `ValueError` unless each case was scored once, in the same way, by the fold that held it out."""
    file = next((one for one in (output_dir, output_dir.parent) if (one / "splits_final.json").is_file()), None)
    splits = read_json(file / "splits_final.json") if file else None
    if splits is not None and len(splits) != len(runs):
        raise ValueError(f"{output_dir} has {len(runs)} folds, splits_final.json {len(splits)}: expected all of them.")
    seen: dict[str, Path] = {}
    for index, run in enumerate(runs):
        own, first = run.facts, runs[0].facts
        if differing := [key for key in sorted(own.keys() | first.keys()) if own.get(key) != first.get(key)]:
            key = differing[0]
            raise ValueError(
                f"{run.directory} was scored with {key} {own.get(key)}, {runs[0].directory} with {first.get(key)}: "
                "expected the same in all folds; train one of them anew."
            )
        cases, trained = set(run.metrics["per_case"]), set(run.settings.get("cases", {}).get("train", ()))
        held_out = set(splits[index]["val"]) if splits is not None else cases
        twice = [case for case in sorted(cases) if case in seen]
        if problem := sorted((cases ^ held_out) | (cases & trained)) or twice:
            raise ValueError(
                f"{run.directory} scores other cases than those that fold {index} holds out, e.g. {problem[0]}: "
                "expected each case once, by a model that wasn't trained on it. Train this fold anew."
            )
        seen |= dict.fromkeys(cases, run.directory)
    return splits


def _pool(runs: Sequence[Fold]) -> dict[str, Any]:
    """The content of `metrics.json` for the cases of all folds."""
    first = {key: value for key, value in runs[0].metrics.items() if key not in _COMPUTED}
    if "method" in first:
        models = [model for run in runs for model in run.metrics["method"].get("models", ())]
        first["method"] = first["method"] | ({"models": models} if models else {})
    cases = {case: scores for run in runs for case, scores in run.metrics["per_case"].items()}
    units = {run.metrics["distance_unit"] for run in runs}
    metrics = summarize(cases, first["protocol"]) | {"distance_unit": "mm" if units == {"mm"} else "voxel"}
    metrics |= first | {"split": "cross-validation"}
    return metrics | {"intervals": score_intervals(metrics)}


def _describe_fold(name: str, run: Fold) -> dict[str, Any]:
    about, cases = run.settings["run"], run.settings.get("cases", {})
    return {
        "adapter": Path(name).as_posix(),
        "fold": run.settings.get("fold"),
        "seed": run.settings.get("seed"),
        "steps": about.get("optimizer_steps"),
        "seconds": about.get("seconds"),
        "cases": len(run.metrics["per_case"]),
        "train_cases": len(cases["train"]) if "train" in cases else None,
        "over_cases": _over_cases(run.metrics),
    }


def _over_cases(metrics: Mapping[str, Any]) -> dict[str, Any]:
    cases, found = list(metrics["per_case"].values()), dict[str, Any]()
    mean = {key: _spread(_mean(row[key] for row in case.values()) for case in cases) for key in metrics["mean"]}
    for label, row in metrics["per_class"].items():
        found[label] = {
            key: _spread(case[label][key] for case in cases) | {"undefined": row.get(f"{key}_undefined", 0)}
            for key in mean
        }
    return {"mean": {key: mean[key] | {"mean": metrics["mean"][key]} for key in mean}, "per_class": found}


def _over_folds(folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    keys = list(folds[0]["mean"])
    return {
        "mean": {key: _spread(fold["mean"][key] for fold in folds) for key in keys},
        "per_class": {
            label: {key: _spread(fold["per_class"][label][key] for fold in folds) for key in keys}
            for label in folds[0]["per_class"]
        },
    }


def _spread(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean and sample standard deviation of the defined values, `None` where there are too few, and their number."""
    found = [value for value in values if value is not None]
    return {"mean": _mean(found), "sd": stdev(found) if len(found) > 1 else None, "count": len(found)}


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return fmean(found) if found else None
