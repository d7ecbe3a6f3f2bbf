"""`samed-hf validate`: a data set looked through before hours are spent on it."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

from ..data.dataset import CaseDataset
from ..data.layouts import data_place, read_data
from ..diagnostics.memory import read_base_config
from ..diagnostics.validation_memory import MemoryEstimate, estimate_memory
from ..training.arguments import SamedTrainingArguments
from ..training.data import make_processor
from ..utils.text import printable
from ..validation.fingerprint import make_fingerprint
from ..validation.measuring import CaseFacts
from ..validation.problems import SEVERITIES, Problem
from ..validation.report import FINGERPRINT, PAGE_FILE, write_fingerprint, write_report
from ..validation.run import Validation, validate_data
from ..validation.suggestions import Suggestion, suggest_batch, suggest_settings, training_command

__all__ = ["validate"]

_BASE = "facebook/sam-vit-base"
_LINES = 20
_SHARE = 0.8
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
    with _Progress(len(data.train) + len(data.validation) + len(data.test)) as progress:
        validation = validate_data(data, make_processor(settings, data), on_case=progress.show)
    _print_problems(validation.problems)
    if not any(facts.sample is not None for facts in validation.cases):
        print(f"error: no scan of {printable(args.data)} could be read.", file=sys.stderr)
        return 2
    _report(args, validation, output or Path("outputs") / f"validation-{_slug(data)}", base)
    return 1 if validation.count("error") else 0


def _report(args: argparse.Namespace, validation: Validation, output: Path, base: dict) -> None:
    """Write fingerprint and page, and print what is suggested."""
    data = validation.data
    fingerprint = make_fingerprint(data, validation.processor, validation.cases)
    suggested = suggest_settings(make_fingerprint(data, validation.processor, _sound(validation)), validation.processor)
    size = next(one.value for one in suggested if one.setting == "image_size")
    memory = estimate_memory(base, image_size=size, num_labels=len(data.id2label))
    suggested += suggest_batch(memory, *_available())
    model = args.model_name_or_path or _BASE
    command = training_command(suggested, _given(args, model, f"outputs/{_slug(data)}"))
    output.mkdir(parents=True, exist_ok=True)
    write_fingerprint(output / FINGERPRINT, fingerprint, validation.problems, suggested, command)
    write_report(output / PAGE_FILE, validation, fingerprint, suggested, command, memory, model)
    _print_suggestions(suggested)
    _print_memory(memory, model, fingerprint)
    print(f"\n{printable(command)}\n")
    print(f"wrote       {printable(output / FINGERPRINT)}, {printable(output / PAGE_FILE)}", flush=True)


def _sound(validation: Validation) -> list[CaseFacts]:
    """The cases whose intensities aren't doubtful, where there are any: a mistake in a few shouldn't set the window."""
    kinds = ("units", "range", "constant", "not-finite")
    doubtful = {problem.case for problem in validation.problems if problem.kind in kinds}
    readable = [facts for facts in validation.cases if facts.sample is not None]
    return [facts for facts in readable if facts.name not in doubtful] or readable


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


class _Progress:
    """How many cases are looked through: a bar in a terminal, at most ten lines elsewhere."""

    def __init__(self, total: int) -> None:
        terminal = sys.stderr.isatty()
        self.bar = tqdm(total=total, unit="case", ncols=100, leave=False, file=sys.stderr) if terminal else None
        self.tenth, self.last = 0, time.monotonic()

    def __enter__(self) -> _Progress:
        return self

    def show(self, done: int, total: int) -> None:
        """Note that `done` of `total` cases are done."""
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            return
        tenth, now = done * 10 // total, time.monotonic()
        if tenth > self.tenth and now - self.last >= 2:
            self.tenth, self.last = tenth, now
            print(f"checked     {done} of {total} cases", flush=True)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


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


def _print_suggestions(suggested: list[Suggestion]) -> None:
    print()
    for one in suggested:
        print(f"suggests    {' '.join(one.flags) or f'no --{one.setting}'}: {printable(one.reason)}")


def _print_memory(memory: MemoryEstimate, model: str, fingerprint: dict[str, Any]) -> None:
    largest, disk = (fingerprint["bytes"][key] / 1e9 for key in ("largest_case", "disk"))
    print(
        f"memory      {model} at {memory.image_size} pixels, in float32: {memory.fixed / 1e9:.2f} GB of weights, "
        f"gradients and AdamW's moments, {memory.per_slice / 1e9:.2f} GB for each slice of a training batch "
        f"({memory.per_slice_checkpointed / 1e9:.2f} with --gradient_checkpointing), "
        f"{memory.per_slice_prediction / 1e9:.2f} GB for each at prediction; the largest case {largest:.3f} GB, all "
        f"cases decoded on disk {disk:.3f} GB"
    )


def _available() -> tuple[int, str]:
    """Bytes that a training may take here, and where."""
    if torch.accelerator.is_available() and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.accelerator.current_accelerator())
        return int(_SHARE * properties.total_memory), f"{properties.name}'s {properties.total_memory / 1e9:.0f} GB"
    total = psutil.virtual_memory().total
    return int(_SHARE * total), f"this machine's {total / 1e9:.0f} GB, for there is no GPU"


def _given(args: argparse.Namespace, model: str, output_dir: str) -> list[str]:
    """Flags of the training that the user has given here already, and those that name model and places."""
    where = "--data_dir" if Path(args.data).exists() else "--dataset_name"
    given = ["--model_name_or_path", model, where, args.data, "--output_dir", output_dir]
    for name in (*_COLUMNS, "orientation"):
        value = getattr(args, name)
        if value is not None:
            given += [f"--{name}", *(value if isinstance(value, list) else [str(value)])]
    if args.tolerance != _default_tolerance():
        given += ["--geometry_tolerance", f"{args.tolerance:g}"]
    return given


def _default_tolerance() -> float:
    return SamedTrainingArguments.geometry_tolerance


def _slug(data: CaseDataset) -> str:
    """A name for folders."""
    name = str(data.about.get("name") or Path(str(data.root)).name)
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.").lower() or "data"
