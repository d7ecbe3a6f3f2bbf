"""Layouts of data sets, recognised by their files.

A layout is a module with a function that recognises it and one that reads it; [`read_data`] tries one after the other.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..dataset import CaseDataset
from .decathlon import is_decathlon, read_decathlon
from .dicom import is_dicom_directory, read_dicom
from .folders import find_folders, read_folders
from .nnunet import is_nnunet, read_nnunet
from .synapse import is_synapse, read_synapse

__all__ = ["dataset_arguments", "read_data"]

_EXPECTED = (
    "expected the Synapse layout (lists_Synapse, train_npz, test_vol_h5), nnU-Net's raw one or the Decathlon's "
    "(dataset.json), directories of images and masks (images, masks), or a saved Hugging Face data set; raw BTCV scans "
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
    """Recognise the layout of a data set and describe it; its scans are read later, case by case.

    Args:
        data_dir: a directory in the layout of Synapse, nnU-Net (raw) or the Medical Segmentation Decathlon, with
            directories of images and masks, or with a saved Hugging Face data set.
        dataset_name: a data set of Hugging Face's `datasets` instead: a Hub id or a directory.
        dataset_config_name: its configuration.
        image_column, label_column: its columns of images and label maps; by default found by the usual names.
        case_column: its column that says which rows are the slices, in order, of one case; by default found by the
            usual names. Without one each row is a case.
        label_names: names of the labels from 0, if no file names them.
        fold: index of a fold that the data set itself declares.
        geometry_tolerance: largest distance between the grids of image and label, as a share of a voxel's smallest
            side.
        cache_dir: directory in which `datasets` keeps what it downloads.
        strict: refuse a data set with missing files; otherwise their cases fail when they are read.

    Raises:
        ValueError, FileNotFoundError: no such directory, an unknown layout, or invalid or missing files.
    """
    if (data_dir is None) == (dataset_name is None):
        raise ValueError("Give either data_dir or dataset_name, not both and not neither.")
    if data_dir is not None:
        root = Path(data_dir)
        if not root.is_dir():
            what = "is a file" if root.exists() else "doesn't exist"
            raise FileNotFoundError(f"data_dir {str(data_dir)!r} {what}: {_EXPECTED}.")
        if is_synapse(root):
            return read_synapse(root)
        if is_nnunet(root):
            return read_nnunet(root, fold, geometry_tolerance, strict)
        if is_decathlon(root):
            return read_decathlon(root, geometry_tolerance, strict)
        if is_dicom_directory(root):
            return read_dicom(root, label_names, geometry_tolerance, strict)
        if find_folders(root):
            return read_folders(root, label_names, geometry_tolerance, strict)
    from .hf_datasets import is_saved_dataset, read_rows  # datasets takes a second to import

    if data_dir is not None and not is_saved_dataset(root):
        inside = sorted(path.name for path in root.iterdir())[:5]
        raise FileNotFoundError(
            f"data_dir {str(data_dir)!r} isn't recognised: {_EXPECTED}; it holds {', '.join(inside) or 'nothing'}."
        )
    columns = {"image_column": image_column, "label_column": label_column, "case_column": case_column}
    name = str(root) if dataset_name is None else dataset_name
    return read_rows(name, dataset_config_name, columns, label_names, geometry_tolerance, cache_dir)


def dataset_arguments(text: str) -> dict[str, str]:
    """Return the argument of [`read_data`]: a directory, or USER/NAME on the Hub if there is no such directory."""
    on_hub = not Path(text).exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text)
    return {"dataset_name": text} if on_hub else {"data_dir": text}
