"""The fixtures of the trainings."""

from ..training.conftest import fresh_accelerate_state, settings

__all__ = ["fresh_accelerate_state", "settings"]
