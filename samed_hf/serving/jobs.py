"""What a server and its worker process tell each other; importing it imports no model library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..volumes import InputLimits, ScanFile
from ..volumes.registry import suffix_of

__all__ = [
    "Correction",
    "Reply",
    "Request",
    "WorkerSettings",
    "check_scan",
    "describe",
    "name_adapters",
    "save_label",
    "segment",
    "start",
]

Statistics = dict[str, float]
"""Of the worker: resident and weight bytes, adapters loaded, and how often one was or wasn't."""


@dataclass(frozen=True)
class WorkerSettings:
    """The arguments of [`AdapterPool`], and how scans are segmented.

    Attributes:
        batch_size: slices through a model at once; `None` chooses at most 8, by the free memory when an adapter is
            first used.
        limits: of a scan; by default `InputLimits.served()`.
        num_threads: of PyTorch; by default its own number.
    """

    sources: dict[str, str]
    max_loaded: int = 16
    dtype: str = "float32"
    base_model_name_or_path: str | None = None
    batch_size: int | None = None
    limits: InputLimits = field(default_factory=InputLimits.served)
    num_threads: int | None = None


@dataclass(frozen=True)
class Request:
    """A scan to segment with an adapter, and the file for its label map.

    Attributes:
        dtype: data type of an NRRD or MetaImage label map, e.g. "uint16"; by default the smallest.
        compress: whether these are compressed.
    """

    adapter: str
    scan: ScanFile
    output: Path
    dtype: str | None = None
    compress: bool = True

    @property
    def suffix(self) -> str:
        """Of the label map's file."""
        return suffix_of(self.output)


@dataclass(frozen=True)
class Correction:
    """A label map of a scan to check and to write: `values` is the label of each of the file's values.

    `image` is a file to write the scan to.
    """

    scan: ScanFile
    label: Path
    output: Path
    values: dict[int, int]
    num_channels: int = 1
    image: Path | None = None

    @property
    def suffix(self) -> str:
        """Of the label map's file."""
        return suffix_of(self.output)


@dataclass(frozen=True)
class Reply:
    """The outcome of a request: `labels`, the names of the label map's values, or `error`."""

    labels: dict[int, str] = field(default_factory=dict)
    voxels: dict[str, int] = field(default_factory=dict)  # of each label
    error: str | None = None
    is_fault: bool = False  # whether the server is to blame for the error, not the scan


# Each runs in the worker process, which imports the libraries of models.


def start(settings: WorkerSettings) -> None:
    """See [`~samed_hf.serving.worker.start`]."""
    from . import worker

    worker.start(settings)


def segment(requests: Sequence[Request]) -> tuple[list[Reply], Statistics]:
    """See [`~samed_hf.serving.worker.segment`]."""
    from . import worker

    return worker.segment(requests)


def describe(name: str) -> tuple[dict[str, Any], Statistics]:
    """See [`~samed_hf.serving.worker.describe`]."""
    from . import worker

    return worker.describe(name)


def save_label(correction: Correction) -> Reply:
    """See [`~samed_hf.serving.worker.save_label`]."""
    from . import worker

    return worker.save_label(correction)


def check_scan(scan: ScanFile, num_channels: int, output: Path | None = None) -> Reply:
    """See [`~samed_hf.serving.worker.check_scan`]."""
    from . import worker

    return worker.check_scan(scan, num_channels, output)


def name_adapters(given: list[str]) -> dict[str, str]:
    """Name each adapter for its requests: `NAME=SOURCE`, or by default the last part of the directory or Hub id.

    Raises:
        ValueError: two have one name, or a name contains other characters than letters, digits, ".", "_" and "-".
    """
    named: dict[str, str] = {}
    for text in given:
        name, equals, source = text.partition("=")
        source = source if equals else text
        name = name if equals else Path(source).resolve().name if Path(source).is_dir() else source.rpartition("/")[2]
        if not source or not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ValueError(
                f"ADAPTER is {text!r}: expected a directory or Hub id whose last part has only letters, digits, '.', "
                "'_' and '-', or NAME=SOURCE."
            )
        if named.setdefault(name, source) != source:
            raise ValueError(f"{named[name]!r} and {source!r} are both named {name!r}: give NAME=SOURCE for one.")
    return named
