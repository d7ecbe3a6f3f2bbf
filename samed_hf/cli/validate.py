"""`samed-hf validate`: a data set looked through before hours are spent on it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..data.dataset import CaseDataset
from ..data.layouts import data_place, read_data
from ..diagnostics.memory import read_base_config
from ..training.arguments import SamedTrainingArguments
from ..training.data import make_processor
from ..utils.progress import ProgressBar
from ..utils.text import printable
from ..validation.advice import Advice, directory_name, make_advice
from ..validation.problems import SEVERITIES, Problem
from ..validation.report import FINGERPRINT, PAGE_FILE, write_fingerprint, write_report
from ..validation.run import Validation, validate_data

__all__ = ["validate"]

_BASE = "facebook/sam-vit-base"
_LINES = 20
_COLUMNS = ("dataset_config_name", "image_column", "label_column", "case_column", "label_names", "fold")


def validate(args: argparse.Namespace) -> int:
    """`samed-hf validate`.

    Returns:
        0, or 1 where errors were found, 2 where no case could be read.

    Raises:
        ValueError, FileNotFoundError: arguments that can't be, or a folder in no layout that is known.
    """
    output = Path(args.output) if args.output else None
    if output is not None and output.exists() and not output.is_dir():
        raise ValueError(f"--output {args.output!r} is a file: expected a folder.")
    base = read_base_config(args.model_name_or_path)
    settings = SamedTrainingArguments(
        **data_place(args.data),
        **{name: getattr(args, name) for name in (*_COLUMNS, "orientation", "plane")},
        geometry_tolerance=args.tolerance,
    )
    data = read_data(
        settings.data_dir,
        dataset_name=settings.dataset_name,
        **{name: getattr(settings, name) for name in _COLUMNS},
        geometry_tolerance=settings.geometry_tolerance,
        strict=False,
    )
    if settings.plane not in (None, "axial") and (data.pictures or data.layout == "Synapse"):
        raise ValueError(f"--plane is {settings.plane}, but {args.data} holds slices ({data.layout}).")
    print(_describe(data), flush=True)
    with ProgressBar("checked", "case") as progress:
        validation = validate_data(data, make_processor(settings, data), progress=progress)
    _print_problems(validation.problems)
    if not any(facts.sample is not None for facts in validation.cases):
        print(f"error: no scan of {printable(args.data)} could be read.", file=sys.stderr)
        return 2
    _report(args, validation, output or Path("outputs") / f"validation-{directory_name(data)}", base)
    return 1 if validation.count("error") else 0


def _report(args: argparse.Namespace, validation: Validation, output: Path, base: dict) -> None:
    """Write fingerprint and page, and print what is suggested."""
    advice = make_advice(validation, model=args.model_name_or_path or _BASE, base_config=base, flags=_data_flags(args))
    output.mkdir(parents=True, exist_ok=True)
    write_fingerprint(output / FINGERPRINT, validation, advice)
    write_report(output / PAGE_FILE, validation, advice)
    print()
    for one in advice.suggestions:
        print(f"suggests    {one.text}: {printable(one.reason)}")
    _print_memory(advice)
    print(f"\n{printable(advice.command)}\n")
    print(f"wrote       {printable(output / FINGERPRINT)}, {printable(output / PAGE_FILE)}", flush=True)


def _describe(data: CaseDataset) -> str:
    about = f"{len(data.train)} cases to train on, {len(data.validation)} for validation, {len(data.test)} to test on"
    names = list(data.id2label.values())[1:]
    shown_names = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    lines = [
        f"data        {printable(data.root)}: {data.layout}, {about}",
        f"labels      {printable(shown_names)}",
        f"channels    {printable(', '.join(data.channel_names))}",
    ]
    return "\n".join(lines)


def _print_problems(problems: list[Problem]) -> None:
    """Each in one line; of one kind and severity only the first ones, for the page has them all."""
    told: dict[tuple[str, str], int] = {}
    for problem in problems:
        key = (problem.severity, problem.kind)
        told[key] = told.get(key, 0) + 1
        if told[key] <= _LINES:
            print(f"{problem.severity:<12}{problem.line}")
    for (severity, kind), count in told.items():
        if count > _LINES:
            print(f"{severity:<12}and {count - _LINES} more of the kind {kind!r}: see {PAGE_FILE}")
    counts = {severity: sum(one.severity == severity for one in problems) for severity in SEVERITIES}
    several = ", ".join(f"{count} {word if count == 1 else f'{word}s'}" for word, count in counts.items())
    print(f"found       {several}", flush=True)


def _print_memory(advice: Advice) -> None:
    memory = advice.memory
    largest, disk = (advice.fingerprint["bytes"][key] / 1e9 for key in ("largest_case", "disk"))
    print(
        f"memory      {advice.model} at {memory.image_size} pixels, in float32: {memory.fixed / 1e9:.2f} GB of "
        f"weights, gradients and AdamW's moments, {memory.per_slice / 1e9:.2f} GB for each slice of a training batch "
        f"({memory.per_slice_checkpointed / 1e9:.2f} with --gradient_checkpointing), "
        f"{memory.per_slice_prediction / 1e9:.2f} GB for each at prediction; the largest case {largest:.3f} GB, all "
        f"cases decoded on disk {disk:.3f} GB"
    )


def _data_flags(args: argparse.Namespace) -> list[str]:
    """Flags of a training that name the data, or that the user has given here already."""
    flags = ["--data_dir" if Path(args.data).exists() else "--dataset_name", args.data]
    for name in (*_COLUMNS, "orientation"):
        value = getattr(args, name)
        if value is not None:
            flags += [f"--{name}", *(value if isinstance(value, list) else [str(value)])]
    if args.tolerance != _default_tolerance():
        flags += ["--geometry_tolerance", f"{args.tolerance:g}"]
    return flags


def _default_tolerance() -> float:
    return SamedTrainingArguments.geometry_tolerance
