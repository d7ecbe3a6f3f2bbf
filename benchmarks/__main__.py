"""`python -m benchmarks`: run all benchmarks; write JSON and the table of docs/benchmarks.md.

`python -m benchmarks accuracy` trains beside a U-Net instead; see its --help.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from samed_hf.cli import run_command
from samed_hf.utils.atomic import write_text
from samed_hf.utils.threads import single_threaded_blas

from .bases import measure_bases, render_bases
from .gpu import measure_gpu
from .loading import measure_loading
from .machine import describe
from .memory import measure_memory
from .model import measure_inference, measure_training
from .samples import measure as measure_samples
from .scoring import measure as measure_scoring
from .table import render, update_page
from .volumes import measure_volumes

_PAGE = Path("docs/benchmarks.md")
_PARTS = ("inference", "training", "volumes", "samples", "scoring", "memory", "loading", "gpu")
_ALL = (*_PARTS, "bases")


def main() -> None:
    """Run the requested benchmarks, print the table and write the requested files."""
    if sys.argv[1:2] == ["accuracy"]:
        from .accuracy import main as compare_accuracy

        sys.exit(run_command(lambda: compare_accuracy(sys.argv[2:])))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads [all cores]")
    parser.add_argument("--only", nargs="+", choices=_ALL, default=_PARTS, help="measure these parts [all but bases]")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller cases: only checks that it runs")
    parser.add_argument("--output", type=Path, help="write the results to this JSON file")
    parser.add_argument(
        "--page",
        type=Path,
        nargs="?",
        const=_PAGE,
        metavar="FILE",
        help=f"replace the table between the markers of this page [{_PAGE} if no FILE is given]",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with single_threaded_blas():
        results = measure(arguments.only, quick=arguments.quick)
    if arguments.output:
        write_text(arguments.output, json.dumps(results, indent=2) + "\n")
    if {"inference", "training"} <= set(arguments.only) or arguments.only == ["bases"]:
        table = render_bases(results) if arguments.only == ["bases"] else render(results)
        print(table)
        if arguments.page:
            update_page(arguments.page, table)
    else:
        print(json.dumps(results, indent=2))


def measure(parts: tuple[str, ...] = _PARTS, *, quick: bool = False) -> dict[str, Any]:
    """Return the results by part; "gpu" is skipped on a machine without a GPU."""
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
        "bases": lambda: measure_bases(rounds=1 if quick else 3),
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
