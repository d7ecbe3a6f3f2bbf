"""`samed-hf train` and `examples/train_synapse.py`: train, score on cases not trained on, picture, write the card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from transformers import HfArgumentParser
from transformers.utils import logging

from .card import write_card
from .data.synapse import SynapseCase
from .evaluation import CaseResult, score_cases, summarize_results, write_metrics
from .files import write_text
from .hub import push_adapter
from .report import draw_curve, draw_overlay, format_scores
from .training import train
from .training_arguments import TrainingArguments
from .training_setup import TrainingRun

__all__ = ["parse_arguments", "run_training"]


def parse_arguments(argv: Sequence[str] | None = None, prog: str | None = None) -> TrainingArguments:
    """Flags to settings; argparse's own exit on unknown ones."""
    parser = HfArgumentParser(TrainingArguments, prog=prog, description=__doc__)
    return parser.parse_args_into_dataclasses(args=argv)[0]


def run_training(args: TrainingArguments) -> dict[str, Any] | None:
    """Train, then score, picture and describe the adapter in `args.output_dir`.

    Returns:
        The metrics, on every process; `None` where the data has no case to score.
    """
    logging.disable_progress_bar()
    run = train(args)
    run.say(f"trained     {run.log[-1]['step'] if run.log else 0} steps in {run.seconds:.0f} s")
    first: list[tuple[SynapseCase, np.ndarray]] = []
    metrics = _evaluate(run, first)
    if run.accelerator.is_main_process:
        _write_report(run, metrics, first)
    run.accelerator.wait_for_everyone()
    if args.push_to_hub and run.accelerator.is_main_process:
        run.say(f"pushed      {push_adapter(run.output_dir, args.hub_model_id or run.output_dir.name)}")
    run.accelerator.wait_for_everyone()
    run.accelerator.end_training()
    return metrics


def _evaluate(run: TrainingRun, first: list[tuple[SynapseCase, np.ndarray]]) -> dict[str, Any] | None:
    """Score the cases not trained on, divided over the processes; keeps the first case of each in `first`."""
    if not run.data.test_cases:
        run.say("scores      none: the data lists no case in test_vol.txt")
        return None

    def keep_first(case: SynapseCase, prediction: np.ndarray, result: CaseResult) -> None:
        if not first:
            first.append((case, prediction))

    accelerator = run.accelerator
    mine = run.data.test_cases[accelerator.process_index :: accelerator.num_processes]
    results = score_cases(
        run.model,
        (run.data.read_test_case(name) for name in mine),
        run.processor,
        protocol=run.args.protocol,
        on_case=keep_first,
    )
    gathered = dict(gather_object(list(results.items())))
    return summarize_results({name: gathered[name] for name in run.data.test_cases}, run.args.protocol)


def _write_report(
    run: TrainingRun, metrics: dict[str, Any] | None, first: list[tuple[SynapseCase, np.ndarray]]
) -> None:
    folder, args = run.output_dir, run.args
    id2label = run.model.config.id2label
    settings = args.to_dict() | {"num_processes": run.accelerator.num_processes, "deviations": run.deviations}
    write_text(folder / "training_settings.json", json.dumps(settings, indent=2) + "\n")
    if run.log:
        draw_curve(folder / "training_curve.png", run.log, title="SAMed training")
    if metrics is not None:
        write_metrics(folder, metrics)
        case, prediction = first[0]
        draw_overlay(
            folder / "overlay.png",
            case.image,
            case.label,
            prediction,
            id2label,
            title=f"{case.name}, not trained on",
            spacing=case.spacing,
        )
        print(f"\n{format_scores(metrics)}\n", flush=True)
    local_base = args.uses_random_sam or Path(str(args.model_name_or_path)).exists()
    write_card(
        folder,
        name=args.hub_model_id or folder.resolve().name,
        base_model=None if local_base else args.model_name_or_path,
        random_base=args.uses_random_sam,
        id2label=id2label,
        image_size=run.processor.image_size,
        settings=args.to_dict() | {"num_processes": run.accelerator.num_processes, "optimizer_steps": run.plan.steps},
        deviations=run.deviations if args.preset else None,
        metrics=metrics,
        data="synthetic phantom patients" if args.uses_phantom else f"{len(run.train_cases)} cases",
    )
    files = ["adapter_model.safetensors", "metrics.json", "metrics.csv", "training_curve.png", "overlay.png"]
    print("\n".join(f"wrote       {folder / name}" for name in files if (folder / name).is_file()), flush=True)
    print(f"next        samed-hf predict {folder} SCAN.nii.gz --output segmentations", flush=True)
