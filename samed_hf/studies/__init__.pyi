from .checklist import write_checklist
from .comparison import Comparison, compare_runs
from .comparison_files import write_comparison
from .cross_validation import cross_validate
from .learning_curve import write_learning_curve
from .summary import write_cross_validation

__all__ = [
    "Comparison",
    "compare_runs",
    "cross_validate",
    "write_checklist",
    "write_comparison",
    "write_cross_validation",
    "write_learning_curve",
]
