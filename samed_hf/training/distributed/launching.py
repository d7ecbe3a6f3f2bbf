"""Several processes on a CPU, where Accelerate's launcher starts but one.

`accelerate launch --cpu --num_processes N` needs MPI to start more than one process; without it, it leaves the address
of the first process in the environment and silently starts that one alone (huggingface/accelerate, issue 2741).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import psutil

__all__ = ["processes_not_started", "restart_in_processes"]

# What torchrun or MPI sets for a process that has companions.
_HAS_COMPANIONS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def processes_not_started() -> int | None:
    """How many processes `accelerate launch` was asked for on the CPU but didn't start.

    Returns:
        Their number, at least 2; 0 where several were asked for but their number can't be found out; `None` where all
        is as asked.
    """
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes")
    if not on_cpu or "MASTER_ADDR" not in os.environ or any(name in os.environ for name in _HAS_COMPANIONS):
        return None
    # The number itself isn't in the environment, but in the launcher's command line, or in its configuration file.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--num_processes", "--num-processes", type=int, default=0)
    try:
        return parser.parse_known_args(psutil.Process(os.getppid()).cmdline())[0].num_processes
    except (psutil.Error, argparse.ArgumentError):
        return 0


def restart_in_processes(module: str, argv: Sequence[str], num_processes: int) -> None:
    """Replace this process by torch's launcher, which runs `python -m module argv` in several processes."""
    sys.stdout.flush()
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={num_processes}"]
    address = [f"--master_addr={os.environ['MASTER_ADDR']}", f"--master_port={os.environ['MASTER_PORT']}"]
    os.execv(sys.executable, [sys.executable, *launcher, *address, "-m", module, *argv])
