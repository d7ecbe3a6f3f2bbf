from .fingerprint import make_fingerprint
from .problems import Problem
from .run import Validation, validate_data
from .suggestions import suggest_settings

__all__ = ["Problem", "Validation", "make_fingerprint", "suggest_settings", "validate_data"]
