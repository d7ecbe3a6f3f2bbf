"""A complete export: adapter and base merged, written, and checked before the file gets its name."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import Case, CaseDataset, phantom_patient, read_data
from ..data.layouts.synapse import SYNAPSE_LABELS
from ..hub.card import LICENSES, read_json
from ..hub.onnx_file import is_onnx
from ..inference import load_model
from ..inference.onnx_model import OnnxModel
from ..model import SamedForSemanticSegmentation, SamedImageProcessor
from ..model.fingerprint import model_fingerprint
from ..model.onnx import OPSET, export_onnx
from ..transforms import window_intensity
from ..transforms.slicing import SliceStack
from ..utils.atomic import atomic_directory
from ..utils.packaged import is_directory
from .agreement import Agreement, compare_models, logit_difference

__all__ = ["export_adapter", "refuse_other_files"]

logger = logging.getLogger(__name__)

_EXACT = 1e-5  # of the logits' range, which float32 has to keep
_CASES, _SLICES = 8, 12  # the most cases that are compared or calibrate, and slices of each


def export_adapter(
    adapter: str,
    output: str | Path,
    *,
    precision: str = "float32",
    opset: int = OPSET,
    data_dir: str | None = None,
    min_agreement: float = 0.98,
    force: bool = False,
    base_model_name_or_path: str | None = None,
) -> dict[str, Any]:
    """Write `model.onnx` of an adapter, or a merged model, into `output`, which replaces an earlier export.

    The written file is read back and compared with PyTorch: logits in float32, labels in smaller precisions.

    Args:
        adapter: directory or Hub id.
        output: directory to write.
        precision, opset: see [`export_onnx`].
        data_dir: data set whose cases calibrate (training cases) and are compared (the others); by default phantoms.
        min_agreement: least share of the object's pixels that keep their label.
        force: write a model of less agreement.
        base_model_name_or_path: of the adapter, if it isn't the one that it names.

    Returns:
        The facts recorded in the file's metadata, and under "agreement" how it compares.

    Raises:
        ValueError: `output` holds something else than an export, the exported model's agreement is too small, or the
            data have other labels or channels.
    """
    refuse_other_files(Path(output), {"model.onnx", "model.onnx.data"})
    if not 0 <= min_agreement <= 1:
        raise ValueError(f"min_agreement is {min_agreement}: expected a share in [0, 1], e.g. 0.98.")
    if is_onnx(adapter):
        raise ValueError(f"ADAPTER {adapter!r} is an exported model already: give the adapter that it was made from.")
    model = load_model(adapter, base_model_name_or_path=base_model_name_or_path).cpu()
    processor = model.image_processor
    assert processor is not None  # load_model checks it
    about = _describe(adapter, model, processor)
    data = None if data_dir is None else _read(data_dir, model, processor)
    with atomic_directory(output) as temporary:
        file = temporary / "model.onnx"
        calibration = _pixels(_cases(data, processor, train=True), processor) if precision == "int8" else None
        export_onnx(model, file, processor, precision=precision, opset=opset, calibration=calibration, about=about)
        exported, cases = OnnxModel(file), list(_cases(data, processor))
        logger.info(f"compare     with PyTorch on {'phantoms' if data is None else data_dir}")
        difference = logit_difference(model, exported, islice(_pixels(cases, processor), 2 * _CASES))
        agreement = compare_models(model, exported, cases, processor, data.ignore_index if data else None)
        if data is None and model.config.id2label != SYNAPSE_LABELS:  # the phantoms' labels
            agreement = agreement._replace(reference=None, exported=None)
        _check(precision, difference, agreement, min_agreement, force)
    return about | {"agreement": agreement._asdict() | {"logit_difference": difference}}


def _describe(adapter: str, model: SamedForSemanticSegmentation, processor: SamedImageProcessor) -> dict[str, Any]:
    """What the file records beside config and image processor; no path."""
    settings = read_json(Path(adapter) / "training_settings.json") if Path(adapter).is_dir() else {}
    adapters = model.peft_config if model._hf_peft_config_loaded else {}
    base = next((config.base_model_name_or_path for config in adapters.values()), None)
    facts = {
        "adapter": None if Path(adapter).exists() else adapter,
        "base_model": base if base and not is_directory(base) else None,
        "base_fingerprint": model.config.base_fingerprint,
        "fingerprint": model_fingerprint(model, {"id2label": model.config.id2label, "processor": processor.to_dict()}),
        **{key: settings.get(key) for key in LICENSES},
    }
    return {key: value for key, value in facts.items() if value is not None}


def _read(data_dir: str, model: SamedForSemanticSegmentation, processor: SamedImageProcessor) -> CaseDataset:
    data = read_data(data_dir)
    data.expect_channels(processor.num_channels)
    data.expect_labels(model.config.id2label, model.config.regions)
    return data


def _cases(data: CaseDataset | None, processor: SamedImageProcessor, train: bool = False) -> Iterator[Case]:
    """Slices of cases that calibrate, or of those compared, which are others where the data set has some."""
    if data is None:
        cases = (_phantom([1 if train else 2, seed], processor.num_channels) for seed in range(_CASES // 2))
    else:
        _, held_out = data.evaluation_split
        names = data.train if train or not held_out else held_out
        count = min(len(names), _CASES * _SLICES if data.is_2d else _CASES)
        names = [names[index * len(names) // count] for index in range(count)]
        cases = (data.read_case(name, processor) for name in names)
    for case in cases:
        every = 1 if processor.context_slices else -(-len(case.image) // _SLICES)
        start = (len(case.image) - 1) % every // 2
        rows = slice(start, start + every * _SLICES, every)
        yield replace(case, image=case.image[rows], label=case.label[rows])


def _phantom(seed: list[int], channels: int) -> Case:
    image, label, spacing = phantom_patient(seed, (_SLICES, 128, 128))
    scaled = window_intensity(image.astype(np.float32), (-125.0, 275.0))
    scaled, label = (np.ascontiguousarray(np.moveaxis(array, 2, 1)) for array in (scaled, label))
    image = scaled if channels == 1 else np.repeat(scaled[:, None], channels, axis=1)
    return Case(f"phantom {seed[1]}", image, label, spacing)


def _pixels(cases: Iterable[Case], processor: SamedImageProcessor) -> Iterator[np.ndarray]:
    """The model's inputs for every second slice, one at a time."""
    for case in cases:
        stack = SliceStack(case.image, processor, rescaled=True)
        for index in range(len(stack) // 2 % 2, len(stack), 2):
            pixels = processor.resize_slices(torch.from_numpy(stack.read([index])))
            yield pixels.expand(-1, max(3, pixels.shape[1]), -1, -1).numpy()


def refuse_other_files(output: Path, own: set[str]) -> None:
    """A directory that an export replaces has to be absent, or hold nothing but an earlier export's files."""
    found = {path.name for path in output.iterdir()} - own if output.is_dir() else {*output.parts[-1:]}
    if found and output.exists():
        raise ValueError(
            f"output is {str(output)!r}, which would be replaced and has other files, e.g. {min(found)}: give a new or "
            "empty directory, or an earlier export."
        )


def _check(precision: str, difference: float, agreement: Agreement, least: float, force: bool) -> None:
    """Report the comparison, and refuse a model that differs too much."""
    logger.info(f"logits      differ by {difference:.1e} of their range")
    logger.info(f"labels      {agreement.classes:.4%} of the object's pixels keep theirs, {agreement.cases} cases")
    if agreement.between is not None:
        logger.info(f"Dice        {agreement.between:.4f} against PyTorch's labels")
    if agreement.reference is not None:
        logger.info(f"            {agreement.exported:.4f} against the true labels, PyTorch {agreement.reference:.4f}")
    problem = None
    if precision == "float32" and difference > _EXACT:
        problem = f"the logits differ by {difference:.1e} of their range, expected at most {_EXACT:g}"
    elif agreement.classes < least:
        problem = f"{agreement.classes:.4f} of the object's pixels keep their label, expected at least {least}"
    if problem is None:
        return
    if not force:
        raise ValueError(
            f"The exported model differs from PyTorch's: {problem}. Nothing was written; give another precision, "
            "calibration data by --data_dir, or --force."
        )
    logger.warning(f"written by --force although {problem}")
