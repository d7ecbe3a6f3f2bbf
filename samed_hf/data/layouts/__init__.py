"""Anyone's data set: what a folder is, is recognised by what lies in it."""

from __future__ import annotations

import re
from pathlib import Path

from ..dataset import CaseDataset
from .decathlon import describes_data, read_decathlon, read_nnunet
from .folders import find_folders, read_folders
from .synapse_dataset import read_synapse

__all__ = ["dataset_arguments", "read_data"]

_EXPECTED = (
    "expected the Synapse layout (lists_Synapse, train_npz, test_vol_h5), nnU-Net's raw one or the Decathlon's "
    "(dataset.json), folders of images and masks (images, masks), or a saved Hugging Face data set; raw BTCV scans "
    "become the first by `samed-hf prepare synapse`"
)


def read_data(
    data_dir: str | Path | None = None,
    *,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    case_column: str | None = None,
    label_names: list[str] | None = None,
    fold: int | None = None,
    geometry_tolerance: float = 0.1,
    cache_dir: str | None = None,
    strict: bool = True,
) -> CaseDataset:
    """Recognise and describe a data set; its scans are read later, when they are asked for.

    Args:
        data_dir: a folder in the Synapse layout, nnU-Net's raw one, the Medical Segmentation Decathlon's, with folders
            of images and masks, or of a saved Hugging Face data set.
        dataset_name: a data set of Hugging Face's `datasets` instead: a Hub id or a folder.
        dataset_config_name, image_column, label_column, case_column, cache_dir: see [`read_rows`].
        label_names: names of the labels from 0, where no file names them.
        fold: which of the folds that the data set itself declares.
        strict: refuse a folder that lacks files of some cases; else those fail when they are read.
        geometry_tolerance: how far image and label may lie apart, as a share of a voxel's smallest side.

    Raises:
        ValueError, FileNotFoundError: no such folder, none of these layouts, or not as the layout should be.
    """
    if (data_dir is None) == (dataset_name is None):
        raise ValueError("Give either data_dir or dataset_name, not both and not neither.")
    root = None if data_dir is None else Path(data_dir)
    if root is not None and not root.is_dir():
        what = "is a file" if root.exists() else "doesn't exist"
        raise FileNotFoundError(f"data_dir {str(data_dir)!r} {what}: {_EXPECTED}.")
    if root is not None:
        data = _recognise(root, label_names, fold, geometry_tolerance, strict)
        if data is not None:
            return data
    from .hf_datasets import is_saved_dataset, read_rows  # datasets takes a second to import

    if root is not None and not is_saved_dataset(root):
        inside = sorted(path.name for path in root.iterdir())[:5]
        raise FileNotFoundError(
            f"data_dir {str(data_dir)!r} isn't recognised: {_EXPECTED}; it holds {', '.join(inside) or 'nothing'}."
        )
    return read_rows(
        dataset_name or str(root),
        config=dataset_config_name,
        image_column=image_column,
        label_column=label_column,
        case_column=case_column,
        label_names=label_names,
        cache_dir=cache_dir,
        tolerance=geometry_tolerance,
    )


def dataset_arguments(text: str) -> dict[str, str]:
    """The argument of [`read_data`] that is meant: a folder, or USER/NAME on the Hub where there is no such folder."""
    on_hub = not Path(text).exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text)
    return {"dataset_name": text} if on_hub else {"data_dir": text}


def _recognise(
    root: Path, label_names: list[str] | None, fold: int | None, tolerance: float, strict: bool
) -> CaseDataset | None:
    if any((root / name).is_dir() for name in ("lists_Synapse", "lists", "train_npz", "test_vol_h5")):
        return read_synapse(root)
    described = describes_data(root / "dataset.json") if (root / "dataset.json").is_file() else None
    if described == "nnunet":
        return read_nnunet(root, fold, tolerance, strict)
    if described == "decathlon":
        return read_decathlon(root, tolerance, strict)
    return read_folders(root, label_names, tolerance, strict) if find_folders(root) else None
