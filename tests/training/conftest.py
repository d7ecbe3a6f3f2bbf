"""Accelerate's state, of which a process has one, made anew for every test."""

import logging

import pytest
from accelerate.state import AcceleratorState, GradientState

from samed_hf.utils.logging import console_logging


def reset_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(autouse=True)
def fresh_accelerate_state(caplog):
    """Every test begins and ends without Accelerate's state; what the package logs is in `caplog`."""
    caplog.set_level(logging.INFO, "samed_hf")
    reset_accelerate()
    yield
    reset_accelerate()


@pytest.fixture
def printed_log():
    """The package's messages are printed as the command line prints them; for tests of what a user reads."""
    with console_logging():
        yield
