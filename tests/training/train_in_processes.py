"""One training in several numbers of processes, for test_processes.py: a script, for it may not share pytest's threads.

`python -m tests.training.train_in_processes SETTINGS.json`, which holds `{"folder": …, "batch": …, "numbers": […],
"settings": {…}}`. torch's launcher forks the processes from this one, so that torch and transformers are imported once.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import samed_hf.training.run  # noqa: F401  once for all processes
from samed_hf.cli import main
from samed_hf.data.cache import CaseStore
from samed_hf.inference import slices as inference
from samed_hf.scoring import evaluation
from samed_hf.training import validation as training_validation


def train(folder: Path, settings: dict) -> None:
    """What each process does: a training, with its output and the cases it predicts in files of its own."""
    rank = os.environ["RANK"]
    scored: list[str] = []
    read, last = CaseStore.case, []

    def case(self, name):
        last[:] = [name]
        return read(self, name)

    def predict_slices(*args, **options):
        scored.extend(last)
        return inference.predict_slices(*args, **options)

    CaseStore.case = case
    training_validation.predict_slices = evaluation.predict_slices = predict_slices
    flags = [f"--{key}={value}" for key, value in settings.items()]
    with (folder / f"output-{rank}.txt").open("w") as file, redirect_stdout(file):
        status = main(["train", *flags])
    (folder / f"scored-{rank}.json").write_text(json.dumps(scored))
    sys.exit(status)


def launch(plan: dict, number: int) -> None:
    """The training in so many processes, the slices of a global batch divided among them."""
    folder = Path(plan["folder"]) / str(number)
    folder.mkdir()
    settings = plan["settings"] | {
        "output_dir": folder / "run",
        "per_device_train_batch_size": plan["batch"] // number,
    }
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=number,
        run_id=str(number),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="fork",
    )
    elastic_launch(config, train)(folder, settings)


if __name__ == "__main__":
    plan = json.loads(Path(sys.argv[1]).read_text())
    for number in plan["numbers"]:
        launch(plan, number)
