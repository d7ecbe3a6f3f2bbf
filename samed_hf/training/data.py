"""The data of a training run: read, divided by case, decoded once."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..data import CaseDataset, CaseStore, divide_cases, prepare_phantom, read_data
from ..data.splits import choose_subset
from ..model import SamedImageProcessor
from ..utils.console import ProgressBar
from .arguments import SamedTrainingArguments
from .distributed.logging import get_logger
from .presets import PRESETS

__all__ = ["open_store", "read_training_data"]

logger = get_logger(__name__)


def read_training_data(args: SamedTrainingArguments) -> CaseDataset:
    """Read the data and divide its cases; the phantom is made if it does not exist."""
    options = args.read_options()
    if args.uses_phantom:
        directory = options["data_dir"] = Path(args.output_dir) / "phantom"
        if not (directory / "lists_Synapse" / "train.txt").is_file():
            prepare_phantom(directory)
    data = read_data(**options)
    num_validation = args.num_validation_cases if isinstance(args.num_validation_cases, int) else None
    declared = data.validation or args.num_folds or args.splits
    if num_validation is None and args.preset is not None and not declared:  # the presets hold out no case
        num_validation = PRESETS[args.preset]["num_validation_cases"]
    args.measures.check(args.scored_protocol, list(data.regions or list(data.id2label.values())[1:]))
    divide_cases(data, num_validation=num_validation, num_folds=args.num_folds, fold=args.fold, splits=args.splits)
    if args.num_train_cases or args.train_fraction:
        choose_subset(data, args.num_train_cases or max(1, round((args.train_fraction or 1) * len(data.train))))
    if data.is_2d and (args.preprocessing or args.intensity_window):
        data.notes.append("8-bit images are not rescaled; preprocessing and intensity_window apply to deeper ones")
    return data


def open_store(
    args: SamedTrainingArguments, data: CaseDataset, processor: SamedImageProcessor, *, decode: bool
) -> CaseStore:
    """Open the store of decoded cases on disk, and remove training cases with NaN or infinite intensities from `data`.

    With `decode`, for one process, all cases are decoded and checked; an error removes a new output directory.
    """
    output_dir = Path(args.output_dir)
    is_new = not output_dir.exists()
    store = CaseStore(data, processor, Path(args.cache_dir) if args.cache_dir else output_dir / "cache")
    if decode:
        names = [*data.train, *data.validation, *data.test]
        try:
            with ProgressBar("decode", "case") as progress:
                missing = store.prepare(names, progress, dispensable=data.train)
            for reason in missing.values():
                logger.warning(f"excluded from the training: {reason}")
            if len(missing) == len(data.train):
                raise ValueError(
                    f"{data.root} has no usable training case: all {len(missing)} hold NaN or infinite intensities; "
                    "repair their files."
                )
        except (ValueError, OSError):
            if is_new:
                shutil.rmtree(output_dir, ignore_errors=True)
            raise
        logger.info(f"cache       {len(names) - len(missing)} cases decoded in {store.folder}")
    # On every process; the store lacks the excluded cases.
    data.train = [name for name in data.train if store.holds(name)]
    return store
