"""Loggers of code that runs in several processes."""

from __future__ import annotations

import logging

from accelerate import PartialState

__all__ = ["get_logger"]


class _MainProcessLogger(logging.LoggerAdapter):
    """Logs on the main process alone. Accelerate's own adapter puts "[RANK 0]" in front of every message."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  the name is logging's
        started = bool(PartialState._shared_state)  # PartialState() would start the processes' group
        return super().isEnabledFor(level) and (not started or PartialState().is_main_process)


def get_logger(name: str) -> logging.LoggerAdapter:
    """The logger of a module; of several processes, only the main one logs."""
    return _MainProcessLogger(logging.getLogger(name), {})
