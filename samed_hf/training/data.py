"""The data of a training run: recognised, divided by case, decoded once."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..data.cache import CaseStore
from ..data.dataset import CaseDataset
from ..data.layouts import read_data
from ..data.prepare import prepare_phantom
from ..data.splits import divide_cases
from ..model.image_processing_samed import SamedImageProcessor
from ..utils.progress import ProgressBar
from .arguments import SamedTrainingArguments
from .distributed.logging import get_logger

__all__ = ["open_store", "read_training_data"]

logger = get_logger(__name__)


def read_training_data(args: SamedTrainingArguments) -> CaseDataset:
    """Recognise the data and divide its cases; the phantom is made where it is missing.

    Raises:
        ValueError, FileNotFoundError: it isn't as its layout should be, or can't be divided as asked.
    """
    options = args.read_options()
    if args.uses_phantom:
        options["data_dir"] = _ensure_phantom(Path(args.output_dir) / "phantom")
    data = read_data(**options)
    if args.fold is not None and args.num_folds is None and not data.declares_folds:
        raise ValueError(f"fold is {args.fold}, but {data.root} declares no folds: give --num_folds too.")
    divide_cases(data, num_validation=args.num_validation_cases, num_folds=args.num_folds, fold=args.fold)
    if data.is_2d and (args.preprocessing or args.intensity_window):
        data.notes.append(
            "8-bit pictures are taken as they are; preprocessing and intensity_window count for deeper ones"
        )
    return data


def open_store(
    args: SamedTrainingArguments,
    data: CaseDataset,
    processor: SamedImageProcessor,
    *,
    decode: bool,
) -> CaseStore:
    """The cases on disk.

    Args:
        args: the settings.
        data: the cases.
        processor: cuts them.
        decode: read every case once, so that a bad one is refused before hours are spent; on one process. A training
            case with NaN or infinity is left out and reported.

    Raises:
        ValueError: cases that can't be read; a folder made for the run is taken away again.
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
                logger.warning(f"left out of the training: {reason}")
            if len(missing) == len(data.train):
                raise ValueError(
                    f"{data.root} has no case left to train on: all {len(missing)} hold NaN or infinite intensities; "
                    "mend their files."
                )
        except (ValueError, OSError):
            if is_new:
                shutil.rmtree(output_dir, ignore_errors=True)
            raise
        logger.info(f"cache       {len(names) - len(missing)} cases decoded in {store.folder}")
    # On every process: those that the decoding one found wanting are not there.
    data.train = [name for name in data.train if store.holds(name)]
    return store


def _ensure_phantom(folder: Path) -> Path:
    """The synthetic patients, always the same ones; made where they are missing."""
    if not (folder / "lists_Synapse" / "train.txt").is_file():
        prepare_phantom(folder)
    return folder
