"""`python -m benchmarks`: everything measured in one run, as JSON and as the README's table."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch

from samed_hf.utils.atomic import write_text
from samed_hf.utils.threads import single_threaded_blas

from .gpu import measure_gpu
from .loading import measure_loading
from .machine import describe
from .memory import measure_memory
from .model import measure_inference, measure_training
from .samples import measure as measure_samples
from .scoring import measure as measure_scoring
from .table import put_into_readme, render
from .volumes import measure_volumes

_PARTS = ("inference", "training", "volumes", "samples", "scoring", "memory", "loading", "gpu")


def main() -> None:
    """Measure, print the table and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads [all cores]")
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=_PARTS, help="measure these parts [all]")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller cases: is it running at all?")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--readme", type=Path, help="put the table into this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with single_threaded_blas():
        results = measure(arguments.only, quick=arguments.quick)
    if arguments.output:
        write_text(arguments.output, json.dumps(results, indent=2) + "\n")
    if {"inference", "training"} <= set(arguments.only):
        table = render(results)
        print(table)
        if arguments.readme:
            put_into_readme(arguments.readme, table)
    else:
        print(json.dumps(results, indent=2))


def measure(parts: tuple[str, ...] = _PARTS, *, quick: bool = False) -> dict[str, Any]:
    """The results by part; "gpu" only where there is one."""
    rounds = 1 if quick else 5
    tasks = {
        "inference": lambda: measure_inference(rounds=rounds),
        "training": lambda: [measure_training(batch_size=size, rounds=1 if quick else 3) for size in (1, 2)],
        "volumes": lambda: measure_volumes(rounds=1 if quick else 3),
        "samples": lambda: measure_samples(quick),
        "scoring": lambda: measure_scoring(quick),
        "memory": measure_memory,
        "loading": lambda: measure_loading(rounds=rounds),
        "gpu": measure_gpu,
    }
    results: dict[str, Any] = {"machine": describe()}
    for part, task in tasks.items():
        if part not in parts or (part == "gpu" and not torch.cuda.is_available()):
            continue
        print(f"measuring {part} ...", flush=True)
        results[part] = task()
    return results


if __name__ == "__main__":
    main()
