"""Data sets in the Synapse layout, made from raw BTCV scans or from synthetic patients."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..transforms import nearest_zoom, spline_zoom, window_intensity
from ..transforms.intensity import CT_WINDOW
from ..utils.atomic import atomic_directory
from ..volumes import Volume, case_name, find_volumes, read_volume, reorient, same_grid
from .dataset import Case
from .layouts.synapse import SYNAPSE_LABELS, write_case, write_lists, write_slice
from .phantom import phantom_patient

__all__ = ["BTCV_TO_SYNAPSE", "SYNAPSE_TEST_CASES", "prepare_phantom", "prepare_synapse"]

logger = logging.getLogger(__name__)

BTCV_TO_SYNAPSE = {1: 1, 2: 2, 3: 3, 4: 4, 6: 5, 7: 6, 8: 7, 11: 8}
"""Which of BTCV's 13 organs become which of Synapse's 8; the others become background."""

_TOLERANCE = 0.5  # of a voxel; published headers are rounded
_AXIS_ORDER = (2, 1, 0)  # of a scan (x, y, z) in this layout, as the reference implementation prepares it

SYNAPSE_TEST_CASES = (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)
"""TransUNet's 12 test cases; the other 18 of BTCV's training scans train."""


def prepare_synapse(raw: str | os.PathLike, output: str | os.PathLike, *, train_size: int | None = 224) -> Path:
    """Convert raw BTCV scans to the Synapse layout.

    The intensities are clipped to [-125, 275] HU and scaled to [0, 1], the eight organs renumbered and the volumes
    transposed to `(slice, y, x)`. TransUNet's test cases become volumes, all others training slices. The axes of all
    scans are brought into the orientation of the first one: if all have the same, the slices are those of the reference
    implementation. The orientation is stored in `source.json`, and so in the adapters trained on the data.

    Args:
        raw: BTCV's `RawData/Training` with `img/imgNNNN.nii.gz` and `label/labelNNNN.nii.gz`.
        output: the directory to create; it must not exist, or be empty.
        train_size: side in pixels to which training slices are zoomed, image by cubic spline and label by order 0.
            SAMed's are 224; `None` keeps the scan's own size.

    Returns:
        The directory.

    Raises:
        FileNotFoundError: no such directory, no scan in it, or a scan without label.
        ValueError: a damaged scan, a label on another grid than its image or with values beyond BTCV's 13, a
            `train_size` below 2, or an output that isn't empty.
    """
    if train_size is not None and train_size < 2:
        raise ValueError(f"train_size is {train_size}: expected at least 2 pixels, or none to keep the scan's size.")
    pairs = _btcv_pairs(Path(raw))
    slices: list[str] = []
    tests: list[str] = []
    orientation = None
    with _new_directory(Path(output)) as directory:
        for number, (image_path, label_path) in pairs.items():
            image = read_volume(image_path)
            orientation = orientation or image.orientation
            case = _read_btcv(f"case{number:04d}", image, label_path, orientation)
            if number in SYNAPSE_TEST_CASES:
                write_case(directory, case)
                tests.append(case.name)
                role = "test volume"
            else:
                slices += _write_slices(directory, case, train_size)
                role = "training slices"
            turned = "" if image.orientation == orientation else f" ({image.orientation}, brought to {orientation})"
            size = f"{case.image.shape[1]}×{case.image.shape[2]}"
            logger.info(f"{case.name}: {len(case.image)} slices of {size}, {role}{turned}")
        source = {"name": "Synapse multi-organ CT (BTCV)", "orientation": orientation}
        write_lists(directory, slices, tests, SYNAPSE_LABELS, source)
    logger.info(f"{len(slices)} training slices and {len(tests)} test volumes in {output}")
    return Path(output)


def prepare_phantom(
    output: str | os.PathLike,
    *,
    num_train: int = 20,
    num_test: int = 6,
    seed: int = 0,
    shape: tuple[int, int, int] = (24, 160, 160),
) -> Path:
    """Write synthetic CT-like patients in the Synapse layout; the same seed writes the same.

    Args:
        output: the directory to create; it must not exist, or be empty.
        num_train, num_test: patients cut into training slices, and patients kept as volumes.
        seed: of the patients.
        shape: slices, width and height of each patient.

    Raises:
        ValueError: a negative number of patients, or an output that isn't empty.
    """
    if num_train < 0 or num_test < 0:
        raise ValueError(f"num_train is {num_train}, num_test {num_test}: expected numbers of patients, at least 0.")
    slices: list[str] = []
    tests: list[str] = []
    with _new_directory(Path(output)) as directory:
        for index in range(num_train + num_test):
            image, label, (along, x, y) = phantom_patient((seed, index), shape)
            image, label = (np.swapaxes(array, 1, 2) for array in (window_intensity(image, CT_WINDOW), label))
            case = Case(f"phantom{index:04d}", image, label, (along, y, x))
            if index < num_train:
                slices += _write_slices(directory, case, None)
            else:
                write_case(directory, case)
                tests.append(case.name)
        source = {"name": "synthetic phantom patients", "synthetic": True, "orientation": "LAS"}
        write_lists(directory, slices, tests, SYNAPSE_LABELS, source)
    return Path(output)


def _btcv_pairs(raw: Path) -> dict[int, tuple[Path, Path]]:
    """Image and label of each case by its number."""
    if not (raw / "img").is_dir() or not (raw / "label").is_dir():
        raise FileNotFoundError(
            f"{raw} has no directories img and label: expected BTCV's RawData/Training with img/imgNNNN.nii.gz and "
            "label/labelNNNN.nii.gz."
        )
    pairs: dict[int, tuple[Path, Path]] = {}
    labels = {case_name(path): path for path in find_volumes(raw / "label")}
    for path in find_volumes(raw / "img"):
        digits = case_name(path).removeprefix("img")
        if not digits.isdigit():
            raise ValueError(f"{path} isn't named imgNNNN.nii.gz: rename it, or move it to another directory.")
        if f"label{digits}" not in labels:
            raise FileNotFoundError(f"{path} has no label: expected {raw / 'label' / f'label{digits}.nii.gz'}.")
        if int(digits) in pairs:
            raise ValueError(f"{pairs[int(digits)][0]} and {path} have the same number: keep one of the two.")
        pairs[int(digits)] = (path, labels[f"label{digits}"])
    return pairs


def _read_btcv(name: str, image: Volume, label_path: Path, orientation: str) -> Case:
    """Renumber the organs and bring the axes into `orientation`, then into the order `(slice, y, x)`."""
    label = read_volume(label_path)
    values = np.unique(label.array)
    if not set(values.tolist()) <= set(range(14)):  # the background and 13 organs
        raise ValueError(
            f"{label_path} holds values from {values[0]} to {values[-1]}: expected BTCV's whole numbers from 0 to 13."
        )
    image, label = reorient(image, orientation), reorient(label, orientation)
    if differs := same_grid(image, label, _TOLERANCE):
        raise ValueError(
            f"{image.path} and {label_path} are on different grids ({differs}): expected an image and a label of the "
            "same voxels."
        )
    organs = np.zeros(label.array.shape, dtype=np.uint8)
    for value, target in BTCV_TO_SYNAPSE.items():
        organs[label.array == value] = target
    scaled = window_intensity(image.array, CT_WINDOW)
    x_mm, y_mm, slice_mm = image.spacing
    return Case(name, scaled.transpose(_AXIS_ORDER), organs.transpose(_AXIS_ORDER), (slice_mm, y_mm, x_mm))


def _write_slices(directory: Path, case: Case, size: int | None) -> list[str]:
    """Write a training case, zoomed to `size`, and return the names of its slices."""
    names = [f"{case.name}_slice{index:03d}" for index in range(len(case.image))]
    image, label = case.image, case.label
    if size is not None:
        image, label = spline_zoom(image, (size, size)), nearest_zoom(label, (size, size))
    for name, one_image, one_label in zip(names, image, label, strict=True):
        write_slice(directory, name, one_image, one_label)
    return names


@contextmanager
def _new_directory(output: Path) -> Iterator[Path]:
    """Yield a temporary directory that becomes `output` if the block succeeds."""
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise ValueError(f"output {str(output)!r} exists and is not an empty directory: choose another, or remove it.")
    with atomic_directory(output) as directory:
        yield directory
