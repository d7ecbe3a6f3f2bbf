"""Requests batched by adapter and run one batch at a time in a worker process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from ..volumes import ScanFile
from . import jobs
from .jobs import Correction, Reply, Request, WorkerSettings

__all__ = ["BusyError", "Engine", "WorkerDiedError"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class BusyError(RuntimeError):
    """As many requests are waiting as the server accepts."""


class WorkerDiedError(RuntimeError):
    """The worker process ended before it replied; another one was started."""


class Engine:
    """Runs requests in the order of their arrival, together with waiting ones for the same adapter.

    No request waits for others to fill a batch: while a batch is computed, those that arrive form the next ones.

    Args:
        settings: of the worker.
        max_waiting: the most requests that wait; more are a [`BusyError`].
        max_batch: the most requests in a batch; 1 computes each alone.
    """

    def __init__(self, settings: WorkerSettings, *, max_waiting: int = 64, max_batch: int = 16) -> None:
        for name, value in (("max_waiting", max_waiting), ("max_batch", max_batch)):
            if value < 1:
                raise ValueError(f"{name} is {value}: expected at least 1 request.")
        self.settings, self.max_waiting, self.max_batch = settings, max_waiting, max_batch
        self.statistics: dict[str, float] = {}
        self.restarts = 0
        self._waiting: deque[tuple[Request, asyncio.Future[Reply]]] = deque()
        self._arrived = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._process: ProcessPoolExecutor | None = None
        self._turn = asyncio.Lock()  # the worker does one thing at a time

    async def __aenter__(self) -> Engine:
        """Start the worker and the loop."""
        self._process = self._new_process()
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stop; waiting requests fail."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
        for _, waiting in self._waiting:
            waiting.cancel()
        if self._process is not None:
            self._process.shutdown(wait=True, cancel_futures=True)

    @property
    def waiting(self) -> int:
        """The number of waiting requests."""
        return len(self._waiting)

    async def segment(self, request: Request) -> Reply:
        """Segment a scan.

        Raises:
            BusyError: too many requests are waiting.
            WorkerDiedError: the worker died with the request.
        """
        if len(self._waiting) >= self.max_waiting:
            raise BusyError(f"{len(self._waiting)} requests are waiting: try again later.")
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        self._arrived.set()
        return await future

    async def describe(self, name: str) -> dict[str, Any]:
        """See [`~samed_hf.serving.worker.describe`]."""
        about, self.statistics = await self._call(jobs.describe, name)
        return about

    async def save_label(self, correction: Correction) -> Reply:
        """See [`~samed_hf.serving.worker.save_label`]."""
        return await self._call(jobs.save_label, correction)

    async def check_scan(self, scan: ScanFile, num_channels: int, output: Path | None = None) -> Reply:
        """See [`~samed_hf.serving.worker.check_scan`]."""
        return await self._call(jobs.check_scan, scan, num_channels, output)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._next_batch()
            if not batch:
                self._arrived.clear()
                continue
            try:
                await self._segment(batch)
            except WorkerDiedError:  # by the scan of one of these requests: the others are not to blame
                for pair in batch:
                    await self._segment([pair])

    async def _segment(self, batch: list[tuple[Request, asyncio.Future[Reply]]]) -> None:
        """Compute one batch and answer its requests; the only error is that the worker died with several."""
        try:
            replies, self.statistics = await self._call(jobs.segment, [request for request, _ in batch])
        except Exception as error:
            if isinstance(error, WorkerDiedError) and len(batch) > 1:
                raise
            for _, failed in batch:
                if not failed.done():
                    failed.set_exception(error)
            return
        for (_, done), reply in zip(batch, replies, strict=True):
            if not done.done():
                done.set_result(reply)

    def _next_batch(self) -> list[tuple[Request, asyncio.Future[Reply]]]:
        """Take the oldest request and others for its adapter; those whose client has gone are dropped."""
        waiting = [pair for pair in self._waiting if not pair[1].done()]
        batch = [pair for pair in waiting if pair[0].adapter == waiting[0][0].adapter][: self.max_batch]
        self._waiting = deque(pair for pair in waiting if pair not in batch)
        return batch

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function in the worker. It has its turn until it ends, also when the caller has left."""
        await self._turn.acquire()
        task = asyncio.ensure_future(self._run_in_worker(function, *arguments))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to see it
        return await asyncio.shield(task)

    async def _run_in_worker(self, function: Callable[..., T], *arguments: Any) -> T:
        assert self._process is not None, "the engine is used as a context manager"
        try:
            return await asyncio.get_running_loop().run_in_executor(self._process, function, *arguments)
        except BrokenProcessPool:
            self.restarts += 1
            logger.warning("the worker process died; another one is started")
            self._process.shutdown(wait=False)
            self._process = self._new_process()
            raise WorkerDiedError("The worker process died with this request: send it again.") from None
        finally:
            self._turn.release()

    def _new_process(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=_start, initargs=(self.settings,)
        )


def _start(settings: WorkerSettings) -> None:
    """Start the worker; Ctrl-C ends it by the server, which finishes its requests first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jobs.start(settings)
