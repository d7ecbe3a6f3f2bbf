"""A training run watched: its log, its trackers, and a bar in a terminal or lines in a file."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import psutil
import torch
from tqdm import tqdm

from ..distributed.logging import get_logger
from ..early_stopping import EarlyStopping
from ..run import TrainingRun
from .log import LogFile, numbers_of, read_log

__all__ = ["Progress", "read_log", "used_memory"]

logger = get_logger(__name__)

_WIDTH = 100
_LINES, _SECONDS = 20, 60.0
"""Without a terminal so many lines are printed over the run, and more where it would be silent for so long."""


class Progress:
    """Writes `training_log.csv`, feeds the trackers and shows how far the run is; a context manager.

    In a terminal there is one bar, and a few lines above it at each validation. Without one, as in a log file, plain
    lines are printed: the first and the last step, twenty on the way, and one a minute.

    Args:
        run: the run.
        first: steps done before, in a run that is continued.
    """

    def __init__(self, run: TrainingRun, first: int) -> None:
        self.run, self.first, self.steps = run, first, run.plan.steps
        self.labels = list(run.model.config.id2label.values())
        self.terminal, self.width = sys.stderr.isatty(), _width()
        self.started = self.told = time.monotonic()
        self.best = EarlyStopping(None)
        self.stack = ExitStack()

    def __enter__(self) -> Progress:
        """Open the log, with the rows of the run so far."""
        if self.run.accelerator.is_main_process:
            for row in self.run.log:
                if row.get("validation_dice") is not None:
                    self.best.add(row["step"], row["validation_dice"])
            self.log = self.stack.enter_context(
                LogFile(self.run.output_dir / "training_log.csv", self.labels, self.run.log)
            )
            self.bar = self.stack.enter_context(self._bar())
        return self

    def _bar(self) -> tqdm:
        return tqdm(
            total=self.steps,
            initial=self.first,
            ncols=self.width,
            bar_format="{n_fmt}/{total_fmt}|{bar}| {desc}",
            disable=not self.terminal,
            file=sys.stderr,
        )

    def add(self, row: dict[str, Any]) -> None:
        """Note one optimizer step.

        Args:
            row: "step", "learning_rate" and the losses "loss", "cross_entropy" and "dice", means over the step; of
                these and of all others those that are there: "epoch", "dice_per_class" (a list of the Dice losses of
                all labels), "gradient_norm", "samples_per_second", "memory_bytes", "skipped" (steps left out so far);
                and where there was a validation "validation_dice" and "validation_dice_per_class" (by a label's name).

        Raises:
            OSError: the log can't be written.
        """
        if not self.run.accelerator.is_main_process:
            return
        self.run.log.append(row)
        self.log.add(row)
        numbers = numbers_of(row, self.labels, plain_names=True)
        self.run.accelerator.log({key: value for key, value in numbers.items() if key != "step"}, step=row["step"])
        if self.terminal:
            self.bar.set_description_str(self._status(row), refresh=False)
            self.bar.update()
        validated = row.get("validation_dice") is not None
        if not self.terminal and (validated or self._speaks(row["step"])):
            self.told = time.monotonic()
            logger.info(self._lines(row))
        if validated:
            logger.info(self._validation(row))

    def _speaks(self, step: int) -> bool:
        every = max(1, self.steps // _LINES)
        ends = step in (self.first + 1, self.steps)
        return ends or step % every == 0 or time.monotonic() - self.told >= _SECONDS

    def _left(self, step: int) -> float:
        """Seconds to the end, by the steps done since the start, their validations and checkpoints among them."""
        return (time.monotonic() - self.started) / (step - self.first) * (self.steps - step)

    def _status(self, row: Mapping[str, Any]) -> str:
        """What stands beside the bar, as short as it can be read; the least important ones go where it is narrow."""
        parts = [
            (5, f"ep {_three(row['epoch'])}" if "epoch" in row else ""),
            (0, f"loss {_four(row['loss'])}"),
            (1, f"(CE {_four(row['cross_entropy'])} Dice {_four(row['dice'])})"),
            (2, f"lr {_short_rate(row['learning_rate'])}"),
            (4, f"grad {_three(row['gradient_norm'])}" if "gradient_norm" in row else ""),
            (3, f"{_three(row['samples_per_second'])}/s" if "samples_per_second" in row else ""),
            (6, f"{_three(row['memory_bytes'] / 1e9)}G" if "memory_bytes" in row else ""),
            (0, f"{_clock(self._left(row['step']))} left"),
        ]
        parts = [part for part in parts if part[1]]
        room = self.width - 2 * len(str(self.steps)) - len("/|| ") - 2
        for least in range(7, 0, -1):
            text = " ".join(text for rank, text in parts if rank < least)
            if len(text) <= room:
                break
        return text

    def _lines(self, row: Mapping[str, Any]) -> str:
        """A step for a log file: all that is known of it, the losses of the labels on lines of their own."""
        facts = [f"step {row['step']:>{len(str(self.steps))}}/{self.steps}"]
        facts += [f"epoch {row['epoch']:.2f}"] if "epoch" in row else []
        facts.append(f"loss {row['loss']:.4f} (cross-entropy {row['cross_entropy']:.4f}, Dice {row['dice']:.4f})")
        facts.append(f"lr {row['learning_rate']:.2e}")
        more = [f"gradient {_three(row['gradient_norm'])}"] if "gradient_norm" in row else []
        more += [f"{_three(row['samples_per_second'])} slices/s"] if "samples_per_second" in row else []
        more += [f"{row['memory_bytes'] / 1e9:.2f} GB"] if "memory_bytes" in row else []
        more += [f"{row['skipped']} skipped"] if row.get("skipped") else []
        more.append(f"{_words(self._left(row['step']))} left")
        losses = zip(self.labels, row.get("dice_per_class") or (), strict=False)
        return "\n".join(["  ".join(facts), "    " + "  ".join(more), *_wrapped("Dice losses:", _named(losses))])

    def _validation(self, row: Mapping[str, Any]) -> str:
        """A validation, told in a terminal and in a file alike."""
        score = row["validation_dice"]
        is_best = self.best.add(row["step"], score)
        best = "the best so far" if is_best else f"best {self.best.score:.4f} at step {self.best.step}"
        if self.best.score is None:
            best = "no number"
        scores = (row.get("validation_dice_per_class") or {}).items()
        return "\n".join(
            [f"validation at step {row['step']}: Dice {score:.4f}, {best}", *_wrapped("Dice:", _named(scores))]
        )

    def __exit__(self, *_: object) -> None:
        """Close bar and log."""
        self.stack.close()


def used_memory(device: torch.device) -> int:
    """Bytes of memory a training takes: the most so far on a GPU, the process's resident set now on the processor."""
    if device.type == "cpu":
        return psutil.Process().memory_info().rss
    module = torch.get_device_module(device)
    if hasattr(module, "max_memory_allocated"):
        return module.max_memory_allocated(device)
    return module.current_allocated_memory()  # Apple's, which keeps no peak


def _width() -> int:
    """Columns of the bar: those of the terminal, at most a hundred; the last one stays free, or some terminals wrap."""
    return max(20, min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns - 1))


def _named(values: Iterable[tuple[str, float | None]]) -> list[str]:
    return [f"{name} {'-' if value is None or math.isnan(value) else f'{value:.3f}'}" for name, value in values]


def _wrapped(head: str, words: list[str]) -> list[str]:
    """Words after a head in lines of at most a hundred columns, each word whole; none without words."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 2 + len(word) <= _WIDTH:
            lines[-1] += f"  {word}"
        else:
            lines.append(f"    {head if not lines else ' ' * len(head)} {word}")
    return lines


def _three(number: float) -> str:
    """Three digits, whole numbers from 100."""
    if not math.isfinite(number):
        return str(number)
    return f"{number:.0f}" if number >= 99.95 else f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def _four(loss: float) -> str:
    return f"{loss:.3f}" if loss < 10 else f"{loss:.2f}"


def _short_rate(rate: float) -> str:
    """1.5e-3 for 0.0015."""
    digits, exponent = f"{rate:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def _clock(seconds: float) -> str:
    """45s, 12m05 or 8h02."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest}s"
    return f"{minutes}m{rest:02}" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}"


def _words(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
