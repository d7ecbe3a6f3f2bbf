"""Cross-validation: one training for each fold, and the scores of all cases by models that were not trained on them."""

from __future__ import annotations

from ..training.arguments import SamedTrainingArguments

__all__ = ["cross_validate"]

# The directory O holds splits_final.json, cache/, images/CASE.png and fold-K/, complete runs of `train`. When all folds
# are complete, `write_cross_validation(O, [O/fold-0, O/fold-1, ...])` of `summary` writes what is collected. With
# sizes of a learning curve it is called so for each O/cases-N, then `write_learning_curve(O, {N: O/cases-N, ...})`.


def cross_validate(args: SamedTrainingArguments) -> int:
    """Train the folds, and collect their scores when all are complete; return the exit status."""
    raise NotImplementedError
