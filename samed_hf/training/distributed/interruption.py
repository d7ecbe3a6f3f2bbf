"""SIGTERM and SIGINT as a request: a run ends after the step in hand, and can be continued."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

__all__ = ["Interrupted", "Interruption", "end_distributed", "outlive_signals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_WORKERS_OUTLIVE = 20  # seconds
_Result = TypeVar("_Result")


class Interrupted(SystemExit):
    """A run that ended because it was asked to, with all that a continuation needs.

    Its exit status is 128 plus the signal's number, as a shell gives it: 143 after SIGTERM, 130 after SIGINT. It isn't
    0, which would tell a scheduler that the training is done.
    """


class _BrokenOff(BaseException):
    """Raised by the signal itself, inside of [`Interruption.attempt`] alone."""


class Interruption:
    """A context in which SIGTERM and SIGINT only ask for an end; a second signal ends the process at once.

    Launchers pass on a signal that the terminal or the scheduler has sent to all processes already, so what comes
    within `apart` seconds of the first is the same request. Outside of the main thread, where Python doesn't let
    signals be handled, they do what they did before.

    Args:
        accelerator: processes that end together.
        apart: seconds after which another signal is a second one.

    Attributes:
        signal: the number of the one that asked; 0 before.
    """

    def __init__(self, accelerator: Accelerator, *, apart: float = 2.0) -> None:
        self.accelerator, self.apart = accelerator, apart
        self.signal = 0
        self._agreed = False
        self._at = 0.0
        self._breakable = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give them back."""
        for number, before in self._before.items():
            signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            self.signal, self._at = number, time.monotonic()
            # Not print: the signal may have come in the middle of one.
            os.write(2, f"\n{signal.Signals(number).name}: ends after this step; once more: at once\n".encode())
            if self._breakable:
                self._breakable = False
                raise _BrokenOff
        elif time.monotonic() - self._at >= self.apart:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @property
    def asked(self) -> bool:
        """Whether the run is to end, on all processes alike: every one must ask at the same place."""
        if not self._agreed:
            asked = self.signal
            if self.accelerator.num_processes > 1:
                mine = torch.tensor([asked], device=self.accelerator.device)
                asked = int(self.accelerator.gather(mine).max())
            # A signal that came in the meantime is heard the next time: it mustn't be overwritten here.
            if asked:
                self.signal, self._agreed = asked, True
                self._at = self._at or time.monotonic()
        return self._agreed

    def attempt(self, action: Callable[[], _Result]) -> _Result | None:
        """Do what takes long and can be done again; a signal to this process breaks it off.

        Args:
            action: waits for no other process.

        Returns:
            What it returns; `None` where the signal came before its end.
        """
        self._breakable = True
        try:
            result = None if self.signal else action()
            self._breakable = False
        except _BrokenOff:
            return None
        except BaseException:
            self._breakable = False
            raise
        return result

    def end(self) -> Interrupted:
        """What to raise when all is saved."""
        return Interrupted(128 + self.signal)


def outlive_signals(_: int = 0) -> None:
    """Let a worker process go on while its parent ends: terminal and scheduler signal them all (`worker_init_fn`)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # But not for ever: SIGTERM is also how a parent ends a worker that is stuck.
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_WORKERS_OUTLIVE))


def end_distributed(accelerator: Accelerator) -> None:
    """Close the trackers and let the processes go their own ways.

    Gloo's threads need Python's lock to put away what the last collective worked on; the group's destructor holds that
    lock and waits for the threads. A moment in between keeps a process from waiting for itself for ever.
    """
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        time.sleep(0.2)
    accelerator.end_training()
