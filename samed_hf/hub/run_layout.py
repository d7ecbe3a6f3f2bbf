"""Names of the files and directories of a training run."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

__all__ = ["RunLayout", "read_json"]

_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")


def _path(name: str, *, reused: bool = False) -> Any:
    """A path in the run's directory; a new run in the same directory archives it unless it is `reused`."""
    return field(init=False, metadata={"name": name, "reused": reused})


@dataclass(frozen=True)
class RunLayout:
    """The paths of a training run in its `output_dir`, which is also the directory of its adapter.

    Attributes:
        directory: the run's directory.
        adapter_config, adapter_weights, config, processor_config: the adapter, as `save_pretrained` writes it.
        card: the model card.
        settings: the settings, versions and cases of the run.
        metrics, metrics_table: the scores, as JSON and as a table.
        log: one row for each optimizer step.
        curve, overlay, examples: images of the losses, of a scored case, and of single slices.
        report: the HTML page of the run.
        best: adapter of the best validation.
        snapshots: images of the validations.
        base_model: base model of random weights, where none is given.
        cache: decoded cases.
        phantom: synthetic patients, where no data is given.
        tracker_logs: event files of the trackers.
    """

    directory: Path
    adapter_config: Path = _path("adapter_config.json")
    adapter_weights: Path = _path("adapter_model.safetensors")
    config: Path = _path("config.json")
    processor_config: Path = _path("preprocessor_config.json")
    card: Path = _path("README.md")
    settings: Path = _path("training_settings.json")
    metrics: Path = _path("metrics.json")
    metrics_table: Path = _path("metrics.csv")
    log: Path = _path("training_log.csv")
    curve: Path = _path("training_curve.png")
    overlay: Path = _path("overlay.png")
    examples: Path = _path("examples")
    report: Path = _path("training_report.html")
    best: Path = _path("best")
    snapshots: Path = _path("watch")
    base_model: Path = _path("base_model", reused=True)
    cache: Path = _path("cache", reused=True)
    phantom: Path = _path("phantom", reused=True)
    tracker_logs: Path = _path("runs", reused=True)

    def __post_init__(self) -> None:
        """Make the paths."""
        object.__setattr__(self, "directory", Path(self.directory))
        for item in fields(self)[1:]:
            object.__setattr__(self, item.name, self.directory / item.metadata["name"])

    def checkpoint(self, step: int) -> Path:
        """Directory of the checkpoint after `step` optimizer steps."""
        return self.directory / f"checkpoint-{step}"

    def checkpoints(self) -> dict[int, Path]:
        """The existing checkpoints by their optimizer steps, in ascending order."""
        checkpoints = {int(match[1]): path for path in self.directory.glob("checkpoint-*") if (match := _match(path))}
        return dict(sorted(checkpoints.items()))

    def snapshot(self, step: int) -> Path:
        """Image of the validation after `step` optimizer steps."""
        return self.snapshots / f"step-{step:06d}.png"

    def products(self) -> list[Path]:
        """The existing files and directories that belong to one run and not to the next one in the directory."""
        paths = [getattr(self, item.name) for item in fields(self)[1:] if not item.metadata["reused"]]
        return [path for path in [*paths, *self.checkpoints().values()] if path.exists()]

    def next_archive(self) -> Path:
        """The first `earlier-N` that does not exist, for the products of an earlier run."""
        number = 1
        while (path := self.directory / f"earlier-{number}").exists():
            number += 1
        return path


def _match(path: Path) -> re.Match[str] | None:
    return _CHECKPOINT.match(path.name)


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """The content of one of the files; empty if it does not exist and is not required."""
    return json.loads(path.read_text(encoding="utf-8")) if required or path.is_file() else {}
