"""The Synapse layout of TransUNet and SAMed: slices to train on, whole volumes to score.

    DIR/train_npz/case0005_slice000.npz   image (height, width) float32 in [0, 1], label (height, width)
    DIR/test_vol_h5/case0001.npy.h5       image and label (slices, height, width)
    DIR/lists_Synapse/train.txt           names of slices, one a line
    DIR/lists_Synapse/test_vol.txt        names of cases, one a line
    DIR/lists_Synapse/labels.json         optional: {"0": "background", "1": "spleen", …}
    DIR/lists_Synapse/source.json         optional: {"name": "…", "synthetic": false}

The volumes written here also hold their spacing in mm, which is optional. Rows run along y and columns along x, as the
reference implementation prepares them.
"""

from __future__ import annotations

import io
import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import h5py
import numpy as np

from ...model.image_processing_samed import SamedImageProcessor
from ...utils.atomic import write_bytes, write_text
from ...volumes.file_checks import NotFiniteError, check_finite
from ...volumes.limits import InputLimitError, InputLimits
from ..dataset import Case, CaseDataset, CaseSource, RawCase, as_labels
from ..labels import labels_from_mapping, read_json, read_text
from ..sources import require_files

__all__ = [
    "SYNAPSE_LABELS",
    "SliceSource",
    "SynapseData",
    "is_synapse",
    "read_slice",
    "read_synapse",
    "split_slice_name",
    "write_case",
    "write_lists",
    "write_slice",
]

_ORGANS = ("spleen", "right kidney", "left kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas")
SYNAPSE_LABELS: dict[int, str] = dict(enumerate(("background", *_ORGANS)))

# What numpy and zipfile raise over files that are damaged or of another kind.
_DAMAGED = (OSError, LookupError, ValueError, TypeError, EOFError, RuntimeError, MemoryError, zlib.error, BadZipFile)

_LISTS = ("lists_Synapse", "lists/lists_Synapse")
_SLICE_NAME = re.compile(r"^(?P<case>.+)_slice(?P<index>\d+)$")


class SynapseData:
    """A directory in the Synapse layout; its files are read on demand.

    `source` is the content of `source.json`, e.g. "name", and "orientation", in which the scans were cut. A missing
    list or file of a list is a `FileNotFoundError`, a name other than CASE_sliceNNN or invalid JSON a `ValueError`.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self.root = Path(root)
        lists = next((self.root / name for name in _LISTS if (self.root / name).is_dir()), None)
        if lists is None:
            problem = "has no directory lists_Synapse" if self.root.is_dir() else "is not a directory"
            raise FileNotFoundError(
                f"data_dir {str(root)!r} {problem}: expected one with train_npz, test_vol_h5 and lists_Synapse, with "
                "train.txt and test_vol.txt; `samed-hf prepare synapse` makes it from raw scans."
            )
        self.train_slices = _read_list(lists / "train.txt")
        self.test_cases = _read_list(lists / "test_vol.txt")
        self.declares_labels = (lists / "labels.json").is_file()
        self.id2label = _read_labels(lists / "labels.json") if self.declares_labels else dict(SYNAPSE_LABELS)
        self.source: dict[str, Any] = read_json(path) if (path := lists / "source.json").is_file() else {}
        if not isinstance(self.source, dict) or not isinstance(self.source.get("name", ""), str):
            raise ValueError(f'{path} holds {self.source!r}: expected e.g. {{"name": "Synapse multi-organ CT"}}.')
        for name in self.train_slices:
            split_slice_name(name)
        require_files(lists / "train.txt", map(self.slice_path, self.train_slices))
        require_files(lists / "test_vol.txt", map(self.case_path, self.test_cases))

    def slice_path(self, name: str) -> Path:
        """Return the path of a training slice."""
        return self.root / "train_npz" / f"{name}.npz"

    def case_path(self, name: str) -> Path:
        """Return the path of a test volume."""
        return self.root / "test_vol_h5" / f"{name}.npy.h5"

    def slices_by_case(self) -> dict[str, list[str]]:
        """The training slices of each case, cases and slices in order."""
        cases: dict[str, list[str]] = {}
        for name in sorted(self.train_slices, key=split_slice_name):
            cases.setdefault(split_slice_name(name)[0], []).append(name)
        return cases

    def train_size(self) -> int | None:
        """Side in pixels of the training slices, by one of each case; `None` where they differ or aren't square."""
        shapes = set()
        for names in self.slices_by_case().values():
            with suppress(NotFiniteError):  # the run leaves such a case out and reports it
                shapes.add(read_slice(self.slice_path(names[0]))[0].shape)
        height, width = next(iter(shapes), (0, 1))
        return height if len(shapes) == 1 and height == width else None

    def read_case(self, name: str) -> Case:
        """Read a case to train on or to score."""
        return self.read_test_case(name) if name in self.test_cases else self.read_train_case(name)

    def read_train_case(self, name: str) -> Case:
        """The training slices of one case as a volume."""
        images, labels = zip(*map(read_slice, map(self.slice_path, self.slices_by_case()[name])), strict=True)
        if len({image.shape for image in images}) > 1:
            raise ValueError(f"The training slices of {name} differ in size: expected one size for each case.")
        return Case(name, np.stack(images), np.stack(labels))

    def read_test_case(self, name: str) -> Case:
        """Read one volume to score."""
        path = self.case_path(name)
        try:
            with h5py.File(path, "r") as file:
                for array in (file["image"], file["label"]):
                    InputLimits.local().check_stack(path, array.shape)
                image, label = file["image"][...], file["label"][...]
                spacing = file.attrs.get("spacing")
        except (OSError, KeyError, TypeError, AttributeError, MemoryError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} can't be read: expected an HDF5 file with image and label ({reason}).") from error
        image, label = _checked(path, image, label, 3)
        if spacing is None:
            return Case(name, image, label)
        if not (np.shape(spacing) == (3,) and np.all(np.asarray(spacing) > 0)):
            raise ValueError(f"{path} has the spacing {spacing}: expected three positive numbers in mm.")
        return Case(name, image, label, (float(spacing[0]), float(spacing[1]), float(spacing[2])))


@dataclass(frozen=True)
class _SynapseSource(CaseSource):
    """A test case in one file. The slices of all cases keep the orientation of the files."""

    name: str
    data: SynapseData

    def read(self, processor: SamedImageProcessor) -> RawCase:
        case = self.data.read_case(self.name)
        return RawCase(case.image, as_labels(self.name, case.label), case.spacing, rescaled=True)

    def files(self) -> tuple[Path, ...]:
        return (self.data.case_path(self.name),)


@dataclass(frozen=True)
class SliceSource(_SynapseSource):
    """A training case, each of whose slices is a file."""

    slices: tuple[str, ...]

    def files(self) -> tuple[Path, ...]:
        """See [`CaseSource`]."""
        return tuple(map(self.data.slice_path, self.slices))


def is_synapse(root: Path) -> bool:
    """Return whether a directory has this layout."""
    return any((root / name).is_dir() for name in ("lists_Synapse", "lists", "train_npz", "test_vol_h5"))


def read_synapse(root: Path) -> CaseDataset:
    """Describe a directory in the Synapse layout; raises as [`SynapseData`]."""
    data = SynapseData(root)
    slices = data.slices_by_case()
    if shared := sorted(set(slices) & set(data.test_cases)):
        raise ValueError(
            f"{root} lists {shared[0]} in train.txt and in test_vol.txt: expected each case in one of them, since "
            "scores of a training case mean nothing; remove it from one."
        )
    sources: dict[str, CaseSource] = {name: SliceSource(name, data, tuple(found)) for name, found in slices.items()}
    sources |= {name: _SynapseSource(name, data) for name in data.test_cases}
    notes = [] if data.declares_labels else ["no lists_Synapse/labels.json: the eight labels of Synapse are assumed"]
    if "orientation" not in data.source:
        notes.append(
            "no orientation in lists_Synapse/source.json: scans to predict must have the orientation of those the "
            "slices were cut from; give it with --orientation, e.g. LPS"
        )
    dataset = CaseDataset("Synapse", data.root, data.id2label, sources, list(slices), test=data.test_cases, notes=notes)
    dataset.channel_names, dataset.orientation = ("CT",), data.source.get("orientation")
    dataset.input_size, dataset.about, dataset.is_sliced = data.train_size(), data.source, True
    dataset.declares_labels = data.declares_labels
    return dataset


def split_slice_name(name: str) -> tuple[str, int]:
    """The case of a slice and its number in it: "case0005" and 12 of "case0005_slice012"."""
    match = _SLICE_NAME.match(name)
    if match is None:
        raise ValueError(f"The list names a slice {name[:80]!r}: expected CASE_sliceNNN, e.g. case0005_slice012.")
    return match["case"], int(match["index"])


def read_slice(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Read the image `(height, width)` float32 and the label `(height, width)` int64 of a training slice."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in ("image.npy", "label.npy"):
                with file.zip.open(name) as array:  # read completely, it would take the memory that its header claims
                    first = np.lib.format.read_magic(array) == (1, 0)
                    header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                    InputLimits.local().check_stack(path, header(array)[0])
            image, label = file["image"], file["label"]
    except InputLimitError:
        raise
    except _DAMAGED as error:
        raise ValueError(f"{path} can't be read: expected an .npz file with image and label ({error}).") from error
    return _checked(path, image, label, 2)


def write_slice(directory: str | os.PathLike, name: str, image: np.ndarray, label: np.ndarray) -> None:
    """Write `image` and `label`, both `(height, width)`, as a training slice."""
    content = io.BytesIO()
    np.savez_compressed(content, image=image.astype(np.float32), label=_as_bytes(name, label))
    _write(Path(directory) / "train_npz" / f"{name}.npz", content)


def write_case(directory: str | os.PathLike, case: Case) -> None:
    """Write a test volume."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("image", data=case.image.astype(np.float32), compression="gzip", compression_opts=1)
        file.create_dataset("label", data=_as_bytes(case.name, case.label), compression="gzip", compression_opts=1)
        if case.spacing is not None:
            file.attrs["spacing"] = case.spacing
    _write(Path(directory) / "test_vol_h5" / f"{case.name}.npy.h5", content)


def write_lists(
    directory: str | os.PathLike,
    train_slices: Sequence[str],
    test_cases: Sequence[str],
    id2label: Mapping[int, str],
    source: Mapping[str, Any] | None = None,
) -> None:
    """Write the lists of a directory and its `source`, see [`SynapseData`]; last: one with lists is complete."""
    (lists := Path(directory) / "lists_Synapse").mkdir(parents=True, exist_ok=True)
    files = {} if source is None else {"source.json": json.dumps(source, indent=2)}
    files["labels.json"] = json.dumps({str(index): name for index, name in id2label.items()}, indent=2)
    files |= {"test_vol.txt": "\n".join(test_cases), "train.txt": "\n".join(train_slices)}
    for name, content in files.items():
        write_text(lists / name, f"{content}\n")


def _as_bytes(name: str, label: np.ndarray) -> np.ndarray:
    """The label map as uint8, which is what this layout holds."""
    label = np.asarray(label)
    if label.size and (label.min() < 0 or label.max() > 255):
        raise ValueError(f"The label of {name} holds values from {label.min()} to {label.max()}: expected 0 to 255.")
    return label.astype(np.uint8)


def _write(path: Path, content: io.BytesIO) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content.getvalue())


def _read_list(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected a text file with one name a line.")
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if strange := next((name for name in names if len(name) > 200), None):
        raise ValueError(f"{path} has a line of {len(strange)} characters: expected names of files, one a line.")
    return names


def _read_labels(path: Path) -> dict[int, str]:
    try:
        labels = labels_from_mapping(read_json(path), path)
    except ValueError as error:
        raise ValueError(f'{path} can\'t be read: expected {{"0": "background", "1": …}} ({error}).') from error
    if labels.values != tuple(range(len(labels.values))):
        raise ValueError(f"{path} names the values {list(labels.values)}: expected 0, 1, … without a gap.")
    return labels.id2label


def _checked(path: Path, image: np.ndarray, label: np.ndarray, ndim: int) -> tuple[np.ndarray, np.ndarray]:
    if image.ndim != ndim or image.shape != label.shape or 0 in image.shape:
        raise ValueError(
            f"{path} holds an image of shape {image.shape} and a label of shape {label.shape}: expected the same "
            f"shape with {ndim} dimensions."
        )
    if label.dtype.kind not in "iub" and not np.array_equal(label, np.round(label)):
        raise ValueError(f"{path} holds a label with values between the whole numbers: expected the numbers of labels.")
    image = image.astype(np.float32)
    check_finite(path, image)
    return image, label.astype(np.int64)
