"""Several processes of one command: how they start, and how an error in one of them ends them all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from accelerate import PartialState

__all__ = ["FailedElsewhereError", "on_all_ranks", "on_main_rank", "start_processes"]

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class FailedElsewhereError(Exception):
    """Another process failed, and reports the error."""


def start_processes(argv: Sequence[str]) -> None:
    """Start the CPU processes that `accelerate launch` is configured for but does not start."""
    from ..training.distributed.launching import processes_not_started, restart_in_processes

    missing = processes_not_started()
    if missing:
        restart_in_processes("samed_hf.cli", argv, missing)
    if missing is not None:
        logger.warning("accelerate launch started one process; torchrun --nproc_per_node=N starts N on a CPU")


def on_main_rank(state: PartialState, work: Callable[[], Result]) -> Result:
    """Call `work` in the main process, and return its result in every process.

    Raises:
        FailedElsewhereError: in the other processes, if `work` failed in the main one, which raises the error itself.
    """
    from accelerate.utils import broadcast_object_list

    content: list[Any] = [None, False]
    failure: Exception | None = None
    if state.is_main_process:
        try:
            content[0] = work()
        except (ValueError, OSError, MemoryError) as error:
            failure, content[1] = error, True
    result, failed = broadcast_object_list(content)
    if failure is not None:
        raise failure
    if failed:
        raise FailedElsewhereError
    return result


def on_all_ranks(state: PartialState, work: Callable[[], Result]) -> Result:
    """Call `work` in every process.

    Raises:
        FailedElsewhereError: `work` failed in another process; the first process where it failed raises the error.
    """
    from accelerate.utils import gather_object

    result: Result | None = None
    failure: Exception | None = None
    try:
        result = work()
    except (ValueError, OSError, MemoryError, ImportError) as error:
        failure = error
    failed = gather_object([failure is not None])
    if not any(failed):
        return result  # type: ignore[return-value]  # no failure, so that `work` returned it
    if failure is None or state.process_index != failed.index(True):
        raise FailedElsewhereError
    raise failure
