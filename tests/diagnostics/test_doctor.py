"""`samed-hf doctor`, also where packages are missing or broken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from samed_hf.cli import main
from samed_hf.diagnostics import doctor as doctor_module
from samed_hf.diagnostics import machine as machine_facts

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Estimates of memory take seconds; test_memory.py tests them."""
    fit = {"batch_size": 4, "flags": "--gradient_checkpointing", "bytes": 3.2e9}
    monkeypatch.setattr(
        doctor_module, "_fits", lambda devices: {"cpu": {"ViT-B": fit, "ViT-H": None}, "cuda:0": {"ViT-B": None}}
    )


def test_a_complete_machine(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "torch 2." in printed
    assert "verdict     all required packages work" in printed
    assert "fits        cpu: ViT-B, 4 slices in a batch with --gradient_checkpointing, about 3.2 GB" in printed
    assert "ViT-H can't be trained, not even with one slice in a batch: use facebook/sam-vit-base" in printed
    assert "cuda:0: ViT-B can't be trained, not even with one slice in a batch: use samed_hf/small" in printed
    assert "Hub         offline: HF_HUB_OFFLINE is set" in printed  # as all tests are


def test_as_json(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == []
    assert found["packages"]["peft"]["problem"] is None
    cpu = found["devices"][0]
    assert cpu["device"] == "cpu"
    assert 0 < cpu["free"] <= cpu["bytes"]
    assert cpu["cores"] >= 1
    assert found["disk"]["working directory"]["free"] > 0


def test_what_is_missing_or_out_of_range_ends_with_1(monkeypatch, capsys):
    monkeypatch.setattr(machine_facts, "read_requirements", lambda: {"torch": ">=99", "no-such-package": ">=1"})
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "is out of range, expected >=99: pip install 'torch>=99'" in printed
    assert "no-such-package: isn't installed, expected >=1: pip install 'no-such-package>=1'" in printed
    assert printed.splitlines()[-1] == "verdict     training can't run here yet"


def test_without_packaging_no_range_is_checked_and_it_is_reported_as_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging", None)
    monkeypatch.setitem(sys.modules, "packaging.specifiers", None)
    missing = doctor_module.diagnose()["missing"]
    assert any(line.startswith("packaging: ") for line in missing)
    assert not any("out of range" in line for line in missing)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["torch", "peft"])
def test_a_broken_package_is_named_and_hides_nothing_else(package, tmp_path):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise OSError('libsomething.so: undefined symbol')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "samed_hf.cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert any(line.startswith(f"{package}: ") and "undefined symbol" in line for line in found["missing"])
    assert found["packages"]["numpy"]["problem"] is None
    assert found["devices"][0]["bytes"] > 0
    assert found["disk"]


@pytest.mark.slow
def test_importing_the_model_shows_what_is_broken(tmp_path):
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "__init__.py").write_text("raise ImportError('no peft')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", "import samed_hf.model"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ImportError: no peft"


def test_the_hub_may_be_unreachable(monkeypatch):
    requests = []

    class Session:
        def head(self, address, timeout):
            requests.append((address, timeout))
            raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.get_session", Session)
    assert machine_facts.find_hub()["state"] == "unreachable"
    assert requests[0][1] <= 5
    monkeypatch.setattr(Session, "head", lambda *args, **options: None)
    assert machine_facts.find_hub()["state"] == "reachable"
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    monkeypatch.setattr(Session, "head", lambda *args, **options: pytest.fail("a request was sent to the Hub"))
    assert machine_facts.find_hub()["state"] == "offline"


def test_a_gpu_and_its_data_types(monkeypatch):
    class Properties:
        name, major, minor, total_memory = "Some GPU", 7, 5, 16_000_000_000

    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: Properties)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda index: (12_000_000_000, 16_000_000_000))
    monkeypatch.setattr("samed_hf.model.precision.computes_bfloat16", lambda device: device == "cpu")
    found = doctor_module.diagnose()
    gpu = found["devices"][1]
    assert (gpu["device"], gpu["compute_capability"], gpu["free"]) == ("cuda:0", "7.5", 12_000_000_000)
    assert any("--mixed_precision fp16 instead of bf16" in line for line in found["warnings"])
    lines = doctor_module.format_diagnosis(found)
    assert "cuda:0: Some GPU, compute capability 7.5, 16.0 GB, 12.0 GB of it free, has no bfloat16" in lines


def test_low_disk_gives_a_warning(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1e9}))
    assert any("has only 1.0 GB free" in line for line in doctor_module.diagnose()["warnings"])
