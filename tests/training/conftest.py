"""Accelerate's state and the package's logger, of which a process has one each, made anew for every test."""

import logging

import pytest
from accelerate.state import AcceleratorState, GradientState

from samed_hf.utils.logging import configure_logging


def reset_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(autouse=True)
def fresh_state():
    """Every test begins and ends without Accelerate's state, and with the logger as a library has it."""
    logger = logging.getLogger("samed_hf")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.propagate = True
    logger.setLevel(logging.INFO)
    reset_accelerate()
    yield
    reset_accelerate()


@pytest.fixture
def printed_log():
    """The package's messages are printed as the command line prints them; for tests of what a user reads."""
    configure_logging()
