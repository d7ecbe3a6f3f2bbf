"""The settings that say where a data set is and how its scans are cut, as command-line flags."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..transforms.intensity import PREPROCESSING

__all__ = ["DataArguments", "flag", "range_problems"]


def flag(default: Any, help_text: str) -> Any:
    """A dataclass field with the help text of its command-line flag."""
    return field(default=default, metadata={"help": help_text})


def range_problems(settings: object, least: Mapping[str, float], choices: Mapping[str, Sequence[str]]) -> list[str]:
    """Describe the settings that are out of range; those that are `None` are valid.

    Args:
        settings: an object with the named attributes.
        least: smallest value of each number by its name; it must be finite too.
        choices: valid values of each string by its name.
    """
    problems = [
        f"{name} is {value}: expected a number of at least {lowest}"
        for name, lowest in least.items()
        if (value := getattr(settings, name)) is not None and not lowest <= value < math.inf
    ]
    return problems + [
        f"{name} is {value!r}: expected {', '.join(map(repr, valid))}"
        for name, valid in choices.items()
        if (value := getattr(settings, name)) is not None and value not in valid
    ]


@dataclass
class DataArguments:
    """Where a data set is, how its cases are divided, and how its scans become slices in [0, 1].

    Raises:
        ValueError: values out of range or contradictory; all of them are named.
    """

    data_dir: str | None = flag(
        None,
        "Folder with data: Synapse's layout, nnU-Net raw, Medical Segmentation Decathlon, images and masks, or a saved "
        "Hugging Face data set. Without data: a synthetic phantom.",
    )
    dataset_name: str | None = flag(None, "Hugging Face data set instead: Hub id or folder.")
    dataset_config_name: str | None = flag(None, "Its configuration.")
    image_column: str | None = flag(None, "Its column of images [image, …].")
    label_column: str | None = flag(None, "Its column of label maps [label, mask, …].")
    case_column: str | None = flag(None, "Its column saying which rows are slices of one case [case, patient_id, …].")
    label_names: list[str] | None = flag(None, "Names of the labels, numbered from 0, where no file names them.")
    preprocessing: str | None = flag(
        None, f"How intensities become [0, 1]: {', '.join(PREPROCESSING)} [by the data: CT, MR or pictures]."
    )
    intensity_window: list[float] | None = flag(None, "LOW HIGH: bounds of a window of your own, instead.")
    orientation: str | None = flag(
        None, "Where the axes of every scan run to before it is cut, e.g. LPS [LPS; the Synapse layout: as it lies]."
    )
    plane: str | None = flag(None, "Slices to cut: axial, coronal or sagittal [axial].")
    context_slices: bool = flag(False, "Neighbouring slices in the channels beside a slice's own, for grey scans.")
    num_folds: int | None = flag(None, "Divide the cases into so many folds, by case; --fold is held out.")
    fold: int | None = flag(None, "Which fold is held out, from 0; also of those an nnU-Net folder declares [0].")
    geometry_tolerance: float = flag(0.1, "How far image and label may lie apart, as a share of a voxel.")
    cache_dir: str | None = flag(None, "Where decoded cases are kept for the next epochs and runs [OUTPUT_DIR/cache].")

    def __post_init__(self) -> None:
        """Check the settings."""
        if problems := self.data_problems():
            raise ValueError("; ".join(problems) + ".")

    def data_problems(self) -> list[str]:
        """Describe every invalid setting of the data; a valid `orientation` becomes upper case."""
        problems = range_problems(self, _LEAST, _CHOICES)
        if self.data_dir is not None and self.dataset_name is not None:
            problems.append("data_dir and dataset_name are both given: expected one of them")
        window = self.intensity_window
        if window is not None and (len(window) != 2 or not window[0] < window[1]):
            problems.append(f"intensity_window is {window}: expected LOW HIGH, e.g. -125 275")
        if self.preprocessing is not None and window is not None:
            problems.append("preprocessing and intensity_window are both given: expected one of them")
        if self.orientation is not None:
            from ..volumes.geometry import check_orientation  # nibabel, which the help of a command doesn't need

            try:
                self.orientation = check_orientation(self.orientation)
            except ValueError as error:
                problems.append(str(error).rstrip("."))
        return problems

    def read_options(self) -> dict[str, Any]:
        """The settings that are arguments of [`read_data`]."""
        names = ("data_dir", "dataset_name", "dataset_config_name", "image_column", "label_column", "case_column")
        options = {name: getattr(self, name) for name in (*names, "label_names", "geometry_tolerance")}
        return options | {"fold": None if self.num_folds else self.fold}


_LEAST = {"num_folds": 2, "fold": 0, "geometry_tolerance": 0}
_CHOICES = {"preprocessing": tuple(PREPROCESSING), "plane": ("axial", "coronal", "sagittal")}
