"""The Synapse layout of TransUNet and SAMed: slices to train on, whole volumes to score.

    DIR/train_npz/case0005_slice000.npz   image (height, width) float32 in [0, 1], label (height, width)
    DIR/test_vol_h5/case0001.npy.h5       image and label (slices, height, width)
    DIR/lists_Synapse/train.txt           names of slices, one a line
    DIR/lists_Synapse/test_vol.txt        names of cases, one a line
    DIR/lists_Synapse/labels.json         optional: {"0": "background", "1": "spleen", …}
    DIR/lists_Synapse/source.json         optional: {"name": "…", "synthetic": false}

The volumes written here also hold their spacing in mm; files of others needn't. Rows run along y and columns along x,
as the reference implementation prepares them.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...utils.atomic import write_bytes, write_text
from ...volumes.file_checks import NotFiniteError
from ..dataset import Case

__all__ = [
    "SYNAPSE_LABELS",
    "SynapseData",
    "case_of_slice",
    "read_slice",
    "write_case",
    "write_lists",
    "write_slice",
]

SYNAPSE_LABELS: dict[int, str] = {
    0: "background",
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gallbladder",
    5: "liver",
    6: "stomach",
    7: "aorta",
    8: "pancreas",
}

# What numpy and zipfile raise over files that are damaged or of another kind.
_DAMAGED = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
_LISTS = ("lists_Synapse", "lists/lists_Synapse")
_SLICE_NAME = re.compile(r"^(?P<case>.+)_slice(?P<index>\d+)$")


class SynapseData:
    """A directory in the Synapse layout; its files are read on demand.

    Attributes:
        root: the directory.
        train_slices: names of the slices to train on, as `train.txt` lists them.
        test_cases: names of the volumes to score, as `test_vol.txt` lists them.
        id2label: name of each label value.
        source: content of `source.json`, e.g. "name", and "orientation", in which the scans were cut;
            empty without one.
        declares_labels: whether `labels.json` names them; without it they are Synapse's.

    Raises:
        FileNotFoundError: no such directory, a missing list, or a list that names a missing file.
        ValueError: a list names a slice that isn't called CASE_sliceNNN, or labels.json isn't as it should be.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"data_dir {str(root)!r} is not a directory: expected one with train_npz, test_vol_h5 and "
                "lists_Synapse; `samed-hf prepare synapse` makes it from raw scans."
            )
        lists = next((self.root / name for name in _LISTS if (self.root / name).is_dir()), None)
        if lists is None:
            raise FileNotFoundError(
                f"data_dir {str(root)!r} has no directory lists_Synapse with train.txt and test_vol.txt: it is not in "
                "the Synapse layout; `samed-hf prepare synapse` makes it from raw scans."
            )
        self.train_slices = _read_list(lists / "train.txt")
        self.test_cases = _read_list(lists / "test_vol.txt")
        self.declares_labels = (lists / "labels.json").is_file()
        self.id2label = _read_labels(lists / "labels.json") if self.declares_labels else dict(SYNAPSE_LABELS)
        self.source = _read_source(lists / "source.json")
        for name in self.train_slices:
            case_of_slice(name)
        _require(lists / "train.txt", {name: self.slice_path(name) for name in self.train_slices})
        _require(lists / "test_vol.txt", {name: self.case_path(name) for name in self.test_cases})

    def slice_path(self, name: str) -> Path:
        """Return the path of a training slice."""
        return self.root / "train_npz" / f"{name}.npz"

    def case_path(self, name: str) -> Path:
        """Return the path of a test volume."""
        return self.root / "test_vol_h5" / f"{name}.npy.h5"

    def slices_by_case(self) -> dict[str, list[str]]:
        """The training slices of each case, cases and slices in order."""
        cases: dict[str, list[str]] = {}
        for name in sorted(self.train_slices, key=_slice_order):
            cases.setdefault(case_of_slice(name), []).append(name)
        return cases

    def train_size(self) -> int | None:
        """Side in pixels of the training slices, by one of each case; `None` where they differ or aren't square."""
        shapes = set()
        for names in self.slices_by_case().values():
            with suppress(NotFiniteError):  # the run leaves such a case out and reports it
                shapes.add(read_slice(self.slice_path(names[0]))[0].shape)
        height, width = next(iter(shapes), (0, 1))
        return height if len(shapes) == 1 and height == width else None

    def read_train_case(self, name: str) -> Case:
        """The training slices of one case as a volume.

        Raises:
            ValueError: its slices differ in size.
        """
        pairs = [read_slice(self.slice_path(slice_name)) for slice_name in self.slices_by_case()[name]]
        if len({image.shape for image, _ in pairs}) > 1:
            raise ValueError(f"The training slices of {name} differ in size: expected one size for each case.")
        return Case(name, np.stack([image for image, _ in pairs]), np.stack([label for _, label in pairs]))

    def read_test_case(self, name: str) -> Case:
        """Read one volume to score.

        Raises:
            ValueError: a damaged file, image and label of different shapes, or NaN.
        """
        path = self.case_path(name)
        try:
            with h5py.File(path, "r") as file:
                image, label = file["image"][...], file["label"][...]
                spacing = file.attrs.get("spacing")
        except (OSError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} can't be read: expected an HDF5 file with image and label ({reason}).") from error
        image, label = _checked(path, image, label, 3)
        if spacing is not None and not (np.shape(spacing) == (3,) and np.all(np.asarray(spacing) > 0)):
            raise ValueError(f"{path} has the spacing {spacing}: expected three positive numbers in mm.")
        return Case(
            name, image, label, None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2]))
        )


def case_of_slice(name: str) -> str:
    """The case a slice belongs to: "case0005" of "case0005_slice012"."""
    return _slice_order(name)[0]


def _slice_order(name: str) -> tuple[str, int]:
    match = _SLICE_NAME.match(name)
    if match is None:
        raise ValueError(f"The list names a slice {name[:80]!r}: expected CASE_sliceNNN, e.g. case0005_slice012.")
    return match["case"], int(match["index"])


def read_slice(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Read one training slice.

    Returns:
        Image `(height, width)` float32 and label `(height, width)` int64.

    Raises:
        ValueError: a damaged file, image and label of different shapes, or NaN in the image.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            image, label = file["image"], file["label"]
    except _DAMAGED as error:
        raise ValueError(f"{path} can't be read: expected an .npz file with image and label ({error}).") from error
    return _checked(path, image, label, 2)


def write_slice(folder: str | os.PathLike, name: str, image: np.ndarray, label: np.ndarray) -> None:
    """Write `image` and `label`, both `(height, width)`, as a training slice in the Synapse layout."""
    path = Path(folder) / "train_npz" / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.savez_compressed(content, image=image.astype(np.float32), label=_as_bytes(name, label))
    write_bytes(path, content.getvalue())


def write_case(folder: str | os.PathLike, case: Case) -> None:
    """Write a test volume into a directory in the Synapse layout."""
    path = Path(folder) / "test_vol_h5" / f"{case.name}.npy.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("image", data=case.image.astype(np.float32), compression="gzip", compression_opts=1)
        file.create_dataset("label", data=_as_bytes(case.name, case.label), compression="gzip", compression_opts=1)
        if case.spacing is not None:
            file.attrs["spacing"] = case.spacing
    write_bytes(path, content.getvalue())


def _as_bytes(name: str, label: np.ndarray) -> np.ndarray:
    """The label map as uint8, which is what this layout holds."""
    label = np.asarray(label)
    if label.size and (label.min() < 0 or label.max() > 255):
        raise ValueError(f"The label of {name} holds values from {label.min()} to {label.max()}: expected 0 to 255.")
    return label.astype(np.uint8)


def write_lists(
    folder: str | os.PathLike,
    train_slices: Sequence[str],
    test_cases: Sequence[str],
    id2label: Mapping[int, str],
    source: Mapping[str, Any] | None = None,
) -> None:
    """Write the lists of a Synapse directory. They are written last: a directory with lists is complete.

    Args:
        folder: the directory.
        train_slices: names of the slices to train on.
        test_cases: names of the volumes to score.
        id2label: name of each label value.
        source: what the data is: "name", "synthetic" where no patient is in it, and the "orientation" of its scans.
    """
    lists = Path(folder) / "lists_Synapse"
    lists.mkdir(parents=True, exist_ok=True)
    contents = {
        "labels.json": json.dumps({str(index): name for index, name in id2label.items()}, indent=2),
        "test_vol.txt": "\n".join(test_cases),
        "train.txt": "\n".join(train_slices),
    }
    if source is not None:
        contents["source.json"] = json.dumps(source, indent=2)
    for name, content in contents.items():
        write_text(lists / name, f"{content}\n")


def _read_list(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected a text file with one name a line.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} can't be read: expected text in UTF-8 ({error}).") from error
    return [line.strip() for line in lines if line.strip()]


def _read_source(path: Path) -> dict[str, Any]:
    try:
        source = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f'{path} is no JSON ({error}): expected e.g. {{"name": "Synapse multi-organ CT"}}.') from error
    if not isinstance(source, dict) or not isinstance(source.get("name", ""), str):
        raise ValueError(f'{path} holds {source!r}: expected e.g. {{"name": "Synapse multi-organ CT"}}.')
    return source


def _read_labels(path: Path) -> dict[int, str]:
    try:
        labels = {int(index): str(name) for index, name in json.loads(path.read_text(encoding="utf-8-sig")).items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f'{path} can\'t be read: expected {{"0": "background", "1": …}} ({error}).') from error
    if len(labels) < 2 or sorted(labels) != list(range(len(labels))):
        raise ValueError(f"{path} names the values {sorted(labels)}: expected 0, 1, … without a gap, at least two.")
    misplaced = [index for index, name in labels.items() if index and name.strip().lower() == "background"]
    if misplaced or not all(name.strip() for name in labels.values()):
        raise ValueError(f"{path} names {labels}: expected a name for each, and the background at 0.")
    return labels


def _require(listing: Path, paths: Mapping[str, Path]) -> None:
    strange = next((name for name in paths if len(name) > 200), None)
    if strange is not None:
        raise ValueError(f"{listing} has a line of {len(strange)} characters: expected names of files, one a line.")
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{listing} names {missing[0]!r}, but {paths[missing[0]]} does not exist"
            f"{f' (nor are {len(missing) - 1} others)' if len(missing) > 1 else ''}: add the file or take its line out."
        )


def _checked(path: Path, image: np.ndarray, label: np.ndarray, ndim: int) -> tuple[np.ndarray, np.ndarray]:
    if image.ndim != ndim or image.shape != label.shape or 0 in image.shape:
        raise ValueError(
            f"{path} holds an image of shape {image.shape} and a label of shape {label.shape}: expected the same "
            f"shape with {ndim} dimensions."
        )
    if label.dtype.kind not in "iub" and not np.array_equal(label, np.round(label)):
        raise ValueError(f"{path} holds a label with values between the whole numbers: expected the numbers of labels.")
    image = image.astype(np.float32)
    if not np.isfinite(image).all():
        raise NotFiniteError(
            f"{path} holds {np.count_nonzero(~np.isfinite(image))} NaN or infinite intensities: expected finite ones; "
            "mend the file or take it out of its list."
        )
    return image, label.astype(np.int64)
