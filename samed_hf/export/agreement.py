"""How far an exported model agrees with the PyTorch model it was made from."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch

from ..data import Case
from ..inference import predict_slices
from ..inference.onnx_model import OnnxModel
from ..model import SamedForSemanticSegmentation, SamedImageProcessor
from ..scoring.metrics import binary_dice

__all__ = ["Agreement", "compare_models", "logit_difference"]


class Agreement(NamedTuple):
    """Two models on the same cases; Dice is a mean over cases and labels that are present, `None` without any."""

    cases: int
    classes: float  # share of the pixels that are not background in both and have the same label
    between: float | None  # Dice of the exported model's labels against the PyTorch model's
    reference: float | None  # Dice of the PyTorch model against the cases' labels
    exported: float | None  # Dice of the exported model against the cases' labels


def compare_models(
    model: SamedForSemanticSegmentation,
    exported: OnnxModel,
    cases: Iterable[Case],
    processor: SamedImageProcessor,
    ignore_index: int | None = None,
) -> Agreement:
    """Segment cases with both models, each with its own runtime, and compare their labels.

    Args:
        model: in evaluation mode.
        exported: see [`export_onnx`].
        cases: with images in [0, 1]; only the slices and labels are used.
        processor: zooms the slices.
        ignore_index: value in the cases' labels of pixels that count in no score.
    """
    same = total = count = 0
    dice: dict[str, list[float]] = {"between": [], "reference": [], "exported": []}
    for case in cases:
        count += 1
        known = np.ones(case.label.shape, bool) if ignore_index is None else case.label != ignore_index
        first, second = (predict_slices(one, case.image, processor) for one in (model, exported))  # type: ignore[arg-type]
        object_ = (first > 0) | (second > 0)
        same, total = same + int(np.count_nonzero(object_ & (first == second))), total + int(np.count_nonzero(object_))
        for name, one, other in (
            ("between", second, first),
            ("reference", first, case.label),
            ("exported", second, case.label),
        ):
            for index in range(1, model.config.num_labels):
                masks = (one == index) & known, (other == index) & known
                if masks[0].any() or masks[1].any():
                    dice[name].append(binary_dice(*masks))
    means = {name: fmean(values) if values else None for name, values in dice.items()}
    return Agreement(count, same / total if total else 1.0, **means)


@torch.inference_mode()
def logit_difference(model: SamedForSemanticSegmentation, exported: Any, pixels: Iterable[np.ndarray]) -> float:
    """The largest difference of the logits of both models, as a share of the range of the first one's."""
    worst = scale = 0.0
    for batch in pixels:
        values = torch.from_numpy(batch)
        expected, found = model(values).logits, exported(values).logits
        worst = max(worst, float((found - expected).abs().max()))
        scale = max(scale, float(expected.max() - expected.min()))
    return worst / scale if scale else worst
