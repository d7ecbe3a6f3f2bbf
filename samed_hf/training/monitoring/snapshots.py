"""Images of a few slices at every validation: image, truth and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...data.dataset import IGNORED_LABEL
from ...reporting.overlays import OverlayRow, draw_rows
from ...reporting.preview import representative_slices
from ...scoring.metrics import binary_dice, class_mask, drop_ignored
from ...transforms.slicing import rows_point_up
from ...utils.text import printable
from ..distributed.logging import get_logger
from ..setup import TrainingRun
from ..validation import scored_labels

__all__ = ["ValidationSnapshots"]

logger = get_logger(__name__)


class ValidationSnapshots:
    """Draws the same `count` slices at every validation; all processes choose the same ones.

    The slices with most labels are drawn, from the cases with most labels that are scored. `slices` are pairs of case
    and index, `cases` the names of the cases.
    """

    def __init__(self, run: TrainingRun, count: int) -> None:
        self.run = run
        self.slices = _choose(run, count)
        self.cases = list(dict.fromkeys(name for name, _ in self.slices))

    def draw(self, step: int, predictions: Mapping[str, np.ndarray]) -> Path | None:
        """Write `OUTPUT_DIR/watch/step-000123.png`, and log it to the trackers that support images.

        `predictions` are label maps of shape `(slices, height, width)` by case; other cases are not drawn. `None` on
        processes other than the main one, without predictions, and if the file can't be written, which is logged and
        does not stop the training.
        """
        if not self.run.accelerator.is_main_process:
            return None
        rows = [row for name in self.cases if name in predictions for row in self._rows(name, predictions[name])]
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
        with Image.open(path, formats=("PNG",)) as image:
            pixels = np.asarray(image.convert("RGB"))
        for tracker in self.run.accelerator.trackers:
            _log_image(tracker, pixels, step)
        return path

    def _rows(self, name: str, prediction: np.ndarray) -> list[OverlayRow]:
        """Return the slices of a case; all channels of a colour image, otherwise the first."""
        case, run, rows = self.run.store.case(name), self.run, []
        if prediction.shape != case.label.shape:
            raise ValueError(f"predictions[{name!r}] has the shape {prediction.shape}: expected {case.label.shape}.")
        aspect = 1.0 if case.spacing is None else case.spacing[1] / case.spacing[2]
        for index in (index for other, index in self.slices if other == name):
            image = case.image[index]
            if image.ndim == 3:
                image = np.moveaxis(image, 0, 2) if run.data.is_2d and len(image) == 3 else image[0]
            image, label, found = (_upright(run, array) for array in (image, case.label[index], prediction[index]))
            if run.data.has_ignored:
                found, label = drop_ignored(found, label, IGNORED_LABEL)
            masks = [[class_mask(array, one) for array in (found, label)] for one in scored_labels(run).values()]
            dice = [binary_dice(*pair) for pair in masks if pair[0].any() or pair[1].any()]
            result = f"prediction, Dice {f'{np.mean(dice):.2f}' if dice else '-'}"
            rows.append(OverlayRow(image, label, found, f"{printable(name)}, slice {index}", result, aspect))
        return rows


def _upright(run: TrainingRun, array: np.ndarray) -> np.ndarray:
    """Copy a slice of a scan in radiological orientation; slices of 2-D data keep theirs."""
    return (array[::-1] if not run.data.is_2d and rows_point_up(run.processor) else array).copy()


def _choose(run: TrainingRun, count: int) -> list[tuple[str, int]]:
    """Choose slices of the cases with most labels; several of one case are spread over it."""
    names = run.data.selection
    if not names or not count:
        return []
    chosen = sorted(names, key=lambda name: -len(np.unique(run.store.label(name))))[:count]
    share, rest = divmod(count, len(chosen))
    slices = []
    for index, name in enumerate(chosen):
        positions = representative_slices(run.store.label(name), share + (index < rest))
        slices += [(name, position) for position in positions]
    return slices


def _log_image(tracker: Any, pixels: np.ndarray, step: int) -> None:
    """Log an image of shape `(height, width, 3)`, uint8, to a tracker, whose methods differ."""
    name = "validation slices"
    if tracker.name == "trackio":
        import trackio  # Accelerate does not wrap its images

        tracker.log({name: trackio.Image(pixels)}, step=step)
    elif tracker.name == "tensorboard":
        tracker.log_images({name: pixels[None]}, step=step, dataformats="NHWC")
    elif hasattr(tracker, "log_images"):
        tracker.log_images({name: pixels if tracker.name in ("aim", "clearml") else [pixels]}, step=step)
