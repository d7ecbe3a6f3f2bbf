"""Accelerate's state, one in a process, is reset for every test; settings of a short run."""

import logging

import pytest
from accelerate.state import AcceleratorState, GradientState

from samed_hf.training import SamedTrainingArguments
from samed_hf.utils.console import console_logging

from ..conftest import TINY_SIZE


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


@pytest.fixture
def settings(tiny_sam, tiny_data, tmp_path):
    """Make the settings of a run of six steps; a test passes those that differ."""

    def make(**changes) -> SamedTrainingArguments:
        defaults = {
            "model_name_or_path": str(tiny_sam),
            "data_dir": str(tiny_data),
            "output_dir": str(tmp_path / "run"),
            "image_size": TINY_SIZE,
            "per_device_train_batch_size": 4,
            "max_train_steps": 6,
            "lr_warmup_steps": 2,
            "checkpointing_steps": 0,
            "num_validation_cases": 0,
            "report_to": "none",
        }
        return SamedTrainingArguments(**(defaults | changes))

    return make
