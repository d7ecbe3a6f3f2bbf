"""What the command line prints of log messages."""

import logging

import pytest

from samed_hf.utils.logging import configure_logging


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
