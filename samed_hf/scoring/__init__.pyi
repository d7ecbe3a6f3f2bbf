from .evaluation import CaseResult, describe_results, evaluate_cases, score_cases, summarize_results, write_metrics
from .intervals import compare_pairs, mean_interval
from .metrics import binary_dice, binary_hd95, score_case, summarize
from .published import compare_with_published

__all__ = [
    "CaseResult",
    "binary_dice",
    "binary_hd95",
    "compare_pairs",
    "compare_with_published",
    "describe_results",
    "evaluate_cases",
    "mean_interval",
    "score_case",
    "score_cases",
    "summarize",
    "summarize_results",
    "write_metrics",
]
