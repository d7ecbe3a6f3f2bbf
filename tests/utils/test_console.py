"""What the command line prints of log messages and progress."""

import logging

import pytest

from samed_hf.utils import console
from samed_hf.utils.console import ProgressBar, configure_logging


@pytest.fixture(autouse=True)
def package_logger():
    logger = logging.getLogger("samed_hf")
    state = logger.level, logger.propagate, logger.handlers[:]
    yield
    logger.level, logger.propagate, logger.handlers[:] = state


@pytest.mark.parametrize(
    ("level", "out", "err"),
    [
        (logging.DEBUG, "details\nscore 0.5\n", "warning     2 cases failed\n"),
        (logging.INFO, "score 0.5\n", "warning     2 cases failed\n"),
        (logging.WARNING, "", "warning     2 cases failed\n"),
    ],
)
def test_information_goes_to_standard_output_and_warnings_to_standard_error(capsys, level, out, err):
    configure_logging(logging.DEBUG)
    configure_logging(level)  # replaces the earlier configuration
    logger = logging.getLogger("samed_hf.training.loop")
    logger.debug("details")
    logger.info("score %s", 0.5)
    logger.warning("%d cases failed", 2)
    assert capsys.readouterr() == (out, err)


def test_messages_of_other_libraries_are_left_alone(capsys):
    configure_logging()
    logging.getLogger("another").error("not ours")
    assert "not ours" not in capsys.readouterr().out


def test_lines_are_ten_at_most_and_two_seconds_apart(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
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
