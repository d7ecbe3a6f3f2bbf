"""Adapters of one base, trained on the axial, coronal and sagittal slices of the same cases, and their ensemble."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, PartialState

from ..data import CaseStore, make_processor
from ..data.processor import PLANES, slice_side
from ..inference import Segmenter, write_ensemble
from ..reporting.formatting import format_scores
from ..scoring import write_metrics
from ..training.arguments import SamedTrainingArguments
from ..training.checkpointing.run_directory import on_main_rank
from ..training.data import read_training_data
from ..training.distributed.logging import get_logger
from ..training.dry_run import log_plan
from ..training.run import score_run
from ..training.setup import TrainingRun
from .cross_validation import is_complete, train_fold
from .folds import RECORD, keep_settings

__all__ = ["train_planes"]

logger = get_logger(__name__)


def train_planes(args: SamedTrainingArguments, *, dry_run: bool = False) -> int:
    """Train an adapter for each plane in a directory of its name, and score the `ensemble` of the three.

    Their softmax is averaged on each scan's own grid. A random base has the `image_size` for the longest side of all
    slices. With `dry_run`, the plans are logged. Goes on, returns and raises as [`cross_validate`].
    """
    state, output = PartialState(cpu=not torch.accelerator.is_available()), Path(args.output_dir)
    study = on_main_rank(state, lambda: _prepare(args, state.num_processes, dry_run))
    for plane in PLANES if dry_run else ():
        log_plan(replace(study, plane=plane, output_dir=str(output / plane)))
    reasons = {} if dry_run else {plane: train_fold(replace(study, plane=plane), plane) for plane in PLANES}
    failed = [f"{output / plane}: {reason}" for plane, reason in reasons.items() if reason]
    for failure in failed:
        logger.error(failure)
    if dry_run or failed or not all(is_complete(output / plane) for plane in PLANES):
        return 0 if not failed else 1 if len(failed) < len(PLANES) else 2
    on_main_rank(state, lambda: write_ensemble(output / "ensemble", {plane: output / plane for plane in PLANES}))
    segmenter: Any = Segmenter.load(output / "ensemble")
    store = CaseStore(read_training_data(study), segmenter.processor, Path(str(study.cache_dir)))
    on_main_rank(state, lambda: store.prepare(store.data.evaluation_split[1]))
    filled, accelerator = study.fill_defaults(state.num_processes), Accelerator(cpu=state.device.type == "cpu")
    run = TrainingRun(filled, accelerator, store.data, store, segmenter, segmenter.processor, plan=cast(Any, None))
    metrics = score_run(run, [], None, None)
    if metrics is not None and state.is_main_process:
        write_metrics(output, metrics)
        logger.info(f"\nEnsemble:\n{format_scores(metrics)}\n\nwrote       {output / 'metrics.json'}")
    logger.info(f"next        samed-hf predict {output / 'ensemble'} SCAN.nii.gz --output segmentations")
    return 0


def _prepare(args: SamedTrainingArguments, num_processes: int, dry_run: bool) -> SamedTrainingArguments:
    """Check settings and data, and return the settings of all planes."""
    output = Path(args.output_dir)
    wrong = {
        "preset, whose slices are axial": args.preset,
        "protocol samed or calibration": {"samed", "calibration"} & {args.scored_protocol, *args.measures.metrics},
        "the phantom, which consists of slices": args.uses_phantom,
        "push_to_hub: push each plane by samed-hf push": args.push_to_hub,
        "resume_from_checkpoint: each plane resumes by itself": args.resume_from_checkpoint not in (None, "latest"),
        "output_dir of another run": any((output / name).exists() for name in ("adapter_model.safetensors", RECORD)),
    }
    if found := [name for name, is_given in wrong.items() if is_given]:
        raise ValueError(f"plane is all with {'; with '.join(found)}: change these, or give one plane.")
    data = read_training_data(args)
    processors = [make_processor(replace(args, plane=plane), data) for plane in PLANES]
    if args.uses_small_sam and args.image_size is None:
        side = max(slice_side(data, processor) for processor in processors)
        args = replace(args, image_size=args.fill_defaults(num_processes, side).image_size)
    if not dry_run:
        keep_settings(args, sorted(data.sources), num_processes, "planes.json")
    return replace(args, cache_dir=args.cache_dir or str(output / "cache"), resume_from_checkpoint="latest")
