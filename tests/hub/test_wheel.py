"""The package as a wheel: everything that it reads from its own files is in it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .test_card import ADAPTER, CONFIG, METRICS, SETTINGS

ROOT = Path(__file__).parents[2]
DATA = {".pyi", ".md", ".csv", ".css", ".j2", ".json", ".safetensors"}
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import samed_hf
assert samed_hf.__file__.startswith(sys.argv[1]), samed_hf.__file__
from samed_hf.hub import write_card
write_card(sys.argv[2], name="ward/discs")
"""


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A directory that holds the package as pip installs it from its wheel, and nothing else."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"  # a copy, as the build leaves files behind
    shutil.copytree(ROOT / "samed_hf", source / "samed_hf", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, source)
    pip("install", "--no-deps", "--no-index", "--target", directory / "target", *directory.glob("*.whl"))
    return directory / "target"


@pytest.mark.slow
def test_every_file_of_the_package_is_in_the_wheel(target):
    sources = {path.relative_to(ROOT) for path in (ROOT / "samed_hf").rglob("*")}
    expected = {path for path in sources if path.suffix in {".py", *DATA} or path.name == "py.typed"}
    installed = {path.relative_to(target) for path in (target / "samed_hf").rglob("*")}
    assert expected - installed == set()
    assert {path.suffix for path in expected} >= {".py", ".pyi", ".md"}


@pytest.mark.slow
def test_a_card_from_the_wheel(target, tmp_path):
    files = {"config": CONFIG, "adapter_config": ADAPTER, "metrics": METRICS, "training_settings": SETTINGS}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", SCRIPT, str(target), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "README.md").read_text()
    assert "# ward/discs" in card
    assert f"{METRICS['mean']['dice']:.4f}" in card


def test_the_cards_template_is_at_the_top_level_too():
    template = ROOT / "samed_hf" / "hub" / "templates" / "model_card.md"
    assert (ROOT / "model_card.md").read_text() == template.read_text()
