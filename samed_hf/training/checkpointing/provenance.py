"""Provenance of a run: versions, machine, code, data and base model."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...data.cache import CaseStore
from ...data.dataset import CaseDataset
from ...diagnostics.machine import installed_version, read_requirements
from ...model.fingerprint import base_fingerprint

__all__ = [
    "code_revision",
    "compare_provenance",
    "data_fingerprint",
    "find_provenance",
    "package_versions",
]

_CHUNK = 2**24
_COMPARED = {
    "data_fingerprint": "the data",
    "training_cases": "the choice or the order of the training cases",
    "base_model": "the base model's weights",
    "code": "this package's code",
    "versions": "the packages",
    "machine": "the machine",
}


def find_provenance(
    data: CaseDataset, store: CaseStore, model: torch.nn.Module, device: torch.device
) -> dict[str, Any]:
    """Return "versions", "machine", "code" and the fingerprints of data and base model, as far as they are known.

    The host's name and the names of the cases, which are private, are left out.
    """
    provenance = {
        "data_fingerprint": data_fingerprint(data, store),
        "training_cases": _training_cases(data),
        "base_model": base_fingerprint(model),
        "code": code_revision(),
        "machine": {
            "platform": platform.platform(),
            "device": device.type,
            "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "versions": package_versions(),
    }
    return {key: value for key, value in provenance.items() if value is not None}


def _training_cases(data: CaseDataset) -> str:
    """Hash which cases are trained on, in their order, by their numbers instead of their names."""
    names = sorted({*data.train, *data.validation, *data.test})
    numbers = {name: number for number, name in enumerate(names)}
    return f"sha256:{hashlib.sha256(json.dumps([numbers[name] for name in data.train]).encode()).hexdigest()}"


def package_versions() -> dict[str, str]:
    """Return the installed versions of Python, this package, its requirements and bitsandbytes."""
    versions = {name: installed_version(name) for name in ["samed_hf", *read_requirements(), "bitsandbytes"]}
    return {"python": platform.python_version()} | {name: found for name, found in versions.items() if found}


def code_revision(package: Path | None = None) -> dict[str, Any] | None:
    """Return the git commit "revision" of the checkout that contains a package, by default this one.

    "changed" is whether the package differs from it. `None` outside of a checkout or without git.
    """
    package = package or Path(__file__).parents[2]
    # An environment inside of another project's checkout isn't tracked by it.
    if not _git(package, "ls-files", "--", "__init__.py"):
        return None
    revision, changed = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--", ".")
    return None if revision is None or changed is None else {"revision": revision, "changed": bool(changed)}


def _git(directory: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(directory), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def data_fingerprint(data: CaseDataset, store: CaseStore) -> str:
    """Hash the names, intensities and label maps of all cases, and the labels' names.

    The hash depends on orientation and plane of the slices, but not on paths, order or split of the cases. All decoded
    cases are read once: about a second per gigabyte.
    """
    total = hashlib.sha256(json.dumps(sorted(data.id2label.items())).encode())
    for name in sorted({*data.train, *data.validation, *data.test}):
        image, label = store.slices(name).array, store.label(name)
        shapes = [[array.dtype.str, list(array.shape)] for array in (image, label)]
        total.update(json.dumps([name, shapes]).encode("utf-8", "surrogatepass"))
        for array in (image, label):
            flat = array.reshape(-1).view("u1")
            for first in range(0, len(flat), _CHUNK):
                total.update(flat[first : first + _CHUNK].data)
    return f"sha256:{total.hexdigest()}"


def compare_provenance(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe where two runs differ, one phrase each; only keys that both have are compared."""
    differences = []
    for key, name in _COMPARED.items():
        before, after = earlier.get(key), now.get(key)
        if before is None or after is None or before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            details = [f"{k} {after[k]} instead of {before[k]}" for k in after if k in before and before[k] != after[k]]
            if not details:
                continue
            name = f"{name} ({', '.join(details)})"
        differences.append(name)
    return differences
