"""Comparison of scored runs on the same cases: what must agree, paired tests and ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ..reporting.formatting import format_value, score_titles
from ..scoring.intervals import PairedComparison, compare_pairs, holm
from ..scoring.measures import HIGHER_IS_BETTER, METRICS
from ..scoring.published import read_metrics
from ..utils.text import join_or, name_some

__all__ = ["ALLOWED", "MEAN", "Comparison", "PairedTest", "Ranking", "compare_runs"]

ALLOWED = ("cases", "split")
"""What may differ if it is allowed: the cases (those that all runs have are compared), the name of the split."""
MEAN = "mean over labels"
_RELATIVE = "relative_volume_error"
_COMPARED = {*HIGHER_IS_BETTER, _RELATIVE}
_FACTS: dict[str, tuple[str, str, tuple[str, ...]]] = {  # what must agree: its name, its value in words, and the
    # scores that depend on it, all if there is none
    "protocol": ("the protocol", "protocol {}", ()),
    "split": ("the split", "split {}", ()),
    "distance_unit": ("the unit of distances", "distances in {}", ("hd95", "hd", "assd", "nsd")),
    "nsd_tolerance_mm": ("the NSD tolerance", "NSD tolerance {}", ("nsd",)),
    "lesion_min_iou": ("the rule by which lesions match", "lesions match if they {}", METRICS["lesions"]),
}


class PairedTest(NamedTuple):
    """One test of the table: a run against the reference, in one score of one label."""

    score: str
    label: str  # or [`MEAN`]
    run: str
    means: list[float] | None  # of the reference and of the run, over the cases of the test
    found: PairedComparison  # the run minus the reference
    p_holm: float | None  # corrected over all tests
    undefined: dict[str, int]  # by run, the scores that it lacks and another one has; for the mean, of all labels


class Ranking(NamedTuple):
    """Ranks of the runs in one score, [`MEAN`] or the only label; rank 1 is the best of a case."""

    score: str
    cases: int
    mean_ranks: list[float]
    p_value: float | None  # of Friedman's test; `None` for fewer than three runs or two cases


class Comparison(NamedTuple):
    """Runs on the same cases, compared with the first one or the one that was chosen."""

    names: list[str]
    reference: str
    folders: list[Path]
    about: dict[str, Any]  # "protocol", "split", "distance_unit", …
    cases: list[str]
    labels: list[str]  # [`MEAN`] is the last, if there are several
    values: dict[str, np.ndarray]  # by score, float64 of shape (runs, cases, labels); NaN where undefined
    tests: list[PairedTest]
    ranks: list[Ranking]
    notes: list[str]

    def title(self, score: str) -> str:
        """The name of a score in tables, with its unit, and ↓ if lower values are better."""
        titles = score_titles({"distance_unit": "unknown unit", **self.about, "mean": self.values})
        return titles[score] + ("" if is_higher_better(score) else " ↓")

    def rules(self) -> str:
        """The protocol, the split and the parameters of the scores that all runs share."""
        return ", ".join(_describe(fact, value) for fact, value in self.about.items())


def is_higher_better(score: str) -> bool:
    """Whether higher values of a compared score are better; no score without a direction is compared."""
    return HIGHER_IS_BETTER.get(score, False)  # the absolute value of an error has no entry


def _describe(fact: str, value: Any) -> str:
    if fact == "lesion_min_iou":
        value = "share a voxel" if value is None else f"have an IoU of at least {value}"
    return _FACTS[fact][1].format("voxels" if value == "voxel" else format_value(value))


def compare_runs(
    paths: Sequence[str | os.PathLike[str]],
    *,
    names: Sequence[str] | None = None,
    reference: str | None = None,
    metrics: Sequence[str] | None = None,
    allow: Sequence[str] = (),
    draws: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two or more scored runs, case by case: each score and label, and the mean over the labels of a case.

    A case whose score is undefined in any run is left out of that test. The mean over labels of a case is over the
    labels that have a score in every run.

    Args:
        paths: files `metrics.json` or their directories.
        names: of the runs; by default those of the directories, or of the parents that differ.
        reference: the run that the others are compared with; by default the first.
        metrics: metrics or scores to compare; by default all scores that every run has.
        allow: what may differ, of [`ALLOWED`].
        draws, seed: of the intervals; see [`compare_pairs`].

    Raises:
        ValueError: the runs are scored on different cases or labels or by different rules, or an argument is wrong.
        FileNotFoundError: there is no metrics.json.
    """
    files = [Path(path) for path in paths]
    folders = [(file if file.is_dir() else file.parent).resolve() for file in files]
    runs = dict(zip(_unique_names(folders, names), map(read_metrics, files), strict=True))
    if len(runs) < 2 or not set(allow) <= set(ALLOWED):
        raise ValueError(f"{len(runs)} runs, allow is {list(allow)}: expected two or more, and some of {ALLOWED}.")
    reference = next(iter(runs)) if reference is None else reference
    if reference not in runs:
        raise ValueError(f"reference is {reference!r}, expected {join_or([*runs])}.")
    scores, notes = _choose_scores(runs, metrics)
    notes += _check_same(runs, scores, allow)
    first, *rest = runs.values()
    cases = [case for case in first["per_case"] if all(case in run["per_case"] for run in rest)]
    labels = list(first["per_class"])
    if MEAN in labels:
        raise ValueError(f"a label is named {MEAN!r}, as the mean is in the tables: expected another name.")
    _check_truth(runs, cases, labels)
    values: dict[str, np.ndarray] = {}
    for score in scores:
        array = np.array([_values(name, run, cases, labels, score) for name, run in runs.items()])
        shown, array = (f"abs_{score}", np.abs(array)) if score == _RELATIVE else (score, array)
        values[shown] = _add_mean(array) if len(labels) > 1 else array
    labels += [MEAN] if len(labels) > 1 else []
    known = [fact for fact in _needed(scores) if all(fact in run for run in runs.values())]
    about = {fact: first[fact] for fact in known if all(run[fact] == first[fact] for run in rest)}
    found = Comparison([*runs], reference, folders, about, cases, labels, values, [], [], notes)
    return found._replace(tests=_test_all(found, draws, seed), ranks=[_rank(found, score) for score in values])


def _unique_names(folders: Sequence[Path], given: Sequence[str] | None) -> list[str]:
    """The given names, or the last part of the directories' paths that differs, or the shortest ends that do."""
    tries = [list(given)] if given is not None else []
    for end in range(1, min(len(folder.parts) for folder in folders)) if given is None else ():
        tries += [[folder.parts[-end] for folder in folders], ["/".join(folder.parts[-end:]) for folder in folders]]
    for names in tries:
        if len(names) == len(set(names)) == len(folders) and not {"", "case", "label", "score"} & set(names):
            return names
    raise ValueError(
        f"names of the runs: {', '.join(tries[0])}; expected {len(folders)} that differ, none of them empty, case, "
        "label or score: give them by --names A,B."
    )


def _choose_scores(runs: Mapping[str, Mapping[str, Any]], metrics: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The scores to compare, and notes on those that aren't."""
    reasons = {}
    every = dict.fromkeys(score for run in runs.values() for score in run["mean"])
    for score in every:
        if lacking := [name for name, run in runs.items() if score not in run["mean"]]:
            reasons[score] = f"{name_some(lacking)} lacks it"
        elif score not in _COMPARED:
            reasons[score] = "neither higher nor lower values of it are better"
    usable = [score for score in every if score not in reasons]
    wanted = usable
    if metrics is not None:
        own = {name: METRICS.get(name, (name,)) for name in metrics}
        wanted = [score for name, some in own.items() for score in some if name == score or score in _COMPARED]
    odd = [score for score in wanted if score not in usable]
    if odd or not usable:
        raise ValueError(f"metrics: {', '.join(odd) or 'none'}; expected some of {', '.join(usable) or 'the same'}.")
    notes = [f"{score} is not compared: {reason}." for score, reason in reasons.items() if metrics is None]
    notes += [f"abs_{_RELATIVE} is the absolute value of {_RELATIVE}."] if _RELATIVE in wanted else []
    return [score for score in usable if score in wanted], notes


def _needed(scores: Sequence[str]) -> list[str]:
    """The facts on which the scores depend."""
    return [fact for fact, (*_, needing) in _FACTS.items() if not needing or set(needing) & set(scores)]


def _check_same(runs: Mapping[str, Mapping[str, Any]], scores: Sequence[str], allow: Sequence[str]) -> list[str]:
    """Raise a `ValueError` that names all differences between the runs; return notes on what is allowed or unknown."""
    (first, start), *rest = runs.items()
    if odd := [name for name, run in runs.items() if not isinstance(run.get("per_case"), dict) or not run["per_case"]]:
        raise ValueError(
            f"metrics.json of {name_some(odd)} has no case: expected per_case, as `samed-hf evaluate` writes it."
        )
    differences: list[tuple[str, str]] = []
    notes = []
    for name, run in rest:
        for key, what in (("per_case", "cases"), ("per_class", "labels")):
            for side, one, other in ((first, start[key], run[key]), (name, run[key], start[key])):
                if only := sorted(one.keys() - other.keys()):
                    differences.append((what, f"{len(only)} {what} only in {side}: {name_some(only)}"))
    for fact in _needed(scores):
        known = {name: run[fact] for name, run in runs.items() if fact in run}
        if missing := [name for name in runs if name not in known]:
            notes.append(f"{_FACTS[fact][0]} is not recorded in {name_some(missing)}: it was not compared.")
        if any(value != next(iter(known.values())) for value in known.values()):
            differences.append((fact, ", ".join(f"{_describe(fact, one)} in {name}" for name, one in known.items())))
    common = set(start["per_case"]).intersection(*(run["per_case"] for _, run in rest))
    if refused := [text for what, text in differences if what not in allow or not common]:
        raise ValueError(
            f"the runs can't be compared: {'; '.join(refused)}. Expected the same cases, labels and rules: score them "
            "alike with `samed-hf evaluate`, or leave scores out by --metrics; --allow cases compares the cases that "
            "all runs have, --allow split the same cases of splits with other names."
        )
    return [*(f"{text} (allowed)." for _, text in differences), *notes]


def _check_truth(runs: Mapping[str, Mapping[str, Any]], cases: Sequence[str], labels: Sequence[str]) -> None:
    """Refuse cases of the same name whose labels have different volumes."""
    key = "label_volume_ml"
    known = {name: _values(name, run, cases, labels, key) for name, run in runs.items() if key in run["mean"]}
    for name, volumes in known.items():
        first, start = next(iter(known.items()))
        differ = (~np.isclose(volumes, start, rtol=1e-3) & ~np.isnan(volumes - start)).any(axis=1)
        if differ.any():
            odd = name_some(case for case, one in zip(cases, differ, strict=True) if one)
            raise ValueError(f"{first} and {name} can't be compared: the labels' volumes differ in {odd}.")


def _values(name: str, run: Mapping[str, Any], cases: Sequence[str], labels: Sequence[str], score: str) -> np.ndarray:
    """A score of shape (cases, labels), NaN where undefined."""
    try:
        rows = [[run["per_case"][case][label][score] for label in labels] for case in cases]
        if odd := [one for row in rows for one in row if one is not None and type(one) not in (int, float)]:
            raise ValueError(f"found {odd[0]!r}")
        if np.isinf(values := np.array(rows, np.float64)).any():
            raise ValueError("found an infinite number")
        return values
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"metrics.json of {name}: expected a number or null for {score} of each case and label in per_case, but "
            f"{error!r}; score the run anew with `samed-hf evaluate`."
        ) from error


def _add_mean(values: np.ndarray) -> np.ndarray:
    """Append the mean over the labels that have a score in every run."""
    shared = ~np.isnan(values).any(axis=0)
    sums, counts = np.where(shared, values, 0).sum(axis=2), shared.sum(axis=1)
    mean = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return np.concatenate([values, mean[..., None]], axis=2)


def _test_all(found: Comparison, draws: int, seed: int) -> list[PairedTest]:
    start, tests = found.names.index(found.reference), []
    for score, array in found.values.items():
        options: dict[str, Any] = {"lower_is_better": not is_higher_better(score), "draws": draws, "seed": seed}
        lacking = np.isnan(array) & ~np.isnan(array).all(axis=0)
        for column, label in enumerate(found.labels):
            counts = lacking[..., :-1].sum(axis=(1, 2)) if label == MEAN else lacking[..., column].sum(axis=1)
            used = ~np.isnan(array[..., column]).any(axis=0)
            pairs = [dict(zip(found.cases, np.where(used, one, np.nan), strict=True)) for one in array[..., column]]
            for run, name in enumerate(found.names):
                if run == start:
                    continue
                means = array[[start, run]][:, used, column].mean(axis=1).tolist() if used.any() else None
                result = compare_pairs(pairs[start], pairs[run], **options)
                undefined = dict(zip(found.names, counts.tolist(), strict=True))
                tests.append(PairedTest(score, label, name, means, result, None, undefined))
    corrected = iter(holm([test.found.p_value for test in tests if test.found.p_value is not None]))
    return [test._replace(p_holm=None if test.found.p_value is None else next(corrected)) for test in tests]


def _rank(found: Comparison, score: str) -> Ranking:
    values = found.values[score][:, :, -1]
    values = values[:, ~np.isnan(values).any(axis=0)]
    ranks = stats.rankdata(-values if is_higher_better(score) else values, axis=0)
    p_value = None
    if len(values) > 2 and values.shape[1] > 1:
        # Friedman's statistic is 0 / 0 if all runs have the same score in every case.
        p_value = float(stats.friedmanchisquare(*values).pvalue) if (np.ptp(values, axis=0) > 0).any() else 1.0
    mean_ranks = ranks.mean(axis=1).tolist() if values.shape[1] else []
    return Ranking(score, values.shape[1], mean_ranks, p_value)
