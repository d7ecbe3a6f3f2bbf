"""What runs in the worker process of a server: files are read, segmented and written there.

A file that crashes a decoder takes this process down, not the server, which starts another one.
"""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from transformers.utils.logging import disable_progress_bar

from ..data.dataset import as_labels, renumber
from ..inference.batching import choose_batch_size, describe_failure
from ..inference.segmenter import Segmenter
from ..inference.shared_batches import segment_volumes
from ..inference.statistics import part_names
from ..reporting.charts import label_colors
from ..utils.console import configure_logging
from ..volumes import (
    InputLimits,
    ScanFile,
    Volume,
    read_scan,
    read_volume,
    reorient,
    same_grid,
    write_labels,
    write_volume,
)
from ..volumes.itk import recode_itk
from .adapters import AdapterPool
from .jobs import Correction, Reply, Request, Statistics, WorkerSettings

__all__ = ["check_scan", "describe", "save_label", "segment", "start"]


logger = logging.getLogger(__name__)

_MOST_SLICES = 8  # in a batch, which is filled up for a request of one slice

_FAULTS = (errno.ENOSPC, errno.EACCES, errno.EIO, errno.EMFILE, errno.EROFS)  # of this machine, not of a file


class _Worker:
    """The state of the process."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.pool = AdapterPool(
            settings.sources,
            max_loaded=settings.max_loaded,
            dtype=settings.dtype,
            base_model_name_or_path=settings.base_model_name_or_path,
        )
        self.batch_sizes: dict[str, int] = {}

    def batch_size(self, name: str, segmenter: Segmenter) -> int:
        """The number of slices in a batch of an adapter, which stays the same as long as the process runs."""
        if name not in self.batch_sizes:
            side = segmenter.processor.image_size
            fitting = min(choose_batch_size(segmenter.models, (side, side)), _MOST_SLICES)
            self.batch_sizes[name] = self.settings.batch_size or fitting
        return self.batch_sizes[name]


_worker: _Worker | None = None


def start(settings: WorkerSettings) -> None:
    """Prepare the process; adapters are loaded when they are first used."""
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    configure_logging(logging.INFO)
    disable_progress_bar()
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    _worker = _Worker(settings)


def _end_with_parent() -> None:
    """End when the server does, also if it was killed."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _running() -> _Worker:
    if _worker is None:
        raise RuntimeError("The worker was not started: call start() first.")
    return _worker


def segment(requests: Sequence[Request]) -> tuple[list[Reply], Statistics]:
    """Segment the scans of requests for one adapter in shared batches, and write their label maps.

    Returns:
        The reply to each request, and the worker's statistics.
    """
    worker, (name,) = _running(), {request.adapter for request in requests}
    try:
        segmenter = worker.pool.get(name)
        batch_size = worker.batch_size(name, segmenter)
    except (ValueError, OSError, ImportError, MemoryError) as error:
        return [Reply(error=describe_failure(error), is_fault=True)] * len(requests), _statistics(worker)
    replies: dict[int, Reply] = {}
    group: dict[int, Volume] = {}
    limits = worker.settings.limits
    for index, request in enumerate(requests):
        try:
            channels = segmenter.processor.num_channels
            group[index] = read_scan(request.scan, num_channels=channels, limits=limits)
        except Exception as error:
            replies[index] = _failed(error, request.scan)
        # Together, the scans in memory have at most as many voxels as one may have, and those of the last one.
        if index == len(requests) - 1 or sum(scan.array.size for scan in group.values()) > limits.voxels:
            found = _segment_group(segmenter, list(group.values()), batch_size, limits)
            for (number, volume), labels in zip(group.items(), found, strict=True):
                replies[number] = _write(segmenter, requests[number], volume, labels)
            group = {}
    return [replies[index] for index in range(len(requests))], _statistics(worker)


def _segment_group(
    segmenter: Segmenter, scans: Sequence[Volume], batch_size: int, limits: InputLimits
) -> Sequence[np.ndarray | Exception]:
    """Segment scans in shared batches; if that fails unexpectedly, one by one, as one of them may be the reason."""
    try:
        return segment_volumes(segmenter, scans, batch_size=batch_size, limits=limits)
    except Exception as error:
        if len(scans) == 1:
            return [error]
        logger.warning("a batch failed (%s): its scans are segmented one by one", describe_failure(error))
    return [_segment_group(segmenter, [scan], batch_size, limits)[0] for scan in scans]


def _write(segmenter: Segmenter, request: Request, volume: Volume, labels: np.ndarray | Exception) -> Reply:
    try:
        if isinstance(labels, Exception):
            raise labels
        names, regions = _label_names(segmenter), segmenter.regions
        # As prediction writes them: the same files.
        colors = label_colors(max(segmenter.num_labels, *regions, 0) + bool(regions))
        write_labels(request.output, labels, volume, names=names, colors=colors)
        if request.dtype is not None or not request.compress:
            recode_itk(request.output, dtype=request.dtype, compress=request.compress)
    except Exception as error:
        return _failed(error, request.scan)
    return Reply(labels=names, voxels={name: int((labels == index).sum()) for index, name in names.items()})


def _label_names(segmenter: Segmenter) -> dict[int, str]:
    """Names of the values of a label map, background left out."""
    return part_names(segmenter.regions, {index: name for index, name in segmenter.id2label.items() if index})


def check_scan(scan: ScanFile, num_channels: int, output: Path | None = None) -> Reply:
    """Read a scan, to know that it can be, and write it as one file if `output` is given."""
    try:
        volume = read_scan(scan, num_channels=num_channels, limits=_running().settings.limits)
        if output is not None:
            write_volume(output, Volume(volume.array, volume.affine))
    except Exception as error:
        return _failed(error, scan)
    return Reply()


def save_label(correction: Correction) -> Reply:
    """Write a corrected label map on its scan's grid, in the axes of the scan's file."""
    limits = _running().settings.limits
    try:
        scan = read_scan(correction.scan, num_channels=correction.num_channels, limits=limits)
        label = read_volume(correction.label, limits=limits)
        if not scan.is_image:
            label = reorient(label, scan.orientation)
        if differs := same_grid(scan, label):
            raise ValueError(f"The label map is on another grid than the image: {differs}.")
        labels = renumber("The label map", as_labels("The label map", label.array), correction.values)
        write_labels(correction.output, labels, scan)
        if correction.image is not None:
            write_volume(correction.image, Volume(scan.array, scan.affine))
    except Exception as error:
        return _failed(error, correction.scan, correction.label)
    values, counts = np.unique(labels, return_counts=True)
    return Reply(voxels=dict(zip(map(str, values.tolist()), counts.tolist(), strict=True)))


def _failed(error: Exception, scan: ScanFile, label: Path | None = None) -> Reply:
    """The reply for a file that can't be read or segmented, without its path."""
    text = describe_failure(error)
    names = {scan.path: "The scan"} | {file: file.name for file in scan.files}
    names |= {} if label is None else {label: "The label map"}
    for path in sorted(names, key=lambda path: -len(str(path))):
        text = text.replace(str(path), names[path]).replace(f"{path.parent}/", "")
    is_fault = not isinstance(error, ValueError | OSError) or getattr(error, "errno", None) in _FAULTS
    return Reply(error=text, is_fault=is_fault)


def describe(name: str) -> tuple[dict[str, Any], Statistics]:
    """Load an adapter and describe it: labels, channels and what else its card states."""
    worker = _running()
    segmenter = worker.pool.get(name)
    about = {
        "labels": {label: index for index, label in sorted(_label_names(segmenter).items())},
        "channels": segmenter.processor.channel_names or [],
        "image_size": segmenter.processor.image_size,
        "models": len(segmenter.models),
        "batch_size": worker.batch_size(name, segmenter),
    }
    return about, _statistics(worker)


def _statistics(worker: _Worker) -> Statistics:
    return {
        "resident_bytes": psutil.Process().memory_info().rss,
        "weight_bytes": worker.pool.weight_bytes,
        "loaded": len(worker.pool.loaded),
        "hits": worker.pool.hits,
        "misses": worker.pool.misses,
    }
