from .comparison import Comparison, compare_runs
from .comparison_files import write_comparison
from .cross_validation import cross_validate

__all__ = ["Comparison", "compare_runs", "cross_validate", "write_comparison"]
