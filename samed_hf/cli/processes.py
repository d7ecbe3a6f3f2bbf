"""Commands whose cases are divided over the processes of `accelerate launch` and the jobs of an array."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from ..utils.sharing import Shard, balanced_shares
from .common import hide_loading_bars, start_processes

if TYPE_CHECKING:
    from accelerate import PartialState

__all__ = ["add_shard", "from_main", "on_all_ranks", "run_in_processes", "select_share"]

# A process that has finished its cases waits for the others, however long theirs take.
_TIMEOUT = timedelta(days=14)

Value = TypeVar("Value")


class _FailedElsewhereError(Exception):
    """Another process failed, and reports the error."""


def add_shard(parser: argparse.ArgumentParser) -> None:
    """Add `--shard`."""
    text = "one of N equal shares of the cases, for job arrays; the last one to end merges the results"
    parser.add_argument("--shard", type=_shard, metavar="I/N", help=text)


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run_in_processes(args: argparse.Namespace, work: Callable[[PartialState], int]) -> int:
    """Call `work` in each process; return its exit status, or 2 where another process failed."""
    start_processes(args.argv)
    hide_loading_bars()
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # Without an accelerator, Accelerate starts a process group only if `cpu` is set.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(on_cpu, timeout=_TIMEOUT)
    try:
        status = work(state)
        if state.num_processes > 1:  # as in end_distributed
            state.wait_for_everyone()
            time.sleep(0.2)
        return status
    except _FailedElsewhereError:
        return 2
    finally:
        state.destroy_process_group()


def on_all_ranks(state: PartialState, work: Callable[[], Value]) -> Value:
    """Call `work` in every process; of those where it fails the first raises the error, and all others end silently."""
    from accelerate.utils import gather_object

    failure: Exception | None = None
    try:
        result = work()
    except (ValueError, OSError, MemoryError, ImportError) as error:
        failure = error
    failed = gather_object([failure is not None])
    if not any(failed):
        return result
    if failure is None or state.process_index != failed.index(True):
        raise _FailedElsewhereError
    raise failure


def from_main(state: PartialState, work: Callable[[], Value]) -> Value:
    """Call `work` in the main process, and return its result in every process; errors as [`on_all_ranks`]."""
    from accelerate.utils import broadcast_object_list

    result = on_all_ranks(state, lambda: work() if state.is_main_process else None)
    shared: Value = broadcast_object_list([result])[0]
    return shared


def select_share(shard: Shard | None, sizes: Sequence[int]) -> list[int]:
    """The indices of the shard's cases, all without a shard."""
    return list(range(len(sizes))) if shard is None else balanced_shares(sizes, shard.count)[shard.index - 1]
