"""A pipeline that reads, processes and writes items, with reading and writing in a separate thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple, TypeVar

__all__ = ["Outcome", "read_process_write"]

Item = TypeVar("Item")
Content = TypeVar("Content")
Result = TypeVar("Result")
Value = TypeVar("Value")


class Outcome(NamedTuple):
    """How an item ended."""

    result: Any = None  # what `write` returned
    error: Exception | None = None  # of reading, processing or writing
    seconds: float = 0.0  # spent on the item, without waiting


def read_process_write(
    items: Sequence[Item],
    read: Callable[[Item], Content],
    process: Callable[[Item, Content, Callable[[], bool]], Result],
    write: Callable[[Item, Result], Any],
    done: Callable[[Item, Outcome], None],
) -> None:
    """Read, process and write each item; while one is processed, a thread writes the previous and reads the next one.

    Only one thread reads and writes, so at most two items are in memory. An `Exception` in one step ends that item
    alone. Any other `BaseException`, such as `KeyboardInterrupt`, ends the run after the item that is already processed
    has been written and reported.

    `read` and `write` are called in the thread, `process` and `done` in the caller's, `done` in order and as early as
    possible. The third argument of `process` is a function that returns whether the previous item has been reported;
    until then, `process` should not print about this item.
    """
    previous: tuple[Item, Future[Outcome]] | None = None

    def report_previous(wait: bool = False) -> bool:
        nonlocal previous
        if previous is not None and (wait or previous[1].done()):
            (item, written), previous = previous, None
            done(item, written.result())
        return previous is None

    with ThreadPoolExecutor(1, thread_name_prefix="files") as thread:
        submitted = (thread.submit(_timed, read, item) for item in items)  # lazy: submits one item at a time
        reads = deque(islice(submitted, 1))

        def read_and_process(item: Item) -> tuple[Result, float]:
            try:
                content, seconds = reads.popleft().result()
            finally:
                reads.extend(islice(submitted, 1))
            result, more = _timed(process, item, content, report_previous)
            return result, seconds + more

        try:
            for item in items:
                try:
                    result, seconds = read_and_process(item)
                except Exception as error:
                    report_previous(wait=True)
                    done(item, Outcome(error=error))
                else:
                    report_previous(wait=True)
                    previous = item, thread.submit(_write, write, item, result, seconds)
                    del result  # the future keeps it only until it is written
        finally:
            for future in reads:
                future.cancel()
            report_previous(wait=True)


def _timed(function: Callable[..., Value], *arguments: Any) -> tuple[Value, float]:
    started = time.monotonic()
    return function(*arguments), time.monotonic() - started


def _write(write: Callable[[Item, Result], Any], item: Item, result: Result, seconds: float) -> Outcome:
    try:
        written, more = _timed(write, item, result)
    except Exception as error:
        return Outcome(error=error)
    return Outcome(written, seconds=seconds + more)
