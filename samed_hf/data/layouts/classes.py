"""A directory of images and one of masks, with a directory for each class or each image, or a file for each class.

`masks/liver/x`, `masks/x/liver`, or `masks/x_liver` where the labels are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ...volumes import case_name
from ..dataset import CaseDataset
from .folders import find_folders, subdirectories
from .pairs import image_files, mask_files, plain_stem
from .patients import named_classes, refuse_raters
from .records import Found, Options, Record, build_dataset, name_some, pattern

__all__ = ["has_class_masks", "read_class_masks"]


def has_class_masks(root: Path, options: Options) -> bool:
    """Return whether a directory has images, and masks in directories of their own or called after named classes."""
    named = named_classes(root, options)
    for images, masks in find_folders(root).values():
        own = image_files(masks)
        cases = {plain_stem(path, images=True) for path in image_files(images)} if own and named else set()
        if not all(_split_stem(plain_stem(path), cases, named) for path in own):
            return False
        if not own and not any(image_files(one) for one in subdirectories(masks).values()):
            return False
    return bool(find_folders(root))


def _split_stem(stem: str, cases: Iterable[str], named: Mapping[str, str]) -> tuple[str, str] | None:
    """The case and the class in the name of a mask, `x_liver`."""
    found = ((case, named.get(stem[len(case) + 1 :].lower())) for case in cases if stem.startswith(f"{case}_"))
    return next(((case, of) for case, of in found if of), None)


def read_class_masks(root: Path, options: Options) -> CaseDataset:
    """Describe images with `masks/CLASS/NAME`, `masks/NAME/CLASS` or `masks/NAME_CLASS`; see [`read_data`].

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
        for name, path in mask_files(masks).items():  # all of them are of named classes
            case, of = _split_stem(name, labels, named_classes(root, options)) or (name, "")
            labels[case][of] = path
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
