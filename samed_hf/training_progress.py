"""A training run watched: its log file, its trackers, and a bar in a terminal or lines in a file."""

from __future__ import annotations

import csv
import math
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .training_setup import TrainingRun

__all__ = ["Progress", "read_log"]

_FIELDS = ("step", "epoch", "learning_rate", "loss", "cross_entropy", "dice", "gradient_norm", "validation_dice")


class Progress:
    """Writes `training_log.csv`, feeds the trackers and shows how far the run is; a context manager.

    Args:
        run: the run.
        first: steps done before, in a run that is continued.
    """

    def __init__(self, run: TrainingRun, first: int) -> None:
        self.run, self.steps = run, run.plan.steps
        self.path = run.output_dir / "training_log.csv"
        self.is_main = run.accelerator.is_main_process
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=self.steps, initial=first, unit="step", ncols=100, disable=not (self.is_main and self.terminal)
        )
        self.started, self.first = time.monotonic(), first

    def __enter__(self) -> Progress:
        """Open the log, with the rows of the run so far."""
        if self.is_main:
            self.file = self.path.open("w", newline="", encoding="utf-8")
            self.writer = csv.DictWriter(self.file, _FIELDS, restval="")
            self.writer.writeheader()
            self.writer.writerows(self.run.log)
        return self

    def add(self, row: dict[str, Any]) -> None:
        """Note one optimizer step: "step", "learning_rate", the losses, and "validation_dice" where there was one."""
        self.run.accelerator.log({key: value for key, value in row.items() if key != "step"}, step=row["step"])
        if not self.is_main:
            return
        self.run.log.append(row)
        self.writer.writerow(row)
        self.file.flush()
        self.bar.set_postfix_str(f"loss {row['loss']:.4f}, lr {row['learning_rate']:.2e}", refresh=False)
        self.bar.update()
        every = max(1, self.steps // 20)
        if "validation_dice" in row or (not self.terminal and (row["step"] % every == 0 or row["step"] == 1)):
            self.run.say(self._line(row))

    def _line(self, row: dict[str, Any]) -> str:
        done = row["step"] - self.first
        left = (time.monotonic() - self.started) / done * (self.steps - row["step"])
        validation = f", validation DSC {row['validation_dice']:.4f}" if "validation_dice" in row else ""
        return (
            f"step {row['step']:>5}/{self.steps}  epoch {row['epoch']:.2f}  loss {row['loss']:.4f} (cross-entropy "
            f"{row['cross_entropy']:.4f}, Dice {row['dice']:.4f})  lr {row['learning_rate']:.2e}{validation}, "
            f"{left:.0f} s left"
        )

    def __exit__(self, *_: object) -> None:
        """Close bar and log."""
        self.bar.close()
        if self.is_main:
            self.file.close()


def read_log(path: Path, last_step: int) -> list[dict[str, Any]]:
    """The rows of an interrupted run up to the step it continues from; none where there is no log."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [row | {"step": int(row["step"])} for row in rows if row.get("step", math.inf) <= last_step]
