"""The data of a training run: recognised, divided by case, decoded once."""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from ..data.cache import CaseStore
from ..data.dataset import CaseDataset
from ..data.layouts import read_data
from ..data.prepare import prepare_phantom
from ..data.splits import divide_cases
from ..model.image_processing_samed import SamedImageProcessor
from ..transforms.intensity import guess_preprocessing, preprocessing_settings
from ..volumes._checks import NotFiniteError
from .arguments import SamedTrainingArguments
from .distributed.logging import get_logger

__all__ = ["make_processor", "open_store", "read_training_data", "slice_side"]

logger = get_logger(__name__)

_PLANES = {"axial": ((2, 1, 0), "LPS"), "coronal": ((1, 2, 0), "LPI"), "sagittal": ((0, 2, 1), "LPI")}
"""Axes that become slices, rows and columns, and the orientation in which the head or the front is above."""


def read_training_data(args: SamedTrainingArguments) -> CaseDataset:
    """Recognise the data and divide its cases; the phantom is made where it is missing.

    Raises:
        ValueError, FileNotFoundError: it isn't as its layout should be, or can't be divided as asked.
    """
    folder = _ensure_phantom(Path(args.output_dir) / "phantom") if args.uses_phantom else args.data_dir
    data = read_data(
        folder,
        dataset_name=args.dataset_name,
        dataset_config_name=args.dataset_config_name,
        image_column=args.image_column,
        label_column=args.label_column,
        case_column=args.case_column,
        label_names=args.label_names,
        fold=None if args.num_folds else args.fold,
        geometry_tolerance=args.geometry_tolerance,
    )
    if args.fold is not None and args.num_folds is None and not data.declares_folds:
        raise ValueError(f"fold is {args.fold}, but {data.root} declares no folds: give --num_folds too.")
    divide_cases(data, num_validation=args.num_validation_cases, num_folds=args.num_folds, fold=args.fold)
    if args.plane not in (None, "axial") and (data.pictures or data.layout == "Synapse"):
        raise ValueError(f"plane is {args.plane}, but {data.root} holds slices ({data.layout}): expected whole scans.")
    if data.pictures and (args.preprocessing or args.intensity_window):
        data.notes.append(
            "8-bit pictures are taken as they are; preprocessing and intensity_window count for deeper ones"
        )
    return data


def make_processor(args: SamedTrainingArguments, data: CaseDataset) -> SamedImageProcessor:
    """The image processor that the data and the settings ask for; it is stored with the adapter."""
    axis_order, orientation = _PLANES[args.plane or "axial"]
    if args.orientation is not None or data.orientation != "LPS":
        orientation = args.orientation or data.orientation
    count = len(data.channel_names)
    presets = [args.preprocessing] * count if args.preprocessing else None
    settings = preprocessing_settings(presets or guess_preprocessing(data.channel_names, pictures=data.pictures))
    if args.intensity_window is not None:
        settings["intensity_window"] = args.intensity_window
    return SamedImageProcessor(
        args.image_size or 512,
        input_size=data.input_size,
        axis_order=axis_order,
        orientation=orientation,
        channel_names=data.channel_names,
        context_slices=args.context_slices,
        **settings,
    )


def slice_side(data: CaseDataset, processor: SamedImageProcessor) -> int:
    """The longer side in pixels of a slice, by the first case to train on that can be."""
    for name in data.train[:-1]:
        with suppress(NotFiniteError):
            return max(data.read_raw(name, processor).label.shape[1:])
    return max(data.read_raw(data.train[-1], processor).label.shape[1:])


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
            with tqdm(total=len(names), unit="case", ncols=100, disable=not sys.stderr.isatty()) as bar:
                missing = store.prepare(names, lambda done, total: bar.update(done - bar.n), dispensable=data.train)
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
