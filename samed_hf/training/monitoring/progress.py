"""Progress of a training: its log, its trackers, and a bar in a terminal or lines elsewhere."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import psutil
import torch
from tqdm import tqdm

from ...reporting.formatting import format_duration
from ..distributed.logging import get_logger
from ..early_stopping import EarlyStopping
from ..setup import TrainingRun
from .log import LogFile, numbers_of

__all__ = ["Progress", "used_memory"]

logger = get_logger(__name__)

_WIDTH = 100
_LINES, _SECONDS = 20, 60.0  # outside of a terminal: lines over the run, and the longest time between two


class Progress:
    """Writes `training_log.csv`, feeds the trackers and shows the progress; a context manager.

    In a terminal there is a bar, and a few lines above it at each validation. Elsewhere, as in a log file, the first
    and the last step are logged, twenty in between, and one a minute. `first` steps were done before, in a resumed run.
    """

    def __init__(self, run: TrainingRun, first: int) -> None:
        self.run, self.first, self.steps = run, first, run.plan.steps
        self.labels = list(run.model.config.id2label.values())
        self.terminal = sys.stderr.isatty()
        self.started = self.last_line = time.monotonic()
        self.best = EarlyStopping(None)
        self.stack = ExitStack()

    def __enter__(self) -> Progress:
        """Open the log, with the rows of the run so far."""
        if self.run.accelerator.is_main_process:
            for row in self.run.log:
                if row.get("validation_dice") is not None:
                    self.best.add(row["step"], row["validation_dice"])
            path = self.run.output_dir / "training_log.csv"
            self.log = self.stack.enter_context(LogFile(path, self.labels, self.run.log))
            self.bar = self.stack.enter_context(
                tqdm(
                    total=self.steps,
                    initial=self.first,
                    ncols=min(_WIDTH, shutil.get_terminal_size().columns - 1),
                    bar_format="{n_fmt}/{total_fmt}|{bar}| <{remaining} {desc}",
                    disable=not self.terminal,
                    file=sys.stderr,
                )
            )
        return self

    def add(self, row: dict[str, Any]) -> None:
        """Record one optimizer step; `row` has the keys of [`numbers_of`], of which some are optional.

        Required are "step", "learning_rate" and the losses "loss", "cross_entropy" and "dice", means over the step.
        """
        if not self.run.accelerator.is_main_process:
            return
        self.run.log.append(row)
        self.log.add(row)
        numbers = numbers_of(row, self.labels, plain_names=True)
        self.run.accelerator.log({key: value for key, value in numbers.items() if key != "step"}, step=row["step"])
        validated = row.get("validation_dice") is not None
        if self.terminal:
            self.bar.set_description_str(_bar_text(row), refresh=False)
            self.bar.update()
        elif validated or self._is_due(row["step"]):
            self.last_line = time.monotonic()
            logger.info(self._step_lines(row))
        if validated:
            logger.info(self._validation_lines(row))

    def _is_due(self, step: int) -> bool:
        is_end, every = step in (self.first + 1, self.steps), max(1, self.steps // _LINES)
        return is_end or step % every == 0 or time.monotonic() - self.last_line >= _SECONDS

    def _step_lines(self, row: Mapping[str, Any]) -> str:
        """Format a step for a log file, with the losses of the labels on lines of their own."""
        step = row["step"]
        facts = [f"step {step:>{len(str(self.steps))}}/{self.steps}"]
        facts += [f"epoch {row['epoch']:.2f}"] if "epoch" in row else []
        facts.append(f"loss {row['loss']:.4f} (cross-entropy {row['cross_entropy']:.4f}, Dice {row['dice']:.4f})")
        facts.append(f"lr {row['learning_rate']:.2e}")
        more = [f"gradient {row['gradient_norm']:.3g}"] if "gradient_norm" in row else []
        more += [f"{tqdm.format_num(row['samples_per_second'])} slices/s"] if "samples_per_second" in row else []
        more += [f"{row['memory_bytes'] / 1e9:.2f} GB"] if "memory_bytes" in row else []
        more += [f"{row['skipped']} skipped"] if row.get("skipped") else []
        # From the steps since the start, with their validations and checkpoints.
        seconds = (time.monotonic() - self.started) / (step - self.first) * (self.steps - step)
        more.append(f"{format_duration(seconds)} left")
        losses = zip(self.labels, row.get("dice_per_class") or (), strict=False)
        return "\n".join(["  ".join(facts), "    " + "  ".join(more), *_label_lines("Dice losses:", losses)])

    def _validation_lines(self, row: Mapping[str, Any]) -> str:
        score = row["validation_dice"]
        if self.best.add(row["step"], score):
            best = "the best so far"
        else:
            best = "no number" if self.best.score is None else f"best {self.best.score:.4f} at step {self.best.step}"
        scores = (row.get("validation_dice_per_class") or {}).items()
        summary = f"validation at step {row['step']}: Dice {score:.4f}, {best}"
        return "\n".join([summary, *_label_lines("Dice:", scores)])

    def __exit__(self, *_: object) -> None:
        """Close bar and log."""
        self.stack.close()


def used_memory(device: torch.device) -> int:
    """Return the memory in bytes that the training uses: the peak on a GPU, the current resident set on a CPU."""
    if device.type == "cpu":
        return psutil.Process().memory_info().rss
    module = torch.get_device_module(device)
    if hasattr(module, "max_memory_allocated"):
        return module.max_memory_allocated(device)
    return module.current_allocated_memory()  # MPS, which has no peak


def _bar_text(row: Mapping[str, Any]) -> str:
    """Format a step for the bar, the most important numbers first, as tqdm cuts off the end on a narrow terminal."""
    number = tqdm.format_num
    parts = [
        f"loss {row['loss']:.3f} (CE {row['cross_entropy']:.3f} Dice {row['dice']:.3f})",
        f"lr {number(row['learning_rate'])}",
    ]
    parts += [f"{number(row['samples_per_second'])}/s"] if "samples_per_second" in row else []
    parts += [f"grad {row['gradient_norm']:.2g}"] if "gradient_norm" in row else []
    parts += [f"ep {number(row['epoch'])}"] if "epoch" in row else []
    parts += [f"{row['memory_bytes'] / 1e9:.3g}G"] if "memory_bytes" in row else []
    return " ".join(parts)


def _label_lines(head: str, values: Iterable[tuple[str, float | None]]) -> list[str]:
    """Format a number for each label, in lines of at most a hundred columns; a label is never divided."""
    words = [f"{name} {'-' if value is None or math.isnan(value) else f'{value:.3f}'}" for name, value in values]
    if not words:
        return []
    space = "\N{NO-BREAK SPACE}"
    lines = textwrap.wrap(
        "  ".join(word.replace(" ", space) for word in words),
        _WIDTH,
        initial_indent=f"    {head} ",
        subsequent_indent=" " * (5 + len(head)),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(space, " ") for line in lines]
