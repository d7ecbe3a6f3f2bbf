from .evaluation import evaluate_cases, write_metrics
from .metrics import binary_dice, binary_hd95, score_case, summarize
from .published import compare_with_published

__all__ = [
    "binary_dice",
    "binary_hd95",
    "compare_with_published",
    "evaluate_cases",
    "score_case",
    "summarize",
    "write_metrics",
]
