"""The layout of the Medical Segmentation Decathlon: dataset.json with pairs of image and label."""

from __future__ import annotations

from pathlib import Path

from ...volumes import case_name
from ..dataset import CaseDataset, CaseSource
from ..labels import labels_from_mapping, read_json
from ..sources import ScanSource
from .dataset_json import channel_names, read_description, require_files

__all__ = ["is_decathlon", "read_decathlon"]


def is_decathlon(root: Path) -> bool:
    """Return whether a directory has this layout.

    Raises:
        ValueError: dataset.json is not JSON.
    """
    return isinstance(read_description(root).get("training"), list)


def read_decathlon(root: Path, tolerance: float = 0.1, strict: bool = True) -> CaseDataset:
    """Describe a directory of the Medical Segmentation Decathlon.

    `training` in its dataset.json lists pairs of image and label. Cases whose image or case name is in
    `validation_cases` are for validation. `test` lists images without labels and is not used.

    Args:
        root: the directory.
        tolerance: see [`~samed_hf.data.sources.ScanSource`].
        strict: refuse a data set with missing files; otherwise their cases fail when they are read.

    Raises:
        ValueError, FileNotFoundError: an invalid dataset.json, or missing files.
    """
    path = root / "dataset.json"
    content = read_json(path)
    labels = labels_from_mapping(content["labels"], path)
    channels = channel_names(content.get("modality", {"0": "image"}), path)
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
    data = CaseDataset(
        "Medical Segmentation Decathlon", root, labels.id2label, sources, channel_names=channels, about=about
    )
    data.train, data.validation = sorted(set(sources) - validation), sorted(validation)
    if strict:
        require_files(path, data)
    return data


def _channel_files(image: Path, num_channels: int) -> tuple[Path, ...]:
    """Return one file, or IMAGE_0000, IMAGE_0001, … if no file has the name itself."""
    if image.is_file() or num_channels == 1:
        first = image.with_name(f"{case_name(image)}_0000{image.name[len(case_name(image)) :]}")
        return (first,) if not image.is_file() and first.is_file() else (image,)
    ending = image.name[len(case_name(image)) :]
    return tuple(image.with_name(f"{case_name(image)}_{index:04d}{ending}") for index in range(num_channels))
