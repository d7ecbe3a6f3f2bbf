"""Several processes on a CPU, of which Accelerate's launcher starts only one.

`accelerate launch --cpu --num_processes N` needs MPI to start more than one process; without MPI it sets the address
of the first process in the environment and silently starts only that one (huggingface/accelerate, issue 2741).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import psutil

__all__ = ["processes_not_started", "restart_in_processes"]

# Set by torchrun or MPI in each of several processes.
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def processes_not_started() -> int | None:
    """Return the number of CPU processes requested from `accelerate launch`, if it started only one; 0 if unknown.

    Returns `None` if all requested processes run.
    """
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes")
    if not on_cpu or "MASTER_ADDR" not in os.environ or any(name in os.environ for name in _WORLD_SIZES):
        return None
    # The environment lacks the number; the launcher's command line or its configuration file has it.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--num_processes", "--num-processes", type=int, default=0)
    try:
        return parser.parse_known_args(psutil.Process(os.getppid()).cmdline())[0].num_processes
    except (psutil.Error, argparse.ArgumentError):
        return 0


def restart_in_processes(module: str, argv: Sequence[str], num_processes: int) -> None:
    """Replace this process by torchrun, which runs `python -m module argv` in several processes."""
    sys.stdout.flush()
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={num_processes}"]
    address = [f"--master_addr={os.environ['MASTER_ADDR']}", f"--master_port={os.environ['MASTER_PORT']}"]
    if os.environ["MASTER_PORT"] == "0":  # any free port, for which all processes would wait otherwise
        address = ["--standalone"]
    os.execv(sys.executable, [sys.executable, *launcher, *address, "-m", module, *argv])
