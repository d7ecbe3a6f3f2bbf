"""The settings that select and cut the data, as command-line flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..transforms.intensity import PREPROCESSING
from ..utils.settings import find_problems, setting

__all__ = ["DataArguments"]

_ALTERNATIVES = (
    *(("data_dir", "dataset_name"), ("num_folds", "splits"), ("num_train_cases", "train_fraction")),
    *(("preprocessing", "intensity_window"), ("channels", "channel_projection")),
)


@dataclass
class DataArguments:
    """Where the data are, and how scans become slices; a ValueError names all values out of range."""

    data_dir: list[str] | str | None = setting(
        None,
        "Directory of the data in any known layout, or a listing (cases.csv, .tsv, .jsonl, .json); several of the same "
        "labels are concatenated. Without data: a synthetic phantom.",
        private=True,
    )
    dataset_name: str | None = setting(
        None, "Hugging Face data set instead of data_dir: Hub id or directory.", private=True
    )
    dataset_config_name: str | None = setting(None, "Configuration of the Hugging Face data set.")
    image_column: str | None = setting(None, "Its or a listing's column of images, or the kind, e.g. T1w [image, …].")
    label_column: str | None = setting(None, "Its or a listing's column of label maps [label, mask, …].")
    split_column: str | None = setting(None, "A listing's column of splits [split, set, …].")
    case_column: str | None = setting(None, "Its column of case names, one for each slice [case, patient_id, …].")
    label_names: list[str] | None = setting(None, "Names of the labels, numbered from 0, where no file has them.")
    preprocessing: str | None = setting(
        None,
        f"How intensities are scaled to [0, 1]: {', '.join(PREPROCESSING)} [by the data: CT, MR or 8-bit images].",
        choices=tuple(PREPROCESSING),
        resume=True,
    )
    intensity_window: list[float] | None = setting(None, "LOW HIGH: bounds of the window, instead.", resume=True)
    orientation: str | None = setting(
        None, "Orientation of all scans before they are cut, e.g. LPS [LPS; Synapse's layout: unchanged].", resume=True
    )
    plane: str | None = setting(
        None,
        "Plane of the slices: axial, coronal or sagittal; all: an adapter for each, and their ensemble [axial].",
        choices=("axial", "coronal", "sagittal", "all"),
        resume=True,
    )
    context_slices: bool = setting(False, "Add the two neighbouring slices as channels, for grey scans.", resume=True)
    channels: str | None = setting(
        None, "A,B,C: one to three channels to use, by name or by number from 0, in this order [all].", resume=True
    )
    channel_projection: bool = setting(
        False, "Learn a 1×1 projection of all channels to three, as a part of the adapter.", resume=True
    )
    num_folds: int | None = setting(
        None, "Divide the cases into so many folds; --fold is held out.", minimum=2, resume=True
    )
    splits: str | None = setting(
        None, "File of the folds instead, as nnU-Net's splits_final.json; --fold is held out.", private=True
    )
    fold: int | None = setting(
        None, "Fold that is held out, from 0; also of those that nnU-Net's layout declares [0].", minimum=0, resume=True
    )
    num_train_cases: int | None = setting(
        None, "Train on so many of the training cases; fewer are a subset of more [all].", minimum=1, resume=True
    )
    train_fraction: float | None = setting(None, "Share of them instead, from 0 to 1 [1].", resume=True)
    geometry_tolerance: float = setting(
        0.1, "Largest distance between the grids of image and label, as a share of a voxel.", minimum=0
    )
    cache_dir: str | None = setting(None, "Directory of decoded cases [OUTPUT_DIR/cache].", private=True)

    def __post_init__(self) -> None:
        if isinstance(self.data_dir, list) and len(self.data_dir) == 1:
            self.data_dir = self.data_dir[0]
        if problems := self.find_problems():
            raise ValueError("; ".join(problems) + ".")

    @property
    def uses_phantom(self) -> bool:
        """Whether no data are given, so that a synthetic phantom is used."""
        return self.data_dir is None and self.dataset_name is None

    def read_options(self) -> dict[str, Any]:
        """The settings that are arguments of [`read_data`]; a declared fold is not read if others are given."""
        names = ("data_dir", "dataset_name", "dataset_config_name", "image_column", "label_column", "split_column")
        options = {name: getattr(self, name) for name in (*names, "case_column", "label_names", "geometry_tolerance")}
        return options | {"fold": None if self.num_folds or self.splits else self.fold}

    def find_problems(self) -> list[str]:
        """One phrase for each bad value."""
        problems = find_problems(self)
        for first, second in _ALTERNATIVES:
            if getattr(self, first) not in (None, False) and getattr(self, second) not in (None, False):
                problems.append(f"{first} and {second} are both given: expected one of them")
        if self.train_fraction is not None and not 0 < self.train_fraction <= 1:
            problems.append(f"train_fraction is {self.train_fraction}: expected a share above 0 and up to 1, e.g. 0.5")
        window = self.intensity_window
        if window is not None and (len(window) != 2 or not window[0] < window[1]):
            problems.append(f"intensity_window is {window}: expected LOW HIGH, e.g. -125 275")
        if self.orientation is not None:
            from ..volumes.geometry import check_orientation  # imports nibabel, which takes half a second

            try:
                self.orientation = check_orientation(self.orientation)
            except ValueError as error:
                problems.append(str(error).rstrip("."))
        return problems
