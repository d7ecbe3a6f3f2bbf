"""Layouts of data sets, recognised by their files.

A layout is a module with a function that recognises it and one that reads it; [`read_data`] tries one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..dataset import CaseDataset
from .bids import is_bids, read_bids
from .classes import has_class_masks, read_class_masks
from .decathlon import is_decathlon, read_decathlon
from .dicom import is_dicom_dataset, read_dicom
from .folders import find_folders, read_folders, subdirectories
from .labelled_series import find_labelled_series
from .listing import divide_as_declared, find_listing, read_listing
from .nnunet import is_nnunet, read_nnunet
from .pairs import find_pairs, image_files
from .patients import read_patients
from .records import Options, build_dataset
from .several import concatenate
from .synapse import is_synapse, read_synapse
from .tables import is_listing

__all__ = ["dataset_arguments", "read_data"]

_EXPECTED = (
    "expected the Synapse layout (lists_Synapse, train_npz, test_vol_h5), nnU-Net's raw one or the Decathlon's "
    "(dataset.json), BIDS, directories of images and masks (images, masks), images and labels beside each other "
    "(x.nii.gz, x_seg.nii.gz), a directory for each patient, DICOM series with an RTSTRUCT or SEG of each, "
    "a listing (cases.csv with the columns image and label), or a saved Hugging Face data set; "
    "raw BTCV scans become the first by `samed-hf prepare synapse`"
)
_EXPLANATIONS = {
    "Synapse": "slices of train_npz and volumes of test_vol_h5, as lists_Synapse lists them",
    "nnU-Net raw": "images of imagesTr and imagesTs, label maps of labelsTr and labelsTs, names of dataset.json",
    "Medical Segmentation Decathlon": "image and label of each entry under training in dataset.json, and its names",
    "Hugging Face data set": "a column of images and one of label maps",
}
"""What the files of the layouts that can only mean one thing are taken for."""


def read_data(
    data_dir: str | Path | Sequence[str | Path] | None = None,
    *,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    case_column: str | None = None,
    label_names: list[str] | None = None,
    fold: int | None = None,
    geometry_tolerance: float = 0.1,
    cache_dir: str | None = None,
    strict: bool = True,
) -> CaseDataset:
    """Recognise the layout of a data set and describe it; its scans are read later, case by case.

    Args:
        data_dir: a directory in the layout of Synapse, nnU-Net (raw), the Medical Segmentation Decathlon or BIDS, with
            directories of images and masks, images and labels beside each other, a directory for each patient, or with
            a saved Hugging Face data set; or a listing, `cases.csv`, `.tsv`, `.jsonl` or `.json`. Several data sets of
            the same labels become one, in which the names of the cases begin with their data set's.
        dataset_name: a data set of Hugging Face's `datasets` instead: a Hub id or a directory.
        dataset_config_name: its configuration.
        image_column, label_column: its columns of images and label maps, or a listing's; by default found by the usual
            names. Of a listing, "t1,t2" are two channels, "liver,spleen" the masks of two classes. In a layout with
            several images or labels for each case they name those to use, e.g. "T1w".
        split_column: a listing's column of train, validation or test.
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
    if isinstance(data_dir, list | tuple):
        given = {name: value for name, value in locals().items() if name != "data_dir"}
        parts = [read_data(one, **given) for one in data_dir]
        return parts[0] if len(parts) == 1 else concatenate(parts)
    if (data_dir is None) == (dataset_name is None):
        raise ValueError("Give either data_dir or dataset_name, not both and not neither.")
    columns = {"image_column": image_column, "label_column": label_column, "case_column": case_column}
    options = Options(
        label_names, **columns, split_column=split_column, fold=fold, tolerance=geometry_tolerance, strict=strict
    )
    data = None if data_dir is None else _read_files(Path(str(data_dir)), options)
    if data is None:
        from .hf_datasets import is_saved_dataset, read_rows  # datasets takes a second to import

        if dataset_name is None and not is_saved_dataset(root := Path(str(data_dir))):
            inside = sorted(path.name for path in root.iterdir())[:5]
            raise FileNotFoundError(
                f"data_dir {str(data_dir)!r} isn't recognised: {_EXPECTED}; it holds {', '.join(inside) or 'nothing'}."
            )
        name = str(data_dir) if dataset_name is None else dataset_name
        data = read_rows(name, dataset_config_name, columns, label_names, geometry_tolerance, cache_dir)
    data.explanation = data.explanation or _EXPLANATIONS.get(data.layout, "")
    return data


def _read_files(root: Path, options: Options) -> CaseDataset | None:
    """Read a listing, or a directory in one of the layouts of files; `None` if it is in none of them."""
    if root.name == "dataset.json" and (is_nnunet(root.parent) or is_decathlon(root.parent)):
        root = root.parent
    if is_listing(root):
        return read_listing(root, options)
    if not root.is_dir():
        what = "is a file" if root.exists() else "doesn't exist"
        raise FileNotFoundError(f"data_dir {str(root)!r} {what}: {_EXPECTED}.")
    if is_synapse(root):
        return read_synapse(root)
    if is_nnunet(root):
        return read_nnunet(root, options.fold, options.tolerance, options.strict)
    if is_decathlon(root):
        return read_decathlon(root, options.tolerance, options.strict)
    if listing := find_listing(root, named=True):
        return read_listing(listing[0], options, listing[1:])
    if is_bids(root):
        return read_bids(root, options)
    if is_dicom_dataset(root):
        return read_dicom(root, options)
    if listing := find_listing(root, named=False):
        return read_listing(listing[0], options, listing[1:])
    if has_class_masks(root, options):
        return read_class_masks(root, options)
    if labelled_series := find_labelled_series(root):
        return build_dataset(labelled_series, options)
    if find_folders(root):
        names = None if options.label_names is None else list(options.label_names)
        data = read_folders(root, names, options.tolerance, options.strict)
        if not data.validation and not data.test:
            divide_as_declared(data, root, options)
        return data
    if inner := _inside(root):
        if found := _read_files(inner, options):
            found.notes.append(f"the data set is taken to be {inner}")
        return found
    pairs = find_pairs(root)
    return read_patients(root, pairs, options) if any(pair.images and pair.labels for pair in pairs) else None


def _inside(root: Path) -> Path | None:
    """The only directory of a directory without images, e.g. of an unpacked archive, if it is a data set itself."""
    inside = [path for path in subdirectories(root).values() if path.name != "__MACOSX"]
    found = [path for path in inside if is_nnunet(path) or is_decathlon(path) or find_listing(path, named=True)]
    found += [path for path in inside if path not in found and len(inside) == 1 and find_folders(path)]
    if len(found) > 1 or (found and len(inside) > 1):
        raise ValueError(
            f"{root} holds the data set {found[0].name} beside {next(one.name for one in inside if one != found[0])}: "
            "expected one; name it, or several, as data_dir."
        )
    return found[0] if found and not image_files(root) else None


def dataset_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """Return the argument of [`read_data`]: directories or listings, or USER/NAME on the Hub if there is no such."""
    on_hub = len(texts) == 1 and not Path(texts[0]).exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", texts[0])
    if on_hub:
        return {"dataset_name": texts[0]}
    return {"data_dir": texts[0] if len(texts) == 1 else list(texts)}
