from .doctor import diagnose
from .memory import estimate_training

__all__ = ["diagnose", "estimate_training"]
