from .cross_validation import cross_validate
from .learning_curve import write_learning_curve
from .summary import write_cross_validation

__all__ = ["cross_validate", "write_cross_validation", "write_learning_curve"]
