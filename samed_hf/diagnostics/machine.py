"""What a machine has: packages, devices, disk, the Hub, Accelerate's configuration; any package may be missing."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

from ..utils.text import one_line

__all__ = [
    "find_accelerate_config",
    "find_accelerators",
    "find_disk",
    "find_hub",
    "find_processor",
    "installed_version",
    "read_requirements",
    "short_reason",
]

_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
_TIMEOUT = 3  # seconds for the Hub


def short_reason(error: BaseException) -> str:
    """The message of an error in one line of at most 300 characters."""
    return one_line(error)[:300]


def find_processor() -> dict[str, Any]:
    """The processor and the machine's memory; without /proc/cpuinfo only the name, no instructions."""
    import psutil

    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        rows = {key.strip().lower(): value for key, _, value in (line.partition(":") for line in text.splitlines())}
        name = rows.get("model name", platform.machine()).strip()
    except OSError:
        rows, name = {}, platform.processor() or platform.machine()
    flags = rows.get("flags", rows.get("features", "")).split()
    try:
        from ..model.precision import computes_bfloat16

        native = computes_bfloat16("cpu")
    except Exception:  # torch is broken or missing, which the packages' part reports
        native = None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    instructions = [one for one in _INSTRUCTIONS if one in flags]
    about = {"device": "cpu", "name": name, "cores": cores, "instructions": instructions}
    memory = psutil.virtual_memory()
    return about | {"bytes": memory.total, "free": memory.available, "bfloat16": native}


def find_accelerators() -> list[dict[str, Any]]:
    """GPUs and other accelerators that torch can use."""
    import torch

    from ..model.precision import computes_bfloat16

    devices: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count()):
        gpu, device = torch.cuda.get_device_properties(index), f"cuda:{index}"
        about = {"device": device, "name": gpu.name, "compute_capability": f"{gpu.major}.{gpu.minor}"}
        memory = {"bytes": gpu.total_memory, "free": torch.cuda.mem_get_info(index)[0]}
        devices.append(about | memory | {"bfloat16": computes_bfloat16(device)})
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and not devices:
        kind, unknown = accelerator.type, {"bytes": None, "free": None}  # the machine's memory, or it can't be queried
        devices.append({"device": kind, "name": kind} | unknown | {"bfloat16": computes_bfloat16(kind)})
    return devices


def find_disk() -> dict[str, dict[str, Any]]:
    """Bytes free where runs and where models are written."""
    directories = {"working directory": Path.cwd()}
    try:
        from huggingface_hub.constants import HF_HUB_CACHE

        directories["Hub cache"] = Path(HF_HUB_CACHE)
    except ImportError:
        pass
    disks = {}
    for name, path in directories.items():
        existing = next(parent for parent in [path, *path.absolute().parents] if parent.exists())
        free, writable = shutil.disk_usage(existing).free, os.access(existing, os.W_OK)
        disks[name] = {"path": str(path), "free": free, "writable": writable}
    return disks


def find_hub() -> dict[str, str]:
    """Whether the Hub can be reached; no request is sent in offline mode."""
    from huggingface_hub import constants, get_session, get_token

    signed_in = "signed in" if get_token() else "not signed in: hf auth login, or HF_TOKEN, to publish"
    if constants.is_offline_mode():
        return {"state": "offline", "why": "HF_HUB_OFFLINE is set: only what is in the cache can be loaded"}
    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
    except Exception as error:  # the HTTP library's own type
        return {"state": "unreachable", "why": f"{constants.ENDPOINT}: {short_reason(error)}"}
    return {"state": "reachable", "why": f"{constants.ENDPOINT}, {signed_in}"}


def find_accelerate_config() -> dict[str, Any] | None:
    """Path and content of Accelerate's default configuration, or `None`."""
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file

    if not os.path.isfile(default_config_file):
        return None
    content = {key: value for key, value in vars(load_config_from_file(None)).items() if value not in (None, {})}
    return {"path": str(default_config_file), "content": {key: str(value) for key, value in content.items()}}


def read_requirements(setup_file: Path | None = None) -> dict[str, str]:
    """The range of versions, e.g. ">=2.6", of each required package, from a checkout's setup.cfg or the metadata."""
    path = setup_file or Path(__file__).parents[2] / "setup.cfg"
    if path.is_file():
        parser = configparser.ConfigParser()
        parser.read(path, encoding="utf-8")
        lines = parser.get("options", "install_requires", fallback="").splitlines()
    else:
        try:
            lines = importlib.metadata.requires("samed_hf") or []
        except importlib.metadata.PackageNotFoundError:
            lines = []
    found = [re.match(r"\s*([\w.-]+)\s*\(?([^;)]*)", line) for line in lines if not re.search(r"extra\s*==", line)]
    return {match[1]: match[2].strip() for match in found if match}


def installed_version(name: str) -> str | None:
    """The version of a distribution, or `None` if it isn't installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
