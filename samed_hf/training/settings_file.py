"""Flags and a file of settings, together the settings of a training; what a run saved is such a file."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from .arguments import SamedTrainingArguments

__all__ = ["NO_FLAGS", "parse_arguments", "parse_command", "read_settings"]

NO_FLAGS = frozenset({"num_processes", "deviations", "cases", "run"})
"""What a run's `training_settings.json` says besides its settings."""

_KINDS = (".json", ".yaml", ".yml")


def parse_arguments(argv: Sequence[str] | None = None) -> SamedTrainingArguments:
    """The settings of `samed-hf train` from its flags, and from the file that `--config` names.

    Args:
        argv: the flags; by default those of the process. Unknown ones end the process, as argparse does.

    Raises:
        ValueError, FileNotFoundError: a file that can't be read or has an unknown key, or a value out of its range.
    """
    return parse_command(argv)[0]


def parse_command(
    argv: Sequence[str] | None = None, prog: str | None = None, description: str | None = None
) -> tuple[SamedTrainingArguments, bool]:
    """Flags, and the file that `--config` names, to settings; a flag wins over the file.

    Args:
        argv: the flags; by default those of the process.
        prog, description: of the help.

    Returns:
        The settings, and whether only to tell what would be done. `saved_run` of the settings is what a run's file
        says besides.

    Raises:
        ValueError, FileNotFoundError: a file that can't be read or has an unknown key, or a value out of its range.
            Unknown flags end the process, as argparse does.
    """
    parser = _parser(prog=prog, description=description)
    given, saved = parser.parse_args(argv), {}
    if given.config is not None:
        settings, saved = read_settings(given.config)
        parser.set_defaults(**settings)
    args, command = parser.parse_args_into_dataclasses(args=argv, look_for_args_file=False)
    args.saved_run = saved
    return args, command.dry_run


def _parser(**options: Any) -> HfArgumentParser:
    parser = HfArgumentParser(SamedTrainingArguments, **options)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="Settings in a .json or .yaml file, e.g. a run's training_settings.json; flags given besides win.",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="Print plan, parameters and memory of the run; train and write nothing."
    )
    return parser


def read_settings(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings by name from a .json or .yaml file, each of the type of its flag.

    Args:
        path: of the file. Of a run's own `training_settings.json`, how it was resumed is left out: a run from the
            beginning gives the same.

    Returns:
        The settings, and what the file of a run says besides.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is of another kind, damaged, or holds keys or values that no flag would take; all are named.
    """
    path = Path(path)
    content = _read(path)
    saved = {key: value for key, value in content.items() if key in NO_FLAGS}
    settings = {key: value for key, value in content.items() if key not in NO_FLAGS}
    known = [item.name for item in fields(SamedTrainingArguments)]
    problems = [_unknown(key, known) for key in settings if key not in known]
    if problems:
        raise ValueError(f"config {str(path)!r} has {'; '.join(problems)}.")
    if saved:
        settings.pop("resume_from_checkpoint", None)
    return _as_flags(settings, path), saved


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix.lower() not in _KINDS:
        raise ValueError(f"config {str(path)!r} ends in {path.suffix!r}: expected a file in {', '.join(_KINDS)}.")
    if not path.is_file():
        raise FileNotFoundError(f"config {str(path)!r} isn't there: expected a file of settings, .json or .yaml.")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"config {str(path)!r} can't be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"config {str(path)!r} holds no settings by name: expected e.g. learning_rate: 0.005 in it.")
    return content


def _unknown(key: str, known: Sequence[str]) -> str:
    if key in ("config", "dry_run"):
        return f"the key {key!r}, which is a flag of the command alone: give it there"
    near = get_close_matches(key.lower().lstrip("-").replace("-", "_"), known, n=1, cutoff=0.0)[0]
    return f"the unknown key {key!r}: the nearest setting is {near!r}"


def _as_flags(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The values as the command line would have made them: each flag's own parser reads them."""
    parser = _parser(exit_on_error=False)
    kinds = get_type_hints(SamedTrainingArguments)
    problems, values = [], {}
    for name, value in settings.items():
        try:
            values[name] = _value(parser, name, value, kinds[name])
        except (argparse.ArgumentError, argparse.ArgumentTypeError, ValueError) as error:
            problems.append(f"{name}: {getattr(error, 'message', None) or error}")
    if problems:
        raise ValueError(f"config {str(path)!r}: {'; '.join(problems)}.")
    return values


def _value(parser: HfArgumentParser, name: str, value: Any, kind: Any) -> Any:
    kinds = get_args(kind) or (kind,)
    is_list = any(get_origin(one) is list for one in kinds)
    if value is None:
        if type(None) not in kinds:
            raise ValueError("null is no value for it; leave it out, for its default")
        return None
    if isinstance(value, bool) and bool not in kinds:
        hint = "; YAML takes no and off without quotes for false" if not value else ""
        raise ValueError(f"{json.dumps(value)} is no value for it{hint}")
    if isinstance(value, dict) or isinstance(value, list) != is_list:
        raise ValueError(f"{value!r} is no value for it, expected {'a list' if is_list else 'a single one'}")
    words = [f"--{name}", *map(str, value)] if is_list else [f"--{name}={value}"]
    return getattr(parser.parse_args(words), name)
