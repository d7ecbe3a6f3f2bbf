"""Items read, worked on and written one after the other, the files of some meanwhile the work on the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

__all__ = ["Outcome", "read_process_write"]

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")


class Outcome(NamedTuple):
    """What became of an item.

    Attributes:
        result: what writing it gave.
        error: what kept it from being read, worked on or written, if anything did.
        seconds: spent on it, waiting not counted.
    """

    result: Any = None
    error: Exception | None = None
    seconds: float = 0.0


def read_process_write(
    items: Sequence[Item],
    read: Callable[[Item], Read],
    work: Callable[[Item, Read, Callable[[], bool]], Made],
    write: Callable[[Item, Made], Any],
    done: Callable[[Item, Outcome], None],
) -> None:
    """Read, work on and write each item; while one is worked on, a thread writes the one before and reads the next.

    It is one thread, so that two files are never read or written at once and at most two items are in memory: the one
    that is worked on, and one that is being written or read.

    An exception in one step ends that item alone. Whatever else is raised, as by Ctrl-C, ends the run once the item
    whose work is done is written and told.

    Args:
        items: in order.
        read: called in the other thread.
        work: called here, with the item, what `read` gave, and a function that tells whether the item before is done
            with: until then, nothing should be printed about this one.
        write: called in the other thread with what `work` gave.
        done: called here with each item and its outcome, in order, as soon as may be.
    """
    before: _Writing | None = None
    ahead: Future | None = None

    def tell_before(wait: bool = False) -> bool:
        nonlocal before
        if before is not None and (wait or before.future.done()):
            over, before = before, None
            done(over.item, over.outcome())
        return before is None

    def read_and_work(index: int) -> tuple[Made, float]:
        nonlocal ahead
        try:
            content, seconds = ahead.result()
        finally:
            ahead = files.submit(_timed, read, items[index + 1]) if index + 1 < len(items) else None
        made, more = _timed(work, items[index], content, tell_before)
        return made, seconds + more

    with ThreadPoolExecutor(1, thread_name_prefix="files") as files:
        try:
            ahead = files.submit(_timed, read, items[0]) if items else None
            for index, item in enumerate(items):
                try:
                    made, seconds = read_and_work(index)
                except Exception as error:
                    tell_before(wait=True)
                    done(item, Outcome(error=error))
                else:
                    tell_before(wait=True)
                    before = _Writing(item, files.submit(_timed, write, item, made), seconds)
                    del made  # what is written needn't be kept longer
        finally:
            if ahead is not None:
                ahead.cancel()
            tell_before(wait=True)


class _Writing(NamedTuple):
    item: Any
    future: Future
    seconds: float

    def outcome(self) -> Outcome:
        try:
            result, more = self.future.result()
        except Exception as error:
            return Outcome(error=error)
        return Outcome(result, seconds=self.seconds + more)


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    started = time.monotonic()
    return function(*arguments), time.monotonic() - started
