"""Progress without a terminal: at most ten lines, two seconds apart."""

import logging

from samed_hf.utils import progress
from samed_hf.utils.progress import ProgressBar


def test_lines_are_ten_at_most_and_two_seconds_apart(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, logger="samed_hf")
    with ProgressBar("case 1/2 liver", "slice", bar=False) as bar:
        for done in range(1, 101):
            now[0] += 0.5
            bar(done, 100)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [f"case 1/2 liver: slice {done} of 100" for done in range(10, 101, 10)]
    caplog.clear()
    with ProgressBar("quick", "slice", bar=False) as bar:
        for done in range(1, 101):
            now[0] += 0.01
            bar(done, 100)
    assert caplog.records == []


def test_a_terminal_gets_a_bar(capsys):
    with ProgressBar("quick", "slice", bar=True) as bar:
        bar(3, 7)
        assert (bar.bar.n, bar.bar.total) == (3, 7)
    assert "3/7" in capsys.readouterr().err


def test_nothing_to_do_is_no_error():
    with ProgressBar("empty", "slice", bar=False) as bar:
        bar(0, 0)
