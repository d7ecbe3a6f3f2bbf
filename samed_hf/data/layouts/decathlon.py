"""Data sets described by a dataset.json: the Medical Segmentation Decathlon's, and nnU-Net's raw ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...volumes import case_name
from ..dataset import CaseDataset, CaseSource
from ..labels import Labels, labels_from_mapping, read_json
from ..sources import ImageSource, ScanSource, count_channels
from .folders import PICTURES

__all__ = ["describes_data", "read_decathlon", "read_nnunet"]


def describes_data(path: Path) -> str | None:
    """Which of the two a dataset.json is of: "nnunet", "decathlon", or `None` for neither.

    Raises:
        ValueError: it is no JSON.
    """
    content = read_json(path)
    if not isinstance(content, dict) or "labels" not in content:
        return None
    if "channel_names" in content or "file_ending" in content:
        return "nnunet"
    return "decathlon" if isinstance(content.get("training"), list) else None


def read_decathlon(root: Path, tolerance: float = 0.1, strict: bool = True) -> CaseDataset:
    """A folder of the Medical Segmentation Decathlon.

    `training` of its dataset.json names pairs of image and label; those whose image stands in `validation_cases` (a
    list of file or case names) are for validation. `test` names images without labels, which nothing here needs. Where
    it isn't `strict`, cases whose files are missing fail when they are read.

    Raises:
        ValueError, FileNotFoundError: dataset.json isn't as it should be, or names files that aren't there.
    """
    path = root / "dataset.json"
    content = read_json(path)
    labels = labels_from_mapping(content["labels"], path)
    channels = _channels(content.get("modality", {"0": "image"}), path)
    held_out = content.get("validation_cases", [])
    if not isinstance(held_out, list) or not all(isinstance(name, str) for name in held_out):
        raise ValueError(f"{path} has validation_cases that are no list of names.")
    sources: dict[str, CaseSource] = {}
    for entry in content["training"]:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            raise ValueError(f'{path} lists {str(entry)[:80]} under training: expected {{"image": …, "label": …}}.')
        image, label = root / entry["image"], root / entry["label"]
        name = case_name(image)
        if name in sources:
            raise ValueError(f"{path} lists {name} twice under training: expected each case once.")
        images = _channel_files(image, len(channels))
        sources[name] = ScanSource(name, images, label, len(channels), labels.values, tolerance)
    validation = {case_name(name) for name in held_out}
    if unknown := sorted(validation - set(sources)):
        raise ValueError(f"{path} names the validation case {unknown[0]!r}, which isn't listed under training.")
    about = {"name": str(content.get("name") or root.resolve().name)}
    data = _data_set("Medical Segmentation Decathlon", root, labels, channels, sources, about)
    data.train, data.validation = sorted(set(sources) - validation), sorted(validation)
    if strict:
        _require_files(path, data)
    return data


def read_nnunet(root: Path, fold: int | None = None, tolerance: float = 0.1, strict: bool = True) -> CaseDataset:
    """A raw data set of nnU-Net, second version: imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, dataset.json.

    Args:
        root: the folder.
        fold: which fold of its `splits_final.json`, if it has one; defaults to the first.
        tolerance: see [`ScanSource`].
        strict: refuse a data set that lacks files; else their cases fail when they are read.

    Raises:
        ValueError, FileNotFoundError: dataset.json isn't as it should be, or files are missing.
    """
    path = root / "dataset.json"
    content = read_json(path)
    ending = content.get("file_ending")
    if not isinstance(ending, str) or not ending.startswith("."):
        raise ValueError(f"{path} has the file_ending {ending!r}: expected e.g. .nii.gz.")
    labels = labels_from_mapping(content["labels"], path)
    if any(name.lower() == "ignore" for name in labels.id2label.values()):
        raise ValueError(f"{path} has an ignore label: voxels without a label can't be trained on here; fill them in.")
    channels = _channels(content.get("channel_names", {"0": "image"}), path)
    pictures = ending.lower() in PICTURES
    sources: dict[str, CaseSource] = {}
    splits: dict[str, list[str]] = {"Tr": [], "Ts": []}
    for part, names in splits.items():
        if not (root / f"labels{part}").is_dir():
            continue
        found = {file.name[: -len(ending)] for file in (root / f"labels{part}").glob(f"[!.]*{ending}")}
        if part == "Tr":  # an image whose label is missing is a fault, and no case left out
            first = f"_0000{ending}"
            found |= {file.name[: -len(first)] for file in (root / "imagesTr").glob(f"[!.]*{first}")}
        for name in sorted(found):
            label = root / f"labels{part}" / f"{name}{ending}"
            if name in sources:
                raise ValueError(f"{label} is called as a training case is: expected each case once.")
            images = tuple(root / f"images{part}" / f"{name}_{index:04d}{ending}" for index in range(len(channels)))
            if pictures:
                sources[name] = ImageSource(name, images[:1], (label,), 1, labels.values)
            else:
                sources[name] = ScanSource(name, images, label, len(channels), labels.values, tolerance)
            names.append(name)
    if not splits["Tr"]:
        raise FileNotFoundError(f"{root} has no label map labelsTr/*{ending}: expected those of the training cases.")
    about = {"name": str(content.get("name") or root.resolve().name)}
    data = _data_set("nnU-Net raw", root, labels, channels, sources, about)
    data.train, data.test, data.is_2d = splits["Tr"], splits["Ts"], pictures
    if strict:
        _require_files(path, data)
    if pictures:
        _colour(data, labels)
    _declared_fold(data, root / "splits_final.json", fold)
    return data


def _colour(data: CaseDataset, labels: Labels) -> None:
    """nnU-Net's pictures are one file whatever their channels."""
    images = {name: source.images for name, source in data.sources.items()}
    num_channels = count_channels([path for paths in images.values() for path in paths if path.is_file()])
    data.channel_names = ("R", "G", "B")[:num_channels] if num_channels == 3 else ("image",)
    data.sources = {
        name: ImageSource(name, source.images, source.labels, num_channels, labels.values)
        for name, source in data.sources.items()
    }


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


def _data_set(
    layout: str,
    root: Path,
    labels: Labels,
    channels: tuple[str, ...],
    sources: dict[str, CaseSource],
    about: dict[str, Any],
) -> CaseDataset:
    return CaseDataset(layout, root, labels.id2label, sources, channel_names=channels, about=about)


def _channels(names: Any, path: Path) -> tuple[str, ...]:
    """The channels' names in order: of {"0": "CT"}, or of a list."""
    if isinstance(names, dict) and all(str(key).isdigit() for key in names):
        names = [names[key] for key in sorted(names, key=lambda key: int(str(key)))]
    if not isinstance(names, list) or not 1 <= len(names) <= 3:
        raise ValueError(
            f"{path} names the channels {str(names)[:80]}: expected one to three, which become red, green and blue; "
            "leave the others out."
        )
    return tuple(str(name) for name in names)


def _channel_files(image: Path, num_channels: int) -> tuple[Path, ...]:
    """One file, or the files IMAGE_0000, IMAGE_0001, … where the name as it stands is none."""
    if image.is_file() or num_channels == 1:
        first = image.with_name(f"{case_name(image)}_0000{image.name[len(case_name(image)) :]}")
        return (first,) if not image.is_file() and first.is_file() else (image,)
    ending = image.name[len(case_name(image)) :]
    return tuple(image.with_name(f"{case_name(image)}_{index:04d}{ending}") for index in range(num_channels))


def _require_files(path: Path, data: CaseDataset) -> None:
    """Refuse a data set that names files which aren't there."""
    missing = []
    for source in data.sources.values():
        labels = source.labels if isinstance(source, ImageSource) else (source.label,)
        missing += [file for file in (*source.images, *labels) if not file.is_file()]
    if missing:
        others = f" (nor are {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{path} asks for {missing[0]}, which isn't there{others}: add it, or take it out.")
