"""SIGTERM and SIGINT end a run after the current step, so that it can be resumed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

__all__ = ["Interrupted", "Interruption", "end_distributed", "outlive_signals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_WORKERS_OUTLIVE = 20  # seconds
_Result = TypeVar("_Result")


class Interrupted(SystemExit):
    """Raised when a run has ended after a signal and can be resumed.

    The exit status is 128 plus the signal's number, as in a shell; to a scheduler, 0 would mean a complete training.
    """


class _Cancelled(BaseException):
    """Raised by the signal handler during [`Interruption.attempt`]."""


class Interruption:
    """A context in which SIGTERM and SIGINT request the end of the run; a second signal ends the process at once.

    Launchers forward a signal that the terminal or the scheduler has already sent to all processes, so signals within
    `apart` seconds of the first are the same request. Python handles signals only in the main thread; in others the
    context has no effect. `signal` is the number of the first signal, 0 without one.
    """

    def __init__(self, accelerator: Accelerator, *, apart: float = 2.0) -> None:
        self.accelerator, self.apart, self.signal = accelerator, apart, 0
        self._agreed, self._at, self._cancellable = False, 0.0, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        """Install the signal handlers."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the earlier signal handlers."""
        for number, before in self._before.items():
            signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            self.signal, self._at = number, time.monotonic()
            # print isn't reentrant, and the signal may interrupt one.
            os.write(2, f"\n{signal.Signals(number).name}: ends after this step; once more: at once\n".encode())
            if self._cancellable:
                self._cancellable = False
                raise _Cancelled
        elif time.monotonic() - self._at >= self.apart:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @property
    def requested(self) -> bool:
        """Whether a process received a signal; all processes must read it at the same point."""
        if not self._agreed:
            requested = self.signal
            if self.accelerator.num_processes > 1:
                mine = torch.tensor([requested], device=self.accelerator.device)
                requested = int(self.accelerator.gather(mine).max())
            # A signal received during the collective must not be overwritten; the next call returns it.
            if requested:
                self.signal, self._agreed = requested, True
                self._at = self._at or time.monotonic()
        return self._agreed

    def attempt(self, action: Callable[[], _Result]) -> _Result | None:
        """Call a long, repeatable action that waits for no other process, and return its result.

        A signal to this process before its end cancels it; the result is then `None`.
        """
        self._cancellable = True
        try:
            result = None if self.signal else action()
            self._cancellable = False
        except _Cancelled:
            return None
        except BaseException:
            self._cancellable = False
            raise
        return result

    def end(self) -> Interrupted:
        """Return the exception to raise after the checkpoint is saved."""
        return Interrupted(128 + self.signal)


def outlive_signals(_: int = 0) -> None:
    """Let a data loader's worker survive signals that are sent to all processes (a `worker_init_fn`)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Only for some seconds, as a parent ends a stuck worker by SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_WORKERS_OUTLIVE))


def end_distributed(accelerator: Accelerator, keep_processes: bool = False) -> None:
    """Close the trackers and, unless it is kept, the process group.

    Gloo's threads need Python's lock to release the tensors of the last collective, while the group's destructor holds
    the lock and waits for the threads. A short sleep before it prevents this deadlock.
    """
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        time.sleep(0.2)
    if keep_processes:
        for tracker in accelerator.trackers:
            tracker.finish()
    else:
        accelerator.end_training()
