"""Hundreds of malformed requests to one handler: a result or a `ValueError`, no code is run, little memory is taken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def report(tiny_adapter, tmp_path_factory):
    """What [`malformed.main`] prints, from a process of its own, whose peak memory is that of the requests."""
    command = [
        sys.executable,
        "-m",
        "tests.serving.malformed",
        str(tiny_adapter),
        str(tmp_path_factory.mktemp("files")),
    ]
    environment = os.environ | {"TMPDIR": str(tmp_path_factory.mktemp("temporary")), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) | {"left": os.listdir(environment["TMPDIR"]), "stderr": done.stderr}


@pytest.mark.slow
def test_each_is_a_result_or_one_line(report):
    assert len(report["results"]) > 200
    for name, outcome, message, *_ in report["results"]:
        assert outcome in ("result", "ValueError", "InputLimitError"), (name, outcome, message)
        assert "\n" not in message, (name, message)
        assert len(message) < 400, (name, message)
        assert "/tmp" not in message, (name, message)
    assert "Traceback" not in report["stderr"]
    refused = [name for name, outcome, *_ in report["results"] if outcome != "result"]
    assert len(refused) > 200


@pytest.mark.slow
def test_no_code_is_run_and_no_file_named_is_opened(report):
    assert not report["canary"]
    assert [(name, seen) for name, *_, seen in report["results"] if seen] == []
    assert report["left"] == []


@pytest.mark.slow
def test_peak_memory(report):
    largest = sorted(report["results"], key=lambda result: -result[3])[:5]
    assert report["peak"] - report["idle"] < 1.5e6, largest  # in kB
