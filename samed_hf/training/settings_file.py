"""Settings of a training from flags and from a file, such as a run's `training_settings.json`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ..utils.text import one_line
from .arguments import SamedTrainingArguments

__all__ = ["NO_FLAGS", "make_parser", "parse_arguments", "parse_command", "read_settings"]

NO_FLAGS = frozenset({"num_processes", "deviations", "cases", "run"})
"""Keys in `training_settings.json` besides the settings."""

_SUFFIXES = (".json", ".yaml", ".yml")
_BOOLEANS = dict.fromkeys(("yes", "true", "t", "y", "1"), True) | dict.fromkeys(("no", "false", "f", "n", "0"), False)


def parse_arguments(argv: Sequence[str] | None = None) -> SamedTrainingArguments:
    """Parse the flags of `samed-hf train`, and the file given by `--config`.

    Args:
        argv: the flags; those of the process by default. argparse exits on unknown ones.

    Raises:
        ValueError, FileNotFoundError: a file that can't be read, an unknown key, or a value out of range.
    """
    return parse_command(argv)[0]


def parse_command(argv: Sequence[str] | None = None, **options: Any) -> tuple[SamedTrainingArguments, bool]:
    """Parse the flags of `samed-hf train`, which take precedence over the file; `options` are those of [`make_parser`].

    Returns the settings, whose `saved_run` has the other keys of a run's file, and whether `--dry_run` is given.
    """
    parser, saved = make_parser(**options), dict[str, Any]()
    given = parser.parse_args(argv)
    if given.config is not None:
        settings, saved = read_settings(given.config)
        parser.set_defaults(**settings)
        given = parser.parse_args(argv)
    args = SamedTrainingArguments(**{item.name: getattr(given, item.name) for item in fields(SamedTrainingArguments)})
    args.saved_run = saved
    return args, given.dry_run


def make_parser(**options: Any) -> argparse.ArgumentParser:
    """Make a parser with a flag for each field of [`SamedTrainingArguments`], `--config` and `--dry_run`.

    Flags have underscores or hyphens. A boolean flag has an optional value, and `--no_…` if it is true by default.
    transformers' `HfArgumentParser` does the same, but its import lasts a second. The options are those of argparse.
    """
    parser = argparse.ArgumentParser(**options)
    kinds = get_type_hints(SamedTrainingArguments)
    for item in fields(SamedTrainingArguments):
        options_of = [one for one in (*get_args(kinds[item.name]), kinds[item.name]) if one is not type(None)]
        kind = str if {int, str} <= {*options_of} else options_of[0]  # a number or a word
        help = item.metadata["help"].replace("%", "%%")
        shown = item.metadata["filled"] if item.default is None else item.default
        if shown is not None and shown is not False:  # a derived default is in the text already
            help = f"{help.removesuffix('.')} [{shown}]."
        flag: dict[str, Any] = {"type": kind, "default": item.default, "help": help}
        if choices := item.metadata["choices"]:  # checked by the settings, so that all bad values are named
            flag["metavar"] = f"{{{','.join(choices)}}}"
        if kind is bool:
            flag |= {"type": _boolean, "nargs": "?", "const": True, "metavar": "BOOL"}
        elif get_origin(kind) is list:
            flag |= {"type": get_args(kind)[0], "nargs": "+"}
        parser.add_argument(f"--{item.name}", **flag)
        if item.default is True:
            parser.add_argument(f"--no_{item.name}", action="store_false", dest=item.name)
    config = "Settings in a .json or .yaml file, e.g. a run's training_settings.json; other flags win."
    dry_run = "Print plan, parameters and memory of the run; train and write nothing."
    parser.add_argument("--config", metavar="FILE", help=config)
    parser.add_argument("--dry_run", action="store_true", help=dry_run)
    for name, action in list(parser._option_string_actions.items()):  # aliases that the help does not list
        parser._option_string_actions[name.replace("_", "-")] = action
    return parser


def _boolean(text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is no boolean: expected one of {', '.join(_BOOLEANS)}") from None


def read_settings(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read settings and the other keys of a run's .json or .yaml file, as the flags' types; all bad keys are named.

    `resume_from_checkpoint` in a run's file is ignored: a run from the first step gives the same adapter.
    """
    path = Path(path)
    content = _read(path)
    saved = {key: value for key, value in content.items() if key in NO_FLAGS}
    settings = {key: value for key, value in content.items() if key not in NO_FLAGS}
    known = [item.name for item in fields(SamedTrainingArguments)]
    problems = []
    for key in settings:
        if key in ("config", "dry_run"):
            problems.append(f"the key {key!r}, which is only a flag of the command")
        elif key not in known:
            nearest = get_close_matches(key.lower().lstrip("-").replace("-", "_"), known, n=1, cutoff=0.0)[0]
            problems.append(f"the unknown key {key!r}: the nearest setting is {nearest!r}")
    if problems:
        raise ValueError(f"config {str(path)!r} has {'; '.join(problems)}.")
    if saved:
        settings.pop("resume_from_checkpoint", None)
    if "run" in saved:
        settings.setdefault("loss_resolution", "low")  # the only one of earlier versions
    parser, kinds = make_parser(exit_on_error=False), get_type_hints(SamedTrainingArguments)
    for name, value in settings.items():
        try:
            settings[name] = _parse_value(parser, name, value, kinds[name])
        except (argparse.ArgumentError, argparse.ArgumentTypeError, ValueError) as error:
            problems.append(f"{name}: {getattr(error, 'message', None) or error}")
    if problems:
        raise ValueError(f"config {str(path)!r}: {'; '.join(problems)}.")
    return settings, saved


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"config {str(path)!r} ends in {path.suffix!r}: expected a file in {', '.join(_SUFFIXES)}.")
    if not path.is_file():
        raise FileNotFoundError(f"config {str(path)!r} doesn't exist: expected a file of settings, .json or .yaml.")
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"config {str(path)!r} can't be read: {one_line(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"config {str(path)!r} is no mapping of settings: expected e.g. learning_rate: 0.005.")
    return content


def _parse_value(parser: argparse.ArgumentParser, name: str, value: Any, kind: Any) -> Any:
    """Parse a value as the command line does."""
    kinds = get_args(kind) or (kind,)
    # A value that may be one or several is parsed as it is given.
    is_list = any(get_origin(one) is list for one in kinds) and not (str in kinds and isinstance(value, str))
    if value is None:
        if type(None) not in kinds:
            raise ValueError("null is not allowed; remove the key to use the default")
        return None
    if isinstance(value, bool) and bool not in kinds:
        hint = "" if value else "; YAML reads no and off without quotes as false"
        raise ValueError(f"{json.dumps(value)} is not allowed{hint}")
    if isinstance(value, dict) or isinstance(value, list) != is_list:
        raise ValueError(f"{value!r} is not allowed: expected {'a list' if is_list else 'a single one'}")
    words = [f"--{name}", *map(str, value)] if is_list else [f"--{name}={value}"]
    return getattr(parser.parse_args(words), name)
