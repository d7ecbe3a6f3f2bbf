"""The raw layout of nnU-Net v2: dataset.json, imagesTr, labelsTr, splits_final.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...volumes.registry import IMAGE_SUFFIXES
from ..dataset import CaseDataset, CaseSource
from ..folds import read_fold
from ..labels import read_json
from ..sources import ImageSource, ScanSource, describe_images, require_files
from .decathlon import channel_names, note_unused_files, read_description
from .nnunet_labels import nnunet_labels

__all__ = ["is_nnunet", "read_nnunet"]


def is_nnunet(root: Path) -> bool:
    """Return whether a directory has this layout."""
    description = read_description(root)
    return "channel_names" in description or "file_ending" in description


def read_nnunet(root: Path, fold: int | None = None, tolerance: float = 0.1, strict: bool = True) -> CaseDataset:
    """Describe a raw data set of nnU-Net v2; see [`read_data`] for the arguments.

    It holds imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz and dataset.json, whose `dataset` may list the files of the
    training cases instead. Without `fold` the first fold of splits_final.json is held out, if there is such a file.
    """
    path = root / "dataset.json"
    content = read_json(path)
    ending = content.get("file_ending")
    if not isinstance(ending, str) or not ending.startswith("."):
        raise ValueError(f"{path} has the file_ending {ending!r}: expected e.g. .nii.gz.")
    labels, channels = nnunet_labels(content, path), channel_names(content.get("channel_names", {"0": "image"}), path)
    cases = {part: _directory_cases(root, part, ending, len(channels)) for part in ("Tr", "Ts")}
    if (listed := content.get("dataset")) is not None:
        cases["Tr"] = _listed_cases(listed, path, len(channels))
    if not cases["Tr"]:
        raise FileNotFoundError(f"{root} has no label map labelsTr/*{ending}: expected those of the training cases.")
    everything = [images for found in cases.values() for images, _ in found.values()]
    is_2d = ending.lower() in IMAGE_SUFFIXES
    # An image of one file can hold red, green and blue.
    is_single = (
        is_2d and len(channels) in (1, 3) and not any(image.is_file() for one in everything for image in one[1:])
    )
    about = {"name": str(content.get("name") or root.resolve().name)}
    data = CaseDataset("nnU-Net raw", root, labels.id2label, {}, channel_names=channels, is_2d=is_2d, about=about)
    if is_2d:
        describe_images(data, (image for one in everything for image in (one[:1] if is_single else one)))
    if not is_single:
        data.channel_names = channels
    count = len(data.channel_names)
    data.regions, data.has_ignored, data.notes = labels.regions, labels.has_ignored, labels.notes
    for split, part in (("train", "Tr"), ("test", "Ts")):
        sources: dict[str, CaseSource] = {}
        for name, (images, label) in cases[part].items():
            if is_2d:
                one = images[0] if is_single else images
                sources[name] = ImageSource(name, (one,), (label,), count, labels.values)
            else:
                sources[name] = ScanSource(name, images, label, count, labels.values, tolerance)
        data.add_cases(split, sources)
    if strict:
        require_files(path, (file for source in data.sources.values() for file in source.files()))
    if content.get("numTraining", len(cases["Tr"])) != len(cases["Tr"]):
        data.notes.append(f"numTraining is {content['numTraining']}, but there are {len(cases['Tr'])} training cases")
    note_unused_files(data, [root / name for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs")])
    _hold_out_fold(data, root / "splits_final.json", fold or 0)
    return data


_Files = tuple[tuple[Path, ...], Path]  # images, one for each channel, and label


def _directory_cases(root: Path, part: str, ending: str, num_channels: int) -> dict[str, _Files]:
    """The files of the cases with a label; of training cases also of those without one, an error later."""
    labels, images = root / f"labels{part}", root / f"images{part}"
    found = {file.name[: -len(ending)] for file in labels.glob(f"[!.]*{ending}")}
    if part == "Tr" and labels.is_dir():
        first = f"_0000{ending}"
        found |= {file.name[: -len(first)] for file in images.glob(f"[!.]*{first}")}
    return {
        name: (
            tuple(images / f"{name}_{index:04d}{ending}" for index in range(num_channels)),
            labels / f"{name}{ending}",
        )
        for name in sorted(found)
    }


def _listed_cases(listed: Any, path: Path, num_channels: int) -> dict[str, _Files]:
    """The files that `dataset` of a dataset.json lists for each case; relative paths start at its directory."""
    if not isinstance(listed, dict):
        raise ValueError(
            f'{path} has the dataset {str(listed)[:80]}: expected {{"CASE": {{"images": […], "label": …}}}}.'
        )
    cases: dict[str, _Files] = {}
    for name, entry in sorted(listed.items()):
        images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if (
            not isinstance(images, list)
            or not all(isinstance(file, str) for file in images)
            or not isinstance(label, str)
        ):
            raise ValueError(f'{path} lists {name} as {str(entry)[:80]}: expected {{"images": […], "label": …}}.')
        if len(images) not in (1, num_channels) or not images or (len(images) == 1 and num_channels not in (1, 3)):
            raise ValueError(
                f"{path} lists {len(images)} images of {name}: expected one for each of {num_channels} channels."
            )
        cases[name] = (tuple(path.parent / file for file in images), path.parent / label)
    return cases


def _hold_out_fold(data: CaseDataset, path: Path, fold: int) -> None:
    """Divide the training cases as the fold of `path` declares, if there is such a file."""
    if not path.is_file():
        return
    train, validation, count = read_fold(path, fold)
    if unknown := sorted({*train, *validation} - set(data.train)):
        raise ValueError(f"{path} names the case {unknown[0]!r}, which isn't among the training cases.")
    if unlisted := sorted(set(data.train) - {*train, *validation}):
        data.split_notes.append(f"fold {fold} of {path.name} leaves out {len(unlisted)} cases, e.g. {unlisted[0]}")
    data.train, data.validation, data.declares_folds = train, validation, True
    data.split_notes.append(f"fold {fold} of {count} as splits_final.json divides them")
    data.notes += data.split_notes
