"""The scores as an `evaluate.Metric`, in a separate module because importing evaluate takes seconds."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from .scoring.measures import Measures
from .scoring.metrics import score_case, summarize

__all__ = ["SamedMetric"]

_DESCRIPTION = """Dice, the 95th percentile of the Hausdorff distance (HD95) and other scores of segmented cases, per
class and on average, under a protocol that defines the scores of empty masks."""

_INPUTS = """
Args:
    predictions (`list` of integer label maps): one map of shape `(height, width)` or `(x, y, z)` for each case.
    references (`list` of integer label maps): the maps to compare with, each of the shape of its prediction.
    id2label (`dict[int, str]` or `int`): names of the classes, class 0 being the background, or their number.
    protocol (`str`): `"strict"` (default) or `"samed"`, the reference implementation's convention.
    spacing (`list`, *optional*): size of a voxel in mm along each array axis, for all cases or a list for each case.
        Without it distances are in voxels.
    cases (`list[str]`, *optional*): names of the cases, in the order they were added. Default: "0", "1", ….
    metrics (`list[str]`, *optional*): some of "dice", "hd95", "iou", "sensitivity", "precision", "specificity", "hd",
        "assd", "nsd", "volume", "lesions". Default: Dice and HD95. Label maps have no "calibration".
    nsd_tolerance_mm (`float` or `dict[str, float]`): distance of surfaces that agree, for all classes or each.
    lesion_min_iou (`float`, *optional*): from which intersection over union lesions match. Default: one voxel in both.
Returns:
    `dict` with "protocol", "mean", "per_class" and "per_case"; `None` where a score is undefined.
"""

_CITATION = """@article{zhang2023customized,
  title={Customized Segment Anything Model for Medical Image Segmentation},
  author={Zhang, Kaidong and Liu, Dong},
  journal={arXiv preprint arXiv:2304.13785},
  year={2023}
}"""


class SamedMetric(evaluate.Metric):
    """`evaluate.Metric` over whole cases, each an integer label map; cases may differ in shape.

    Example:

    ```py
    >>> metric = SamedMetric()
    >>> metric.compute(predictions=[[[0, 1], [0, 1]]], references=[[[0, 1], [0, 0]]], id2label=2)["mean"]["dice"]
    0.6666666666666666
    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        # A map is stored as the bytes of a .npy file: Arrow returns nested lists as one Python object per voxel
        # (gigabytes for a few volumes) and fixes the number of axes.
        maps = datasets.Value("large_binary")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": maps, "references": maps}),
            reference_urls=["https://arxiv.org/abs/2304.13785"],
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None) -> None:
        """Add several cases; maps of which the numbers, types or shapes don't fit are refused."""
        if predictions is None or references is None:
            raise ValueError("predictions or references is missing, expected a list of label maps for each.")
        if len(predictions) != len(references):
            raise ValueError(
                f"predictions holds {len(predictions)} label maps and references {len(references)}, expected one "
                "prediction for each reference; a single case is passed as a list of one map."
            )
        encoded: list[list[bytes]] = [[], []]
        for prediction, reference in zip(map(np.asarray, predictions), map(np.asarray, references), strict=True):
            for name, array in (("predictions", prediction), ("references", reference)):
                if array.ndim not in (2, 3) or not (np.issubdtype(array.dtype, np.integer) or array.dtype == bool):
                    raise ValueError(
                        f"{name} holds a map of shape {array.shape} and dtype {array.dtype}, expected a list of "
                        "integer label maps with two or three axes; a single case is passed as a list of one map."
                    )
            if prediction.shape != reference.shape:
                raise ValueError(
                    f"predictions holds a map of shape {prediction.shape} and references one of shape "
                    f"{reference.shape} for the same case, expected the same; bring the prediction back to the grid of "
                    "the reference."
                )
            for files, array in zip(encoded, (prediction, reference), strict=True):
                is_small = array.size and array.min() >= 0 and array.max() <= np.iinfo(np.uint8).max
                file = io.BytesIO()
                np.save(file, array.astype(np.uint8, copy=False) if is_small else array, allow_pickle=False)
                files.append(file.getvalue())
        super().add_batch(predictions=encoded[0], references=encoded[1])

    def add(self, *, prediction: Any = None, reference: Any = None) -> None:
        """Add one case; maps that aren't of integers or differ in shape are refused."""
        self.add_batch(predictions=[prediction], references=[reference])

    def _compute(
        self,
        predictions: Sequence[bytes],
        references: Sequence[bytes],
        id2label: Mapping[int, str] | int,
        protocol: str = "strict",
        spacing: Sequence[float] | Sequence[Sequence[float]] | None = None,
        cases: Sequence[str] | None = None,
        metrics: Sequence[str] = ("dice", "hd95"),
        nsd_tolerance_mm: float | Mapping[str, float] = 2.0,
        lesion_min_iou: float | None = None,
    ) -> dict[str, Any]:
        names = list(map(str, range(len(predictions)))) if cases is None else list(cases)
        if len(names) != len(predictions) or len(set(names)) < len(names):
            raise ValueError(f"cases is {names}, expected {len(predictions)} different names, one for each label map.")
        spacings: list[Any] = [spacing] * len(names)
        if spacing is not None and any(np.ndim(value) for value in spacing):
            spacings = list(spacing)
        if len(spacings) != len(names):
            raise ValueError(f"spacing holds {len(spacings)} entries, expected one spacing, or one for each case.")
        scores = {}
        measures = Measures(tuple(metrics), nsd_tolerance_mm, lesion_min_iou)
        for name, *files, case_spacing in zip(names, predictions, references, spacings, strict=True):
            prediction, reference = (np.load(io.BytesIO(file), allow_pickle=False) for file in files)
            scores[name] = score_case(prediction, reference, id2label, protocol, case_spacing, measures=measures)
        return summarize(scores, protocol)
