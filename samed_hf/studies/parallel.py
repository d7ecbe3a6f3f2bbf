"""Folds trained at the same time, each in a process of its own."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from ..training.arguments import SamedTrainingArguments
from ..training.distributed.interruption import Interrupted
from ..utils.console import configure_logging
from .cross_validation import train_fold

__all__ = ["train_in_parallel"]

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # of Linux


def train_in_parallel(study: SamedTrainingArguments, folds: Sequence[int], count: int) -> dict[int, str | None]:
    """Train `count` folds at a time, and return the errors of those that failed.

    Each process uses one GPU, or a share of the CPU cores, prints to `fold-K.log`, and ends with this process.
    """
    visible, number = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    devices = visible.split(",")[:number] if visible else [str(index) for index in range(number)]
    if devices and count > len(devices):
        logger.warning(f"num_parallel_folds is {count}: so many folds share {len(devices)} GPUs")
    elif not devices:
        logger.info(
            "note        the folds share the CPU cores: the last bits of results depend on the number of threads"
        )
    context, reasons, directory = multiprocessing.get_context("spawn"), dict[int, str | None](), Path(study.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    slots = context.SimpleQueue()
    for slot in range(count):
        slots.put(slot)
    with ProcessPoolExecutor(count, context, _start, (slots, count, devices, logger.getEffectiveLevel())) as pool:
        jobs = {pool.submit(_train, study, fold): fold for fold in folds}
        logger.info(f"running     {len(jobs)} folds, {count} at a time: {directory}/fold-K.log")
        for job in as_completed(jobs):
            error, fold, name = job.exception(), jobs[job], directory / f"fold-{jobs[job]}"
            reasons[fold] = f"its process ended: {error} ({name}.log)" if error else job.result()
            logger.info(f"{'failed' if reasons[fold] else 'ended':<12}{name}")
    return reasons


def _start(slots: Any, count: int, devices: list[str], level: int) -> None:
    """Give a new process its device and its cores; it ends with its parent, also if that is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    slot = slots.get()
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    else:
        cores = sorted(os.sched_getaffinity(0))
        cores = cores[slot::count] or [cores[slot % len(cores)]]
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(len(cores))
    configure_logging(level)


def _train(study: SamedTrainingArguments, fold: int) -> str | None:
    with open(Path(study.output_dir) / f"fold-{fold}.log", "ab", buffering=0) as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    try:
        return train_fold(study, fold)
    except Interrupted as error:
        os._exit(int(str(error.code)))  # the process must not begin the next fold
