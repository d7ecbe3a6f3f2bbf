"""The raw layout of nnU-Net v2: dataset.json, imagesTr, labelsTr, splits_final.json."""

from __future__ import annotations

from pathlib import Path

from ...volumes.registry import IMAGE_SUFFIXES
from ..dataset import CaseDataset, CaseSource
from ..labels import labels_from_mapping, read_json
from ..sources import ImageSource, ScanSource, image_channels, require_files
from .decathlon import channel_names, read_description

__all__ = ["is_nnunet", "read_nnunet"]


def is_nnunet(root: Path) -> bool:
    """Return whether a directory has this layout."""
    description = read_description(root)
    return "channel_names" in description or "file_ending" in description


def read_nnunet(root: Path, fold: int | None = None, tolerance: float = 0.1, strict: bool = True) -> CaseDataset:
    """Describe a raw data set of nnU-Net v2; see [`read_data`] for the arguments.

    It holds imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz and dataset.json. Without `fold` the first fold of
    splits_final.json is held out, if there is such a file.
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
    names = {part: _case_names(root, part, ending) for part in ("Tr", "Ts")}
    if not names["Tr"]:
        raise FileNotFoundError(f"{root} has no label map labelsTr/*{ending}: expected those of the training cases.")
    is_2d = ending.lower() in IMAGE_SUFFIXES
    if is_2d:  # all channels are in one file
        channels = image_channels(
            root / f"images{part}" / f"{name}_0000{ending}" for part, found in names.items() for name in found
        )
    about = {"name": str(content.get("name") or root.resolve().name)}
    data = CaseDataset("nnU-Net raw", root, labels.id2label, {}, channel_names=channels, is_2d=is_2d, about=about)
    for split, part in (("train", "Tr"), ("test", "Ts")):
        sources: dict[str, CaseSource] = {}
        for name in names[part]:
            label = root / f"labels{part}" / f"{name}{ending}"
            images = tuple(root / f"images{part}" / f"{name}_{index:04d}{ending}" for index in range(len(channels)))
            if is_2d:
                sources[name] = ImageSource(name, images[:1], (label,), len(channels), labels.values)
            else:
                sources[name] = ScanSource(name, images, label, len(channels), labels.values, tolerance)
        data.add_cases(split, sources)
    if strict:
        require_files(path, (file for source in data.sources.values() for file in source.files()))
    _hold_out_fold(data, root / "splits_final.json", fold or 0)
    return data


def _case_names(root: Path, part: str, ending: str) -> list[str]:
    """Return the sorted names of the cases with a label; of training cases also those without one, an error later."""
    found = {file.name[: -len(ending)] for file in (root / f"labels{part}").glob(f"[!.]*{ending}")}
    if part == "Tr" and (root / "labelsTr").is_dir():
        first = f"_0000{ending}"
        found |= {file.name[: -len(first)] for file in (root / "imagesTr").glob(f"[!.]*{first}")}
    return sorted(found)


def _hold_out_fold(data: CaseDataset, path: Path, fold: int) -> None:
    """Divide the training cases as the fold of `path` declares, if there is such a file."""
    if not path.is_file():
        return
    folds = read_json(path)
    try:
        train, validation = (sorted(map(str, folds[fold][key])) for key in ("train", "val"))
    except (KeyError, IndexError, TypeError) as error:
        count = len(folds) if isinstance(folds, list) else 0
        raise ValueError(
            f"{path} has no fold {fold} with train and val: expected one of its {count} folds, counted from 0."
        ) from error
    if unknown := sorted({*train, *validation} - set(data.train)):
        raise ValueError(f"{path} names the case {unknown[0]!r}, which isn't among the training cases.")
    data.train, data.validation, data.declares_folds = train, validation, True
    data.notes.append(f"fold {fold} of {len(folds)} as splits_final.json divides them")
