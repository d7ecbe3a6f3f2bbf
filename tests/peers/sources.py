"""The test suites of the installed transformers and PEFT, from their source distributions."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

# Stands for the images of the Hub.
_ANY_IMAGE = """
import tempfile
import numpy as np
from PIL import Image

def url_to_local_path(url):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    image.save(path := tempfile.mkstemp(suffix=".png")[1])
    return path
"""
# Modules that transformers' common tests import and its source distribution leaves out: tests of exporters and of text
# generation, and a helper that fetches images of the Hub.
_LEFT_OUT = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/__init__.py": "",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "../fetch_hub_objects_for_ci.py": _ANY_IMAGE,
    "../diffusers.py": "StableDiffusionPipeline = None\n",
}


def fetch_test_suites(directory: Path) -> Path:
    """Download both source distributions with pip and unpack their tests as packages of their own.

    Returns:
        A directory for `PYTHONPATH` with the packages `transformers_tests` and `peft_tests`.

    Raises:
        subprocess.CalledProcessError: pip can't fetch one.
    """
    for name in ("transformers", "peft"):
        requirement = f"{name}=={version(name)}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*pip, "--no-build-isolation", "--dest", directory, requirement], check=True)
        with tarfile.open(next(directory.glob(f"{name}-*.tar.gz"))) as archive:
            archive.extractall(directory, filter="data")
        (next(directory.glob(f"{name}-*/")) / "tests").rename(directory / f"{name}_tests")
    for path, text in _LEFT_OUT.items():
        file = directory / "transformers_tests" / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (directory / "peft_tests" / "__init__.py").touch()
    return directory
