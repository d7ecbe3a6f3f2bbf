"""What a machine has: processor, accelerators, disk, the Hub, Accelerate's configuration; packages may be missing."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

from ..utils.text import one_line

__all__ = ["find_accelerate_config", "find_accelerators", "find_disk", "find_hub", "find_processor", "short_reason"]

_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
_TIMEOUT = 3  # seconds for the Hub


def short_reason(error: BaseException) -> str:
    """The message of an error in one line of at most 300 characters."""
    return one_line(error)[:300]


def find_processor() -> dict[str, Any]:
    """The processor and the machine's memory."""
    import psutil

    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name, instructions = _processor()
    about = {"device": "cpu", "name": name, "cores": cores, "instructions": instructions}
    try:
        native = _computes_bfloat16("cpu")
    except Exception:  # torch is broken or missing, which the packages' part reports
        native = None
    return about | {"bytes": memory.total, "free": memory.available, "bfloat16": native}


def _computes_bfloat16(device: str) -> bool:
    from ..model.precision import computes_bfloat16

    return computes_bfloat16(device)


def find_accelerators() -> list[dict[str, Any]]:
    """GPUs and other accelerators that torch can use."""
    import torch

    devices = []
    for index in range(torch.cuda.device_count()):
        properties, device = torch.cuda.get_device_properties(index), f"cuda:{index}"
        devices.append(
            {
                "device": device,
                "name": properties.name,
                "compute_capability": f"{properties.major}.{properties.minor}",
                "bytes": properties.total_memory,
                "free": torch.cuda.mem_get_info(index)[0],
                "bfloat16": _computes_bfloat16(device),
            }
        )
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and not devices:
        kind = accelerator.type
        # Its memory is the machine's, or can't be queried.
        unknown = {"bytes": None, "free": None}
        devices.append({"device": kind, "name": kind, **unknown, "bfloat16": _computes_bfloat16(kind)})
    return devices


def _processor() -> tuple[str, list[str]]:
    """Name and relevant instructions; without /proc/cpuinfo the name only."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), []
    rows = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    rows = {key.strip().lower(): value.strip() for key, value in rows.items()}
    flags = set(rows.get("flags", rows.get("features", "")).split())
    return rows.get("model name", platform.machine()), [flag for flag in _INSTRUCTIONS if flag in flags]


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
    from huggingface_hub import constants, get_token

    signed_in = "signed in" if get_token() else "not signed in: hf auth login, or HF_TOKEN, to publish"
    if constants.is_offline_mode():
        return {"state": "offline", "why": "HF_HUB_OFFLINE is set: only what is in the cache can be loaded"}
    from huggingface_hub import get_session

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
