"""What a machine has, what is missing and what fits; works where packages are missing or broken."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable
from typing import Any

from . import machine

__all__ = ["diagnose", "format_diagnosis"]

# Modules of the packages whose module has another name.
_MODULES = {"pillow": "PIL", "pyyaml": "yaml", "pylibjpeg-libjpeg": "libjpeg", "pylibjpeg-openjpeg": "openjpeg"}
_OPTIONAL = {
    "tensorboard": "curves of a training, --report_to tensorboard",
    "wandb": "--report_to wandb",
    "trackio": "--report_to trackio",
    "bitsandbytes": "--optimizer adamw_8bit, on a GPU",
    "gradio": "the page of examples/space",
}
_LIBRARIES = 1e9  # bytes of a process besides its tensors: Python, libraries, an accelerator's context
_LOW_DISK = 5e9


def diagnose() -> dict[str, Any]:
    """Examine the machine.

    Returns:
        Content for JSON, with the keys

        - `python`, `platform`, `samed_hf`: versions.
        - `packages`: "version", "expected" and "problem" (or `None`) of each required package.
        - `optional`: "version" (or `None`) of each optional package, and what it is "for".
        - `devices`: the processor, then each accelerator, with "bytes" and "free" of its memory, and "bfloat16".
        - `disk`: bytes free where runs and where models are written.
        - `hub`: "state" reachable, offline or unreachable, and "why".
        - `accelerate`: path and content of its default configuration, or `None`.
        - `fits`: for each device and model the largest batch and its memory, or `None`.
        - `missing`: one line for each required package that is missing or broken; `warnings`: other lines.
    """
    packages = {}
    for name, expected in machine.read_requirements().items():
        version = machine.installed_version(name)
        problem = _package_problem(name, version, expected)
        packages[name] = {"version": version, "expected": expected, "problem": problem}
    diagnosis: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "samed_hf": machine.installed_version("samed_hf"),
        "packages": packages,
        "optional": {name: {"version": machine.installed_version(name), "for": use} for name, use in _OPTIONAL.items()},
    }
    processor, problem = _try(machine.find_processor, None)
    accelerators, other = _try(machine.find_accelerators, [])
    diagnosis["devices"] = [*([processor] if processor else []), *accelerators]
    warnings = [f"devices: {one}" for one in (problem, other) if one]
    diagnosis["disk"], _ = _try(machine.find_disk, {})
    diagnosis["hub"], _ = _try(machine.find_hub, {"state": "unknown", "why": "huggingface-hub can't be used"})
    diagnosis["accelerate"], _ = _try(machine.find_accelerate_config, None)
    diagnosis["fits"], problem = _try(lambda: _fits(diagnosis["devices"]), {})
    warnings += [f"memory can't be estimated: {problem}"] if problem else []
    missing = [f"{name}: {row['problem']}" for name, row in packages.items() if row["problem"]]
    return diagnosis | {"missing": missing, "warnings": warnings + _warnings(diagnosis)}


def _try(part: Callable[[], Any], default: Any) -> tuple[Any, str | None]:
    """Return a part of the diagnosis, or `default` and the reason, so that a broken package hides no other part."""
    try:
        return part(), None
    except Exception as error:
        return default, machine.short_reason(error)


def _package_problem(name: str, version: str | None, expected: str) -> str | None:
    if version is None:
        return f"isn't installed, expected {expected or 'any version'}: pip install '{name}{expected}'"
    try:
        from packaging.specifiers import SpecifierSet

        if not SpecifierSet(expected).contains(version, prereleases=True):
            return f"{version} is out of range, expected {expected}: pip install '{name}{expected}'"
    except ImportError:
        pass  # packaging itself is reported as missing
    try:
        importlib.import_module(_MODULES.get(name, name.replace("-", "_")))
    except Exception as error:
        return f"{version} is installed but can't be imported ({machine.short_reason(error)}): install it again"
    return None


def _fits(devices: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    from .memory import fitting_batches

    free = {one["device"]: one["free"] - _LIBRARIES for one in devices if one["free"] is not None}
    return fitting_batches(free, [one["device"] for one in devices if one["bfloat16"]])


def _warnings(diagnosis: dict[str, Any]) -> list[str]:
    lines = []
    accelerators = [device for device in diagnosis["devices"] if device["device"] != "cpu"]
    if not accelerators:
        lines.append("no GPU: a ViT-B step at 512 pixels takes seconds here, and an epoch hours")
    elif not any(device["bfloat16"] for device in accelerators):
        lines.append("no GPU here computes bfloat16: --mixed_precision fp16 instead of bf16")
    for name, disk in diagnosis["disk"].items():
        if not disk["writable"]:
            lines.append(f"{name} {disk['path']} is not writable")
        elif disk["free"] < _LOW_DISK:
            lines.append(f"{name} {disk['path']} has only {_gigabytes(disk['free'])} free")
    if diagnosis["hub"]["state"] != "reachable":
        lines.append(f"the Hub is {diagnosis['hub']['state']}: use local directories as models and data")
    return lines


def format_diagnosis(diagnosis: dict[str, Any]) -> str:
    """The result of [`diagnose`] as text."""
    good = [f"{name} {row['version']}" for name, row in diagnosis["packages"].items() if not row["problem"]]
    optional = diagnosis["optional"].items()
    installed = [f"{name} {row['version']}" for name, row in optional if row["version"]]
    lines = [
        f"samed_hf    {diagnosis['samed_hf'] or 'not installed, run from its code'}, Python {diagnosis['python']}",
        f"platform    {diagnosis['platform']}",
        f"packages    {', '.join(good) or 'none'}",
        f"optional    {', '.join(installed) or 'none'}",
        *(f"            no {name} ({row['for']})" for name, row in optional if not row["version"]),
        *(f"device      {_device(device)}" for device in diagnosis["devices"]),
        *(
            f"disk        {_gigabytes(disk['free'])} free in the {name}, {disk['path']}"
            for name, disk in diagnosis["disk"].items()
        ),
        f"Hub         {diagnosis['hub']['state']}: {diagnosis['hub']['why']}",
    ]
    config = diagnosis["accelerate"]
    if config is None:
        lines.append("accelerate  no default configuration (accelerate config makes one; a single process needs none)")
    else:
        content = ", ".join(f"{key} {value}" for key, value in config["content"].items())
        lines.append(f"accelerate  {config['path']}: {content}")
    for device, models in diagnosis["fits"].items():
        lines += [f"fits        {device}: {_fit(model, models)}" for model in models]
    if diagnosis["fits"]:
        lines.append("            at 512 pixels with 9 labels; computed, not measured")
    lines += [f"warning     {line}" for line in diagnosis["warnings"]]
    lines += [f"missing     {line}" for line in diagnosis["missing"]]
    verdict = "training can't run here yet" if diagnosis["missing"] else "all required packages work"
    return "\n".join([*lines, f"verdict     {verdict}"])


def _device(device: dict[str, Any]) -> str:
    native = {True: "computes bfloat16", False: "has no bfloat16 instructions", None: "bfloat16 unknown"}
    capability, size = device.get("compute_capability"), device["bytes"]
    parts = [
        f"{device['device']}: {device['name']}",
        f"{device['cores']} cores" if device.get("cores") else "",
        " ".join(device.get("instructions", [])),
        f"compute capability {capability}" if capability else "",
        "" if size is None else f"{_gigabytes(size)}, {_gigabytes(device['free'])} of it free",
        native[device["bfloat16"]],
    ]
    return ", ".join(part for part in parts if part)


def _fit(model: str, models: dict[str, dict[str, Any] | None]) -> str:
    fit = models[model]
    if fit is None:
        from ..utils.packaged import SMALL_SAM
        from .memory import SMALLER_BASES

        smaller = next((name for name, one in SMALLER_BASES.items() if models.get(one)), SMALL_SAM)
        return f"{model} can't be trained, not even with one slice in a batch: use {smaller} or another smaller one"
    slices = "1 slice" if fit["batch_size"] == 1 else f"{fit['batch_size']} slices"
    flags = f" with {fit['flags']}" if fit["flags"] else ""
    return f"{model}, {slices} in a batch{flags}, about {_gigabytes(fit['bytes'])}"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
