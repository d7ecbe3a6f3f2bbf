"""Cases decoded once and kept on disk, memory-mapped, so that no later epoch decodes again."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..model.image_processing_samed import SamedImageProcessor
from ..transforms.slicing import SliceStack
from ..utils.atomic import atomic_directory
from ..utils.console import ProgressCallback
from ..volumes.file_checks import NotFiniteError
from .dataset import Case, CaseDataset

__all__ = ["CaseStore"]

_VERSION = 2
_OPEN = 64  # each open case holds two file handles


class CaseStore:
    """The cases of a data set as memory-mapped arrays, cut into slices as a processor defines.

    Stored are the files' own intensities with the bounds that become 0 and 1. A case is decoded again when one of its
    files, or what the processor does to it, has changed.

    Args:
        data: the data set.
        processor: cuts and scales the scans.
        folder: directory of the arrays, created if missing; several runs can share it.
    """

    def __init__(self, data: CaseDataset, processor: SamedImageProcessor, folder: Path) -> None:
        self.data, self.processor, self.folder = data, processor, Path(folder)
        self._opened: OrderedDict[str, tuple[SliceStack, np.ndarray, dict[str, Any]]] = OrderedDict()
        self._directories: dict[str, Path] = {}
        self._counts: dict[str, int] = {}

    def prepare(
        self, names: Sequence[str], progress: ProgressCallback | None = None, *, dispensable: Collection[str] = ()
    ) -> dict[str, str]:
        """Decode the cases that are not cached yet.

        Args:
            names: of the cases.
            progress: called after each case.
            dispensable: cases that are left out if their intensities aren't finite.

        Returns:
            The error of each case left out, by name.

        Raises:
            ValueError: unreadable cases; the first is described, the others are counted.
        """
        failed: list[Exception] = []
        missing: dict[str, str] = {}
        for done, name in enumerate(names, 1):
            try:
                if not self.holds(name):
                    self._decode(name)
            except (ValueError, FileNotFoundError) as error:
                if isinstance(error, NotFiniteError) and name in dispensable:
                    missing[name] = str(error)
                else:
                    failed.append(error)
            if progress is not None:
                progress(done, len(names))
        if failed:
            others = f" ({len(failed) - 1} other cases can't be read either)" if len(failed) > 1 else ""
            raise ValueError(f"{failed[0]}{others}")
        return missing

    def holds(self, name: str) -> bool:
        """Whether a case is decoded."""
        return (self._directory(name) / "case.json").is_file()

    def slices(self, name: str) -> SliceStack:
        """The slices of a case, scaled when they are read."""
        return self._open(name)[0]

    def label(self, name: str) -> np.ndarray:
        """The labels of a case, `(slices, height, width)`, memory-mapped."""
        return self._open(name)[1]

    def num_slices(self, name: str) -> int:
        """How many slices a case has."""
        if name not in self._counts:
            self._counts[name] = self._open(name)[2]["slices"]
        return self._counts[name]

    def case(self, name: str) -> Case:
        """A case in memory, its intensities in [0, 1]."""
        stack, label, about = self._open(name)
        spacing = about["spacing"]
        return Case(name, stack.scaled(), np.asarray(label), None if spacing is None else tuple(spacing))

    def _directory(self, name: str) -> Path:
        if name not in self._directories:
            processor = self.processor
            how = [processor.orientation, processor.axis_order, processor.intensity_window, processor.percentiles]
            source = self.data.sources[name]
            numbers = [sorted(self.data.id2label), *(getattr(source, of, None) for of in ("values", "num_channels"))]
            key = json.dumps([_VERSION, name, how, numbers, source.cache_key()])
            self._directories[name] = self.folder / hashlib.sha256(key.encode()).hexdigest()[:24]
        return self._directories[name]

    def _decode(self, name: str) -> None:
        raw = self.data.read_raw(name, self.processor)
        about = {
            "name": name,
            "slices": len(raw.label),
            "spacing": raw.spacing,
            "rescaled": raw.rescaled,
            "bounds": self.data.bounds(raw, self.processor),
        }
        path = self._directory(name)
        # Another run that shares the cache may have decoded the case meanwhile, and read it.
        with atomic_directory(path, replace=path.exists()) as directory:
            np.save(directory / "image.npy", np.ascontiguousarray(raw.image))
            np.save(directory / "label.npy", np.ascontiguousarray(raw.label))
            (directory / "case.json").write_text(json.dumps(about), encoding="utf-8")

    def _open(self, name: str) -> tuple[SliceStack, np.ndarray, dict[str, Any]]:
        if name in self._opened:
            self._opened.move_to_end(name)
            return self._opened[name]
        directory = self._directory(name)
        try:
            about = json.loads((directory / "case.json").read_text(encoding="utf-8"))
            image, label = (np.load(directory / f"{part}.npy", mmap_mode="r") for part in ("image", "label"))
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"The decoded case {name} in {directory} can't be read ({reason}): delete it.") from error
        stack = SliceStack(image, self.processor, bounds=about["bounds"], rescaled=about["rescaled"])
        self._opened[name] = stack, label, about
        if len(self._opened) > _OPEN:
            self._opened.popitem(last=False)
        return self._opened[name]
