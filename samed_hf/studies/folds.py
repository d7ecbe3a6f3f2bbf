"""The folds of a cross-validation, `splits_final.json`, and its settings, `cross_validation.json`."""

from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..data import CaseDataset, CaseStore, make_processor, prepare_phantom, read_data
from ..data.folds import k_folds, note_rare_labels, read_fold, splits_of_folds
from ..data.labels import read_json
from ..data.processor import slice_side
from ..data.splits import choose_fold
from ..training.arguments import SamedTrainingArguments
from ..training.distributed.logging import get_logger
from ..training.monitoring.checks import labels_in
from ..training.setup import check_base
from ..utils.atomic import write_text
from ..utils.console import ProgressBar
from ..utils.text import name_some

__all__ = ["RECORD", "SPLITS", "Fold", "find_folds", "keep_settings", "prepare_folds", "read_cases"]

logger = get_logger(__name__)

Fold = tuple[list[str], list[str]]
"""The cases to train on and those that are held out."""
SPLITS, RECORD = "splits_final.json", "cross_validation.json"
_SCORES = ("metrics", "nsd_tolerance_mm", "lesion_min_iou", "eval_steps")  # settings that change results, not weights


def prepare_folds(args: SamedTrainingArguments, num_processes: int) -> tuple[SamedTrainingArguments, list[Fold]]:
    """Read or make the folds in `args.output_dir`, and return them with the settings of all trainings.

    Once a fold has begun, other settings or cases are a `ValueError`; until then, they replace the earlier ones.
    """
    output = Path(args.output_dir)
    args = replace(args, cache_dir=args.cache_dir or str(output / "cache"))
    check_base(args.fill_defaults(num_processes))  # before anything long
    args, data = read_cases(args, output / "phantom")
    if args.uses_small_sam and args.image_size is None:  # once, as the slices of folds can differ in size
        side = slice_side(data, make_processor(args, data))
        args = replace(args, image_size=args.fill_defaults(num_processes, side).image_size)
    if not keep_settings(replace(args, fold=None), data.train, num_processes, RECORD):
        folds = find_folds(args, data) or _make_folds(args, data)
        write_text(output / SPLITS, json.dumps(splits_of_folds(folds), indent=2) + "\n")
    folds = _read_folds(output / SPLITS, data)
    held_out = ", ".join(str(len(names)) for _, names in folds)
    logger.info(f"folds       {len(folds)} of {len(data.train)} cases, held out {held_out}: {output / SPLITS}")
    if data.test:
        logger.info(f"note        {len(data.test)} test cases of {data.root} are in no fold and are not scored")
    if spare := sorted({*data.train} - {name for _, names in folds for name in names}):
        logger.warning(f"{len(spare)} cases are held out in no fold and are not scored: {name_some(spare)}")
    return args, folds


def keep_settings(args: SamedTrainingArguments, cases: list[str], num_processes: int, file: str) -> bool:
    """Write settings and cases to `file`, or compare them with it if a training has begun; return whether one has."""
    output = Path(args.output_dir)
    names = [item.name for item in fields(args) if item.metadata["on_card"] or item.name in _SCORES]
    settings = {name: getattr(args, name) for name in names} | {"num_processes": num_processes}
    for name in ("model_name_or_path", "splits"):  # whose directories differ between machines
        settings[name] = getattr(args, name) and Path(getattr(args, name)).name
    record = json.loads(json.dumps({"settings": settings, "cases": cases}))
    runs = (path for pattern in ("*", "cases-*/fold-*") for path in output.glob(f"{pattern}/training_settings.json"))
    if has_begun := (output / file).is_file() and any(runs):
        _compare(output, read_json(output / file), record)
    else:
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / file, json.dumps(record, indent=2) + "\n")
    return has_begun


def read_cases(args: SamedTrainingArguments, phantom: Path) -> tuple[SamedTrainingArguments, CaseDataset]:
    """Read the data, with all cases but those for test as sorted training cases; the phantom is made once."""
    if args.uses_phantom:
        if not (phantom / "lists_Synapse" / "train.txt").is_file():
            prepare_phantom(phantom)
        args = replace(args, data_dir=str(phantom))
    data = read_data(**args.read_options() | {"fold": None})
    if data.validation and not data.declares_folds:
        logger.info(f"note        the {len(data.validation)} validation cases of {data.root} are divided too")
    data.train, data.validation = sorted({*data.sources} - {*data.test}), []
    return args, data


def find_folds(args: SamedTrainingArguments, data: CaseDataset) -> list[Fold] | None:
    """The folds of `args.splits`, or without `args.num_folds` those that the data set declares; `None`: to be made."""
    if args.splits is not None:
        return _read_folds(Path(args.splits), data)
    folds: list[Fold] = []
    while args.num_folds is None and data.declares_folds:
        try:
            one = read_data(**args.read_options() | {"fold": len(folds)})
        except ValueError as error:
            if not folds or f"no fold {len(folds)}" not in str(error):
                raise
            return folds
        folds.append((one.train, one.validation))
    return None


def _read_folds(path: Path, data: CaseDataset) -> list[Fold]:
    """Read and check the folds of a file; a case that is held out twice would have two scores."""
    folds = []
    for fold in range(read_fold(path, 0)[2]):
        one = copy.copy(data)
        choose_fold(one, splits=path, fold=fold)
        folds.append((one.train, one.validation))
    counts = Counter(name for _, held_out in folds for name in held_out)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"{path} holds {name_some(twice)} out in several folds: expected each case in one of them.")
    return folds


def _make_folds(args: SamedTrainingArguments, data: CaseDataset) -> list[Fold]:
    """Divide the cases by the labels that each has in the cache that the folds share."""
    num_folds, store = args.num_folds or 5, CaseStore(data, make_processor(args, data), Path(args.cache_dir or ""))
    k_folds(data.train, num_folds, data.groups)  # refuses an impossible number before anything long
    with ProgressBar("decode", "case") as progress:
        store.prepare(data.train, progress)
    found = {name: labels_in(store.label(name)) for name in data.train}
    strata = {name: [data.id2label[one] for one in sorted(found[name]) if one in data.id2label] for name in data.train}
    for note in note_rare_labels(num_folds, strata, data.groups):
        logger.info(f"note        {note}")
    return k_folds(data.train, num_folds, data.groups, strata=strata, seed=args.seed)


def _compare(output: Path, earlier: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse other settings and cases than those of the runs before."""
    before, after = earlier["settings"], now["settings"]
    found = [
        f"{key} {before[key]} then, {after[key]} now" for key in after if before.get(key, after[key]) != after[key]
    ]
    if others := sorted({*earlier["cases"]} ^ {*now["cases"]}):
        found.append(f"{len(earlier['cases'])} cases then, {len(now['cases'])} now, such as {name_some(others)}")
    if found:
        raise ValueError(
            f"output_dir {str(output)!r} holds trainings with other settings ({'; '.join(found)}): give the "
            "same ones, or another directory."
        )
