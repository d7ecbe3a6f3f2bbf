"""What a run was made with and of: versions, machine, code, data and base model, so that it can be done again."""

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
from ...diagnostics.requirements import installed_version, read_requirements

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
    """What no setting says of a run: "versions", "machine", "code", "data_fingerprint" and "base_model".

    Args:
        data: the cases.
        store: the same decoded.
        base: folder or Hub id of the base model.
        revision: its commit on the Hub.
        device: where the run computes.
    """
    is_folder = Path(base).is_dir()
    record = {
        "data_fingerprint": data_fingerprint(data, store),
        "base_model": weights_hash(Path(base)) if is_folder else revision and f"commit:{revision}",
        "code": code_revision(),
        "machine": machine(device),
        "versions": package_versions(),
    }
    return {key: value for key, value in record.items() if value is not None}


def package_versions() -> dict[str, str]:
    """Versions of Python, this package and everything that it requires, so far as they are installed."""
    names = [one.name for one in read_requirements() if not one.extra]
    versions = {name: installed_version(name) for name in ["samed_hf", *names, "bitsandbytes"]}
    return {"python": platform.python_version()} | {name: one for name, one in versions.items() if one is not None}


def machine(device: torch.device) -> dict[str, Any]:
    """Platform, device and threads; not the machine's name, which is nobody's business."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "platform": platform.platform(),
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
    }


def code_revision(package: Path | None = None) -> dict[str, Any] | None:
    """The git commit of the checkout that a package's code lies in.

    Args:
        package: folder of the package; by default this one's.

    Returns:
        "revision", and whether the package differs from it, "changed"; `None` where the code is in no checkout, or
        there is no git.
    """
    package = package or Path(__file__).parents[2]
    # A package installed into an environment inside of some other project isn't tracked by that project.
    if not _git(package, "ls-files", "--", "__init__.py"):
        return None
    revision, changed = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--", ".")
    return None if revision is None or changed is None else {"revision": revision, "changed": bool(changed)}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def data_fingerprint(data: CaseDataset, store: CaseStore) -> str:
    """A hash of the names, intensities and label maps of all cases, and of the labels' names.

    It doesn't depend on where the files lie, nor on the order or the split of the cases, but on how they are cut, and
    so on orientation and plane. All decoded cases are read once: about a second for each gigabyte.
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


def weights_hash(folder: Path) -> str | None:
    """A hash of the weights' files of a model's folder; `None` without any."""
    files = next((found for pattern in _WEIGHTS if (found := sorted(folder.glob(pattern)))), [])
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
    """Where a run that repeats another differs from it in what no setting says, in words.

    Args:
        earlier, now: the "run" of a `training_settings.json`; what one of them doesn't tell isn't compared.
    """
    found = []
    for key, what in _COMPARED.items():
        before, after = earlier.get(key), now.get(key)
        if before is None or after is None or before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            differing = [name for name in after if name in before and before[name] != after[name]]
            details = ", ".join(f"{name} {after[name]} instead of {before[name]}" for name in differing)
            if not differing:
                continue
            what = f"{what} ({details})"
        found.append(what)
    return found
