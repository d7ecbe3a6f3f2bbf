import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from samed_hf.training.distributed import launching
from samed_hf.training.distributed.launching import (
    processes_not_started,
    restart_in_processes,
)

ASKED = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def environment(monkeypatch):
    for name in (*ASKED, "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def put(variables, command=()):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(psutil.Process, "cmdline", lambda self: list(command))

    return put


@pytest.mark.parametrize(
    "variables",
    [{}, {"ACCELERATE_USE_CPU": "True"}, ASKED | {"ACCELERATE_USE_CPU": "False"}, ASKED | {"WORLD_SIZE": "2"}],
)
def test_nothing_is_missing(environment, variables):
    environment(variables, ["accelerate", "launch", "--num_processes", "2"])
    assert processes_not_started() is None


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (["accelerate", "launch", "--num_processes", "3", "--cpu", "train.py", "--rank", "8"], 3),
        (["accelerate", "launch", "--cpu", "--num-processes=2", "train.py"], 2),
        (["accelerate", "launch", "--config_file", "cpu.yaml", "train.py"], 0),
        (["accelerate", "launch", "--num_processes", "many"], 0),
    ],
)
def test_the_number_is_read_from_the_launchers_command_line(environment, command, number):
    environment(ASKED, command)
    assert processes_not_started() == number


@pytest.mark.parametrize(("port", "address"), [("29500", "--master_port=29500"), ("0", "--standalone")])
def test_it_restarts_under_torchs_launcher(environment, monkeypatch, port, address):
    environment(ASKED | {"MASTER_PORT": port})
    replaced = []
    monkeypatch.setattr(os, "execv", lambda *args: replaced.append(args))
    restart_in_processes("package.module", ["train", "--rank", "2"], 2)
    ((program, arguments),) = replaced
    assert program == sys.executable
    assert arguments[1:3] == ["-m", "torch.distributed.run"]
    assert "--nproc_per_node=2" in arguments
    assert address in arguments
    assert arguments[-5:] == ["-m", "package.module", "train", "--rank", "2"]


@pytest.mark.slow
def test_the_launcher_still_starts_one_process_alone(tmp_path):
    """Should Accelerate mend this, `launching` can go."""
    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(Path(launching.__file__).parents[3])!r})\n")
    with script.open("a") as file:
        file.write(
            "from samed_hf.training.distributed.launching import processes_not_started\n"
            "print('missing', processes_not_started())\n"
        )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", str(script)]
    assert "missing 2" in subprocess.run(launch, capture_output=True, text=True, check=True).stdout
