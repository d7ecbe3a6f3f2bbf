"""Loggers of code that runs in several processes."""

from __future__ import annotations

import logging

from accelerate import PartialState

__all__ = ["get_logger"]


class _MainProcessLogger(logging.LoggerAdapter):
    """Logs only on the main process, without the "[RANK 0]" of Accelerate's own adapter."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  the name is logging's
        started = bool(PartialState._shared_state)  # PartialState() would start the processes' group
        return super().isEnabledFor(level) and (not started or PartialState().is_main_process)


def get_logger(name: str) -> logging.LoggerAdapter:
    """Return the logger of a module that logs only on the main process."""
    return _MainProcessLogger(logging.getLogger(name), {})
