from .advice import suggest_settings
from .fingerprint import make_fingerprint
from .problems import Problem
from .run import Validation, validate_data

__all__ = ["Problem", "Validation", "make_fingerprint", "suggest_settings", "validate_data"]
