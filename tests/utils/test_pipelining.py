"""Files written and read meanwhile the work: who waits for whom, what belongs to whom, and what Ctrl-C leaves."""

import gc
import threading
import weakref

import pytest

from samed_hf.utils.pipelining import read_process_write

WAIT = 10  # seconds after which a test fails that would hang


class Content:
    """Something that is kept in memory or not."""

    def __init__(self, name):
        self.name = name


def run(items, read=lambda item: item, process=lambda item, content, _: content, write=lambda item, made: made):
    """Items and their outcomes in the order of the reports."""
    reported = []
    read_process_write(items, read, process, write, lambda item, outcome: reported.append((item, outcome)))
    return reported


def test_every_item_goes_through_all_steps_in_order():
    reported = run(
        "abc",
        read=lambda item: item + "r",
        process=lambda item, content, _: content + "w",
        write=lambda item, made: (item, made),
    )
    assert [(item, outcome.result, outcome.error) for item, outcome in reported] == [
        *[("a", ("a", "arw"), None), ("b", ("b", "brw"), None), ("c", ("c", "crw"), None)]
    ]
    assert all(outcome.seconds >= 0 for _, outcome in reported)
    assert run([]) == []


def test_work_goes_on_while_files_are_written_and_read():
    begun = {step: threading.Event() for step in ("work 1", "work 2", "read 2")}

    def work(item, content, reported):
        begun[f"work {item}"].set()
        if item == 1:
            assert begun["read 2"].wait(WAIT)  # the next one is read meanwhile
        return content

    def read(item):
        if item == 2:
            assert begun["work 1"].wait(WAIT)
            begun["read 2"].set()
        return item

    def write(item, made):
        if item == 1:
            assert begun["work 2"].wait(WAIT)  # and the one before written
        return made

    assert [outcome.error for _, outcome in run([1, 2], read, work, write)] == [None, None]


def test_the_work_is_told_when_the_item_before_is_done_with():
    written, asked = threading.Event(), []

    def work(item, content, reported):
        if item == 2:
            asked.append(reported())
            written.set()
            while not reported():
                pass
            asked.append([name for name, _ in outcomes])
        else:
            assert reported()
        return content

    def write(item, made):
        assert item != 1 or written.wait(WAIT)

    outcomes = []
    read_process_write([1, 2], lambda item: item, work, write, lambda *outcome: outcomes.append(outcome))
    assert asked == [False, [1]]


@pytest.mark.slow
def test_at_most_two_items_are_in_memory():
    alive, most = weakref.WeakSet(), []

    def keep(item):
        content = Content(item)
        alive.add(content)
        gc.collect()
        most.append(len(alive))
        return content

    def work(item, content, reported):
        if item == 4:
            raise ValueError("one that fails is kept no longer")
        most.append(len(alive))
        return content

    results = []
    read_process_write(
        range(8), keep, work, lambda item, made: made.name, lambda _, outcome: results.append(outcome.result)
    )
    assert results == [0, 1, 2, 3, None, 5, 6, 7]
    assert max(most) == 2


@pytest.mark.parametrize("step", ["read", "work", "write"])
@pytest.mark.parametrize("failing", [{1}, {0}, {3}, {1, 2}, {0, 1, 2, 3}])
def test_a_failure_belongs_to_its_item(step, failing):
    def fails(name, item, result):
        if name == step and item in failing:
            raise ValueError(f"{name} {item}")
        return result

    reported = run(
        range(4),
        read=lambda item: fails("read", item, item),
        process=lambda item, content, _: fails("work", item, content),
        write=lambda item, made: fails("write", item, made),
    )
    assert [item for item, _ in reported] == [0, 1, 2, 3]
    for item, outcome in reported:
        assert outcome.result == (None if item in failing else item)
        assert str(outcome.error) == (f"{step} {item}" if item in failing else "None")


def test_what_is_worked_out_is_written_and_told_before_an_interruption_goes_on():
    reads, written, reported, interrupted = [], [], [], threading.Event()

    def work(item, content, _):
        if item == 2:
            interrupted.set()
            raise KeyboardInterrupt
        return content

    def read(item):
        reads.append(item)
        return item

    def write(item, made):
        assert interrupted.wait(WAIT)  # it isn't done when Ctrl-C comes
        written.append(item)

    with pytest.raises(KeyboardInterrupt):
        read_process_write([1, 2, 3, 4], read, work, write, lambda item, _: reported.append(item))
    assert written == reported == [1]
    assert 4 not in reads
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("files")]
