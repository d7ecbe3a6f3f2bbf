"""The worker's turns."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from samed_hf.serving.engine import Engine
from samed_hf.serving.jobs import WorkerSettings


def test_a_job_keeps_its_turn_when_its_caller_leaves():
    go_on, done = threading.Event(), []

    async def calls() -> None:
        engine = Engine(WorkerSettings({}))
        engine._process = ThreadPoolExecutor(2)
        left = asyncio.create_task(engine._call(lambda: (go_on.wait(10), done.append("first"))))
        await asyncio.sleep(0.05)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        following = asyncio.create_task(engine._call(done.append, "second"))
        dropped = asyncio.create_task(engine._call(done.append, "never"))
        await asyncio.sleep(0.05)
        dropped.cancel()
        assert not done
        go_on.set()
        await following
        assert not engine._turn.locked()

    asyncio.run(calls())
    assert done == ["first", "second"]
