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

__all__ = ["code_revision", "compare_records", "data_fingerprint", "make_record", "package_versions", "weights_hash"]

_CHUNK = 2**24
_WEIGHTS = ("*.safetensors", "*.bin")
_COMPARED = {
    "data_fingerprint": "the data",
    "base_model": "the base model's weights",
    "code": "this package's code",
    "versions": "the packages",
    "machine": "the machine",
}


def make_record(
    data: CaseDataset, store: CaseStore, base: str | Path, revision: str | None, device: torch.device
) -> dict[str, Any]:
    """Return "versions", "machine", "code", "data_fingerprint" and "base_model" of a run, as far as they are known.

    Args:
        data: the cases.
        store: the decoded cases.
        base: directory or Hub id of the base model.
        revision: its commit on the Hub.
        device: device of the run.
    """
    record = {
        "data_fingerprint": data_fingerprint(data, store),
        "base_model": weights_hash(Path(base)) if Path(base).is_dir() else revision and f"commit:{revision}",
        "code": code_revision(),
        "machine": machine(device),
        "versions": package_versions(),
    }
    return {key: value for key, value in record.items() if value is not None}


def package_versions() -> dict[str, str]:
    """Return the installed versions of Python, this package, its requirements and bitsandbytes."""
    versions = {name: installed_version(name) for name in ["samed_hf", *read_requirements(), "bitsandbytes"]}
    return {"python": platform.python_version()} | {name: found for name, found in versions.items() if found}


def machine(device: torch.device) -> dict[str, Any]:
    """Return platform, device and number of threads; not the host's name, which is private."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "platform": platform.platform(),
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
    }


def code_revision(package: Path | None = None) -> dict[str, Any] | None:
    """Return the git commit of the checkout that contains a package.

    Args:
        package: directory of the package; this one's by default.

    Returns:
        "revision", and "changed": whether the package differs from it; `None` outside of a checkout or without git.
    """
    package = package or Path(__file__).parents[2]
    # An environment inside of another project's checkout isn't tracked by it.
    if not _git(package, "ls-files", "--", "__init__.py"):
        return None
    revision, changed = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--", ".")
    return None if revision is None or changed is None else {"revision": revision, "changed": bool(changed)}


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


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


def weights_hash(directory: Path) -> str | None:
    """Hash the weight files in a model's directory; `None` if there are none."""
    files = next((found for pattern in _WEIGHTS if (found := sorted(directory.glob(pattern)))), [])
    if not files:
        return None
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                total.update(chunk)
    return f"sha256:{total.hexdigest()}"


def compare_records(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe where the provenance of two runs differs.

    Args:
        earlier, now: "run" in `training_settings.json`; only keys that both have are compared.

    Returns:
        One phrase for each difference.
    """
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
