"""`samed-hf doctor`: what this machine has, what is missing, what fits; works where packages are missing or broken."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import platform
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from .machine import accelerate_config, find_accelerators, find_disk, find_hub, find_processor, reason
from .requirements import installed_version, read_requirements

__all__ = ["diagnose", "doctor", "format_diagnosis"]

_MODULES = {"pillow": "PIL", "pyyaml": "yaml"}  # where it is named otherwise than its package
_OPTIONAL = {
    "tensorboard": "curves of a training, --report_to tensorboard",
    "wandb": "--report_to wandb",
    "trackio": "--report_to trackio",
    "bitsandbytes": "--optimizer adamw_8bit, on a GPU",
    "gradio": "the page of examples/space",
}
_LIBRARIES = 1e9  # bytes that a process takes beside its tensors: Python, libraries, an accelerator's context
_LITTLE_DISK = 5e9


def doctor(args: argparse.Namespace) -> int:
    """`samed-hf doctor`: print the diagnosis; returns 0, or 1 where something required is missing."""
    noise = io.StringIO()
    with contextlib.redirect_stderr(noise), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = diagnose()
    print(json.dumps(found, indent=2) if args.json else format_diagnosis(found), flush=True)
    return 1 if found["missing"] else 0


def diagnose() -> dict[str, Any]:
    """Everything that is found out, ready for JSON.

    Returns:
        - `python`, `platform`, `samed_hf`: versions.
        - `packages`: for each required one "version", "expected", "problem" (`None` where all is well).
        - `optional`: version of each, or `None`, and what it is "for".
        - `devices`: the processor, then each accelerator, with "bytes" and "free" of its memory, "bfloat16".
        - `disk`: bytes free where runs and where models are written.
        - `hub`: "state" reachable, offline or unreachable, and why.
        - `accelerate`: its default configuration's file and content, or `None`.
        - `fits`: for each device and model the largest batch with what it takes, or `None`.
        - `missing`: one line for each thing that is required and isn't there; `warnings`: for what may disturb.
    """
    packages = {one.name: _package(one.name, one.versions) for one in read_requirements() if not one.extra}
    missing = [f"{name}: {row['problem']}" for name, row in packages.items() if row["problem"]]
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "samed_hf": installed_version("samed_hf"),
        "packages": packages,
        "optional": {name: {"version": installed_version(name), "for": use} for name, use in _OPTIONAL.items()},
    }
    processor, problem = _try(find_processor, None)
    accelerators, other = _try(find_accelerators, [])
    found["devices"] = [*([processor] if processor else []), *accelerators]
    notes = [f"devices: {one}" for one in (problem, other) if one]
    found["disk"], _ = _try(find_disk, {})
    found["hub"], _ = _try(find_hub, {"state": "unknown", "why": "huggingface-hub can't be used"})
    found["accelerate"], _ = _try(accelerate_config, None)
    found["fits"], problem = _try(lambda: _fits(found["devices"]), {})
    notes += [f"what fits can't be told: {problem}"] if problem else []
    return found | {"missing": missing, "warnings": notes + _warnings(found)}


def _try(what: Callable[[], Any], otherwise: Any) -> tuple[Any, str | None]:
    """A part of the diagnosis; a broken package mustn't hide the others, so anything that it raises becomes a line."""
    try:
        return what(), None
    except Exception as error:
        return otherwise, reason(error)


def _package(name: str, expected: str) -> dict[str, str | None]:
    version, problem = installed_version(name), None
    if version is None:
        problem = f"isn't installed, expected {expected or 'any version'}: pip install '{name}{expected}'"
    else:
        problem = _out_of_range(name, version, expected)
    if problem is None:
        try:
            importlib.import_module(_MODULES.get(name, name.replace("-", "_")))
        except Exception as error:
            problem = f"{version} is installed but can't be loaded ({reason(error)}): install it anew"
    return {"version": version, "expected": expected, "problem": problem}


def _out_of_range(name: str, version: str, expected: str) -> str | None:
    try:
        from packaging.specifiers import SpecifierSet

        fits = SpecifierSet(expected).contains(version, prereleases=True)
    except ImportError:
        return None  # packaging itself is told as missing
    return None if fits else f"{version} is out of range, expected {expected}: pip install '{name}{expected}'"


def _fits(devices: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    from .fitting import fitting_batches

    free = {one["device"]: one["free"] - _LIBRARIES for one in devices if one["free"] is not None}
    return fitting_batches(free, [one["device"] for one in devices if one["bfloat16"]])


def _warnings(found: dict[str, Any]) -> list[str]:
    """What may disturb a training, in words."""
    lines = []
    accelerators = [device for device in found["devices"] if device["device"] != "cpu"]
    if not accelerators:
        lines.append("no GPU: a ViT-B step at 512 pixels takes seconds here, and an epoch hours")
    elif not any(device["bfloat16"] for device in accelerators):
        lines.append("no GPU here computes bfloat16: --mixed_precision fp16 instead of bf16")
    for name, place in found["disk"].items():
        if not place["writable"]:
            lines.append(f"{name} {place['path']} can't be written to")
        elif place["free"] < _LITTLE_DISK:
            lines.append(f"{name} {place['path']} has only {_gigabytes(place['free'])} free")
    if found["hub"]["state"] != "reachable":
        lines.append(f"the Hub is {found['hub']['state']}: give models and data as folders")
    return lines


def format_diagnosis(found: dict[str, Any]) -> str:
    """The diagnosis as lines for people."""
    return "\n".join(_lines(found))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"samed_hf    {found['samed_hf'] or 'not installed, run from its code'}, Python {found['python']}"
    yield f"platform    {found['platform']}"
    good = [f"{name} {row['version']}" for name, row in found["packages"].items() if not row["problem"]]
    yield f"packages    {', '.join(good) or 'none'}"
    there = [f"{name} {row['version']}" for name, row in found["optional"].items() if row["version"]]
    yield f"optional    {', '.join(there) or 'none'}"
    for name, row in found["optional"].items():
        if not row["version"]:
            yield f"            no {name} ({row['for']})"
    for device in found["devices"]:
        yield f"device      {_device(device)}"
    for name, place in found["disk"].items():
        yield f"disk        {_gigabytes(place['free'])} free in the {name}, {place['path']}"
    yield f"Hub         {found['hub']['state']}: {found['hub']['why']}"
    config = found["accelerate"]
    if config is None:
        yield "accelerate  no default configuration (accelerate config makes one; a single process needs none)"
    else:
        told = ", ".join(f"{key} {value}" for key, value in config["content"].items())
        yield f"accelerate  {config['path']}: {told}"
    for device, models in found["fits"].items():
        for model, fit in models.items():
            yield f"fits        {device}: {_fit(model, fit)}"
    if found["fits"]:
        yield "            at 512 pixels with 9 labels; computed, not measured"
    yield from (f"warning     {line}" for line in found["warnings"])
    yield from (f"missing     {line}" for line in found["missing"])
    yield "verdict     " + (
        "all that is required is there" if not found["missing"] else "a training can't run here yet"
    )


def _device(device: dict[str, Any]) -> str:
    parts = [f"{device['device']}: {device['name']}"]
    if device.get("cores"):
        parts.append(f"{device['cores']} cores")
    if device.get("instructions"):
        parts.append(" ".join(device["instructions"]))
    if device.get("compute_capability"):
        parts.append(f"compute capability {device['compute_capability']}")
    if device["bytes"] is not None:
        parts.append(f"{_gigabytes(device['bytes'])}, {_gigabytes(device['free'])} of it free")
    native = {True: "computes bfloat16", False: "has no bfloat16 instructions", None: "bfloat16 unknown"}
    return ", ".join([*parts, native[device["bfloat16"]]])


def _fit(model: str, fit: dict[str, Any] | None) -> str:
    if fit is None:
        return f"{model} can't be trained, not even one slice at a time"
    slices = "1 slice" if fit["batch_size"] == 1 else f"{fit['batch_size']} slices"
    flags = f" with {fit['flags']}" if fit["flags"] else ""
    return f"{model}, {slices} at once{flags}, about {_gigabytes(fit['bytes'])}"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
