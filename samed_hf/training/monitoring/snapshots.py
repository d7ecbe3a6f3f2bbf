"""Images of a few slices at every validation: image, truth and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...reporting.overlays import OverlayRow, draw_rows
from ...reporting.preview import representative_slices
from ...scoring.metrics import binary_dice
from ...transforms.slicing import rows_point_up
from ...utils.text import printable
from ..distributed.logging import get_logger
from ..setup import TrainingRun
from ..validation import validation_cases

__all__ = ["ValidationSnapshots"]

logger = get_logger(__name__)


class ValidationSnapshots:
    """Draws the same few slices at every validation; all processes choose the same ones.

    The slices with most labels are drawn, from the [`validation_cases`] with most labels.

    Args:
        run: the run.
        count: number of slices; 0 draws nothing.

    Attributes:
        slices: case and index of each slice; fewer than `count` if the cases have fewer.
        cases: names of these cases.
    """

    def __init__(self, run: TrainingRun, count: int) -> None:
        self.run = run
        self.slices = _choose(run, count)
        self.cases = list(dict.fromkeys(name for name, _ in self.slices))
        self._rows = _read_slices(run, self.slices) if run.accelerator.is_main_process else {}

    def draw(self, step: int, predictions: Mapping[str, np.ndarray]) -> Path | None:
        """Write `OUTPUT_DIR/watch/step-000123.png`, and log it to the trackers that support images.

        Args:
            step: optimizer steps done.
            predictions: label maps of shape `(slices, height, width)` by case; other cases are not drawn.

        Returns:
            Path of the image; `None` on processes other than the main one, without predictions, and if the file can't
            be written, which is logged and does not stop the training.
        """
        if not self.run.accelerator.is_main_process:
            return None
        rows = [self._row(name, index, predictions[name]) for name, index in self.slices if name in predictions]
        if not rows:
            return None
        path = self.run.output_dir / "watch" / f"step-{step:06d}.png"
        title = f"validation slices after {step} of {self.run.plan.steps} steps"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_rows(path, rows, self.run.model.config.id2label, title=title)
        except OSError as error:
            logger.warning(f"the image {path} couldn't be written ({error.strerror}). The training continues.")
            return None
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        for tracker in self.run.accelerator.trackers:
            _log_image(tracker, pixels, step)
        return path

    def _row(self, name: str, index: int, prediction: np.ndarray) -> OverlayRow:
        expected = self.run.store.label(name).shape
        if prediction.shape != expected:
            raise ValueError(f"predictions[{name!r}] has the shape {prediction.shape}: expected {expected}.")
        row, found = self._rows[name, index], _upright(self.run, prediction[index])
        return row._replace(prediction=found, result=f"prediction, Dice {_dice(row.label, found)}")


def _read_slices(run: TrainingRun, slices: Sequence[tuple[str, int]]) -> dict[tuple[str, int], OverlayRow]:
    """Read image and truth of each slice; all channels of a colour image, otherwise the first."""
    rows = {}
    for name in dict.fromkeys(name for name, _ in slices):
        case = run.store.case(name)
        aspect = 1.0 if case.spacing is None else case.spacing[1] / case.spacing[2]
        for index in (index for other, index in slices if other == name):
            image = case.image[index]
            if image.ndim == 3:
                image = np.moveaxis(image, 0, 2) if run.data.is_2d and len(image) == 3 else image[0]
            label = case.label[index]
            rows[name, index] = OverlayRow(
                image=_upright(run, image),
                label=_upright(run, label),
                prediction=_upright(run, label),
                name=f"{printable(name)}, slice {index}",
                aspect=aspect,
            )
    return rows


def _upright(run: TrainingRun, array: np.ndarray) -> np.ndarray:
    """Copy a slice of a scan in radiological orientation; slices of 2-D data keep theirs."""
    return (array[::-1] if not run.data.is_2d and rows_point_up(run.processor) else array).copy()


def _choose(run: TrainingRun, count: int) -> list[tuple[str, int]]:
    """Choose slices of the cases with most labels; several of one case are spread over it."""
    names = validation_cases(run)
    if not names or not count:
        return []
    variety = {name: len(np.unique(run.store.label(name))) for name in names}
    chosen: Sequence[str] = sorted(names, key=lambda name: -variety[name])[:count]
    share, rest = divmod(count, len(chosen))
    slices = []
    for index, name in enumerate(chosen):
        positions = representative_slices(run.store.label(name), share + (index < rest))
        slices += [(name, position) for position in positions]
    return slices


def _dice(label: np.ndarray, prediction: np.ndarray) -> str:
    """Format the mean Dice of the labels in truth or prediction."""
    present = [value for value in np.union1d(label, prediction) if value]
    if not present:
        return "-"
    return f"{np.mean([binary_dice(prediction == value, label == value) for value in present]):.2f}"


def _log_image(tracker: Any, pixels: np.ndarray, step: int) -> None:
    """Log an image of shape `(height, width, 3)`, uint8, to a tracker, whose methods differ."""
    name = "validation slices"
    if tracker.name == "trackio":
        import trackio  # Accelerate does not wrap its images

        tracker.log({name: trackio.Image(pixels)}, step=step)
    elif tracker.name == "tensorboard":
        tracker.log_images({name: pixels[None]}, step=step, dataformats="NHWC")
    elif tracker.name in ("aim", "clearml"):
        tracker.log_images({name: pixels}, step=step)
    elif hasattr(tracker, "log_images"):
        tracker.log_images({name: [pixels]}, step=step)
