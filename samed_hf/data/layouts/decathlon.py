"""The layout of the Medical Segmentation Decathlon: dataset.json with pairs of image and label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...model.configuration_samed import MAX_CHANNELS
from ...volumes import case_name
from ..dataset import CaseDataset, CaseSource
from ..labels import labels_from_mapping, read_json
from ..sources import ScanSource, require_files

__all__ = ["channel_names", "is_decathlon", "note_unused_files", "read_decathlon", "read_description"]


def is_decathlon(root: Path) -> bool:
    """Return whether a directory has this layout; a datalist with other splits or folds is a listing."""
    content = read_description(root)
    entries = content.get("training")
    if not isinstance(entries, list) or any(isinstance(content.get(key), list) for key in ("validation", "val")):
        return False
    return not any(isinstance(entry, dict) and "fold" in entry for entry in entries)


def read_decathlon(root: Path, tolerance: float = 0.1, strict: bool = True) -> CaseDataset:
    """Describe a directory of the Medical Segmentation Decathlon; see [`read_data`] for the arguments.

    `training` in its dataset.json lists pairs of image and label. Cases whose image or case name is in
    `validation_cases` are for validation. `test` lists images without labels and is not used.
    """
    path = root / "dataset.json"
    content = read_json(path)
    labels = labels_from_mapping(content["labels"], path, names_first=False)
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
    if strict:
        require_files(path, (file for source in sources.values() for file in source.files()))
    about = {"name": str(content.get("name") or root.resolve().name)}
    data = CaseDataset("Medical Segmentation Decathlon", root, labels.id2label, sources, about=about)
    data.channel_names = channels
    data.train, data.validation = sorted(set(sources) - validation), sorted(validation)
    if unused := content.get("test"):
        data.notes.append(f"{len(unused)} images listed under test have no labels: left out")
    note_unused_files(data, [root / name for name in ("imagesTr", "labelsTr")])
    return data


def read_description(root: Path) -> dict[str, Any]:
    """Return the content of `root/dataset.json`; empty if there is none or it names no labels."""
    path = root / "dataset.json"
    content = read_json(path) if path.is_file() else None
    return content if isinstance(content, dict) and "labels" in content else {}


def channel_names(names: Any, path: Path) -> tuple[str, ...]:
    """Return the names of the channels in order, given {"0": "CT"} or a list."""
    shown = str(names)[:80]
    if isinstance(names, dict) and all(str(key).isdecimal() for key in names):
        names = [names[key] for key in sorted(names, key=lambda key: int(str(key)))]
    if not isinstance(names, list) or not 1 <= len(names) <= MAX_CHANNELS:
        raise ValueError(
            f'{path} names the channels {shown}: expected 1 to {MAX_CHANNELS}, as {{"0": "T1", "1": "T2"}}.'
        )
    return tuple(str(name) for name in names)


def note_unused_files(data: CaseDataset, directories: list[Path]) -> None:
    """Add a note on the files of directories that belong to no case."""
    used = {path.absolute() for source in data.sources.values() for path in source.files()}
    for directory in filter(Path.is_dir, directories):
        if unused := sorted(path for path in directory.glob("[!.]*") if path.is_file() and path.absolute() not in used):
            data.notes.append(
                f"left out {len(unused)} files of {directory.name} that no case has, e.g. {unused[0].name}"
            )


def _channel_files(image: Path, num_channels: int) -> tuple[Path, ...]:
    """Return one file, or IMAGE_0000, IMAGE_0001, … if no file has the name itself."""
    name = case_name(image)
    files = tuple(image.with_name(f"{name}_{index:04d}{image.name[len(name) :]}") for index in range(num_channels))
    if image.is_file() or (num_channels == 1 and not files[0].is_file()):
        return (image,)
    return files
