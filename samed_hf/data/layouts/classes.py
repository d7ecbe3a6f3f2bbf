"""A directory of images and one of masks, with a directory for each class or for each image: `masks/liver/x`."""

from __future__ import annotations

from pathlib import Path

from ...volumes import case_name
from ..dataset import CaseDataset
from .folders import find_folders, subdirectories
from .patients import image_files, mask_files, refuse_raters
from .records import Found, Options, Record, build_dataset, name_some, pattern

__all__ = ["has_class_directories", "read_class_directories"]


def has_class_directories(root: Path) -> bool:
    """Return whether a directory has images, and masks in directories of their own."""
    pairs = find_folders(root).values()
    return any(
        not image_files(masks) and any(image_files(one) for one in subdirectories(masks).values()) for _, masks in pairs
    )


def read_class_directories(root: Path, options: Options) -> CaseDataset:
    """Describe images with `masks/CLASS/NAME` or `masks/NAME/CLASS`; see [`read_data`] for the arguments.

    Raises:
        ValueError, FileNotFoundError: names of masks that are those of no image, or images without a mask.
    """
    records, missing, spare = [], [], []
    for split, (images, masks) in find_folders(root).items():
        files = {path: name for name, path in mask_files(images, images=True).items()}
        labels: dict[str, dict[str, Path]] = {name: {} for name in files.values()}
        for directory in sorted(one for one in masks.iterdir() if one.is_dir() and one.name[0] != "."):
            for name, path in mask_files(directory).items():
                case, of = (directory.name, name) if directory.name in labels else (name, directory.name)
                if case in labels:
                    labels[case][of] = path
                else:
                    spare.append(path)
        missing += [path for path, name in files.items() if not labels[name]]
        records += [
            Record(case_name(path), (path,), labels[name], split) for path, name in files.items() if labels[name]
        ]
    refuse_raters({name: path for record in records for name, path in record.label.items()}, options)  # type: ignore[union-attr]
    notes = []
    for what, paths in (("images without a mask", missing), ("masks without an image", spare)):
        if paths:
            notes.append(f"{len(paths)} {what}, not used: {name_some(path.relative_to(root) for path in paths)}")
    found = Found("masks in directories of their classes", root, records, pattern(root, records), notes=notes)
    return build_dataset(found, options)
