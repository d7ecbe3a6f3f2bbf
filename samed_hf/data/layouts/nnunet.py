"""The raw layout of nnU-Net v2: dataset.json, imagesTr, labelsTr, splits_final.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..dataset import CaseDataset, CaseSource
from ..labels import labels_from_mapping, read_json
from ..sources import ImageSource, ScanSource, count_channels
from .dataset_json import channel_names, read_description, require_files
from .folders import PICTURES

__all__ = ["is_nnunet", "read_nnunet"]


def is_nnunet(root: Path) -> bool:
    """Return whether a directory has this layout.

    Raises:
        ValueError: dataset.json is not JSON.
    """
    description = read_description(root)
    return "channel_names" in description or "file_ending" in description


def read_nnunet(root: Path, fold: int | None = None, tolerance: float = 0.1, strict: bool = True) -> CaseDataset:
    """Describe a raw data set of nnU-Net v2: imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, dataset.json.

    Args:
        root: the directory.
        fold: index of a fold of its `splits_final.json`, if there is one; defaults to the first.
        tolerance: see [`~samed_hf.data.sources.ScanSource`].
        strict: refuse a data set with missing files; otherwise their cases fail when they are read.

    Raises:
        ValueError, FileNotFoundError: an invalid dataset.json, or missing files.
    """
    path = root / "dataset.json"
    content = read_json(path)
    ending = content.get("file_ending")
    if not isinstance(ending, str) or not ending.startswith("."):
        raise ValueError(f"{path} has the file_ending {ending!r}: expected e.g. .nii.gz.")
    labels = labels_from_mapping(content["labels"], path)
    if any(name.lower() == "ignore" for name in labels.id2label.values()):
        raise ValueError(f"{path} has an ignore label: voxels without a label can't be trained on here; fill them in.")
    channels = channel_names(content.get("channel_names", {"0": "image"}), path)
    splits: dict[str, list[str]] = {"Tr": [], "Ts": []}
    sources: dict[str, CaseSource] = {}
    is_2d = ending.lower() in PICTURES
    for part, names in splits.items():
        for name in _case_names(root, part, ending):
            label = root / f"labels{part}" / f"{name}{ending}"
            if name in sources:
                raise ValueError(f"{label} has the name of a training case: expected each case once.")
            images = tuple(root / f"images{part}" / f"{name}_{index:04d}{ending}" for index in range(len(channels)))
            if is_2d:  # one file, whatever its channels; they are counted below
                sources[name] = ImageSource(name, images[:1], (label,), 1, labels.values)
            else:
                sources[name] = ScanSource(name, images, label, len(channels), labels.values, tolerance)
            names.append(name)
    if not splits["Tr"]:
        raise FileNotFoundError(f"{root} has no label map labelsTr/*{ending}: expected those of the training cases.")
    about = {"name": str(content.get("name") or root.resolve().name)}
    data = CaseDataset("nnU-Net raw", root, labels.id2label, sources, channel_names=channels, is_2d=is_2d, about=about)
    data.train, data.test = splits["Tr"], splits["Ts"]
    if strict:
        require_files(path, data)
    if is_2d:
        _count_channels(data)
    _declared_fold(data, root / "splits_final.json", fold)
    return data


def _case_names(root: Path, part: str, ending: str) -> list[str]:
    """Return the sorted names of the cases with a label; of training cases also those without one, an error later."""
    if not (root / f"labels{part}").is_dir():
        return []
    found = {file.name[: -len(ending)] for file in (root / f"labels{part}").glob(f"[!.]*{ending}")}
    if part == "Tr":
        first = f"_0000{ending}"
        found |= {file.name[: -len(first)] for file in (root / "imagesTr").glob(f"[!.]*{first}")}
    return sorted(found)


def _count_channels(data: CaseDataset) -> None:
    """Set the channels of 2-D images, which nnU-Net keeps in one file: colour if one of them is coloured."""
    sources = {name: source for name, source in data.sources.items() if isinstance(source, ImageSource)}
    num_channels = count_channels([path for source in sources.values() for path in source.images if path.is_file()])
    data.channel_names = ("R", "G", "B") if num_channels == 3 else ("image",)
    data.sources = {name: replace(source, num_channels=num_channels) for name, source in sources.items()}


def _declared_fold(data: CaseDataset, path: Path, fold: int | None) -> None:
    if not path.is_file():
        return
    folds = read_json(path)
    index = fold or 0
    try:
        train, validation = (sorted(map(str, folds[index][key])) for key in ("train", "val"))
    except (KeyError, IndexError, TypeError) as error:
        count = len(folds) if isinstance(folds, list) else 0
        raise ValueError(
            f"{path} has no fold {index} with train and val: expected one of its {count} folds, counted from 0."
        ) from error
    if unknown := sorted({*train, *validation} - set(data.train)):
        raise ValueError(f"{path} names the case {unknown[0]!r}, which isn't among the training cases.")
    data.train, data.validation, data.declares_folds = train, validation, True
    data.notes.append(f"fold {index} of {len(folds)} as splits_final.json divides them")
