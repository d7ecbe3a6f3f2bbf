"""`samed-hf validate`: a data set checked before training."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.console import ProgressBar
from ..utils.text import name_some, printable
from .common import COLUMNS, add_columns

if TYPE_CHECKING:
    from ..validation import Problem, Validation

__all__ = ["add_parser", "run"]

logger = logging.getLogger(__name__)

_BASE = "facebook/sam-vit-base"
_LINES = 20  # printed of one kind of problem
_TOLERANCE = 0.1
_SETTINGS = ("dataset_config_name", *COLUMNS, "label_names", "splits", "fold")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("validate", help="check a data set before training on it")
    add = parser.add_argument
    add("data", nargs="+", metavar="DIR", help="data set in any layout that training reads, or a Hub id")
    text = "directory for fingerprint.json, validation.html [outputs/validation-NAME]"
    add("--output", metavar="DIR", help=text)
    text = "largest distance of image and label grid, as a share of a voxel [0.1]"
    add("--tolerance", type=float, default=_TOLERANCE, metavar="SHARE", help=text)
    add("--label_names", nargs="+", metavar="NAME", help="names of the labels, if no file names them")
    add("--orientation", metavar="LPS", help="orientation of the scans before they are cut [LPS]")
    add("--plane", choices=("axial", "coronal", "sagittal"), help="slices to cut [axial]")
    add("--splits", metavar="FILE", help="file of folds, as nnU-Net's splits_final.json")
    add("--fold", type=int, metavar="K", help="index of its fold, or of one that the data set declares [0]")
    add("--dataset_config_name", metavar="NAME", help="configuration of a Hugging Face data set")
    add_columns(parser)
    text = "plain SAM to train, whose memory is estimated [facebook/sam-vit-base]"
    add("--model_name_or_path", metavar="DIR_OR_ID", help=text)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check the data set, print the problems and suggestions, and write the report.

    Returns:
        0, or 1 where errors were found, 2 where no case could be read.
    """
    from ..data import DataArguments, make_processor, read_data
    from ..data.layouts import dataset_arguments
    from ..data.splits import choose_fold
    from ..diagnostics.memory import read_base_config
    from ..validation import validate_data
    from ..validation.advice import directory_name

    output = Path(args.output) if args.output else None
    if output is not None and output.exists() and not output.is_dir():
        raise ValueError(f"--output {args.output!r} is a file: expected a directory.")
    base = read_base_config(args.model_name_or_path)
    given: dict[str, Any] = {name: getattr(args, name) for name in (*_SETTINGS, "orientation", "plane")}
    given |= dataset_arguments(args.data)
    settings = DataArguments(**given, geometry_tolerance=args.tolerance)
    data = read_data(**settings.read_options(), strict=False)
    choose_fold(data, fold=args.fold, splits=args.splits)
    settings.channel_projection = len(data.channel_names) > 3  # all of them are checked
    processor = make_processor(settings, data)
    logger.info(
        f"data        {printable(data.root)}: {data.layout}, {len(data.train)} cases to train on, "
        f"{len(data.validation)} for validation, {len(data.test)} to test on\n"
        f"files       {printable(data.explanation)}\n"
        f"labels      {printable(name_some(list(data.id2label.values())[1:], 20))}\n"
        f"channels    {printable(', '.join(data.channel_names))}"
    )
    with ProgressBar("checking", "case") as progress:
        validation = validate_data(data, processor, progress=progress)
    _print_problems(validation.problems)
    if not any(facts.sample is not None for facts in validation.cases):
        print(f"error: no scan of {printable(data.root)} could be read.", file=sys.stderr)
        return 2
    _report(args, validation, output or Path("outputs") / f"validation-{directory_name(data)}", base)
    return 1 if validation.count("error") else 0


def _print_problems(problems: Sequence[Problem]) -> None:
    """Print each in one line; of one kind and severity only the first ones, as the page lists all."""
    from ..reporting.formatting import plural
    from ..validation.problems import SEVERITIES
    from ..validation.report import PAGE_FILE

    printed: Counter[tuple[str, str]] = Counter()
    for problem in problems:
        key = (problem.severity, problem.kind)
        printed[key] += 1
        if printed[key] <= _LINES:
            print(f"{problem.severity:<12}{problem.line}")
    for (severity, kind), count in printed.items():
        if count > _LINES:
            print(f"{severity:<12}and {count - _LINES} more of the kind {kind!r}: see {PAGE_FILE}")
    counts = Counter(problem.severity for problem in problems)
    print(f"found       {', '.join(plural(counts[severity], severity) for severity in SEVERITIES)}", flush=True)


def _report(args: argparse.Namespace, validation: Validation, output: Path, base: dict[str, Any]) -> None:
    """Write fingerprint and page; print the suggestions, the memory they and the data need, and the command."""
    from ..validation.advice import make_advice
    from ..validation.report import FINGERPRINT, PAGE_FILE, write_fingerprint, write_report

    # Flags of the training for the arguments given to this command.
    flags = ["--data_dir" if Path(args.data[0]).exists() else "--dataset_name", *args.data]
    for name in (*_SETTINGS, "orientation"):
        if (value := getattr(args, name)) is not None:
            flags += [f"--{name}", *(value if isinstance(value, list) else [str(value)])]
    if args.tolerance != _TOLERANCE:
        flags += ["--geometry_tolerance", f"{args.tolerance:g}"]
    advice = make_advice(validation, model=args.model_name_or_path or _BASE, base_config=base, flags=flags)
    output.mkdir(parents=True, exist_ok=True)
    write_fingerprint(output / FINGERPRINT, validation, advice)
    write_report(output / PAGE_FILE, validation, advice)
    print()
    for one in advice.suggestions:
        print(f"suggests    {one.text}: {printable(one.reason)}")
    settings = {one.setting: one.value for one in advice.suggestions}
    batch_size, checkpointing = settings["per_device_train_batch_size"], settings.get("gradient_checkpointing")
    memory = advice.memory.training(batch_size, gradient_checkpointing=bool(checkpointing))
    prediction = advice.memory.prediction(1) / 1e9
    largest, disk = (advice.fingerprint["bytes"][key] / 1e9 for key in ("largest_case", "disk"))
    print(
        f"memory      {advice.model} at {settings['image_size']} pixels: {memory.describe(batch_size)}\n"
        f"            {prediction:.2f} GB to predict one slice; {largest:.3f} GB for the largest case; "
        f"{disk:.3f} GB on disk for all decoded cases"
    )
    print(f"\n{printable(advice.command)}\n")
    print(f"wrote       {printable(output / FINGERPRINT)}, {printable(output / PAGE_FILE)}", flush=True)
