"""The packages that this one requires, read with the standard library alone."""

from __future__ import annotations

import configparser
import importlib.metadata
import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["Requirement", "installed_version", "read_requirements"]


class Requirement(NamedTuple):
    """A required package.

    Attributes:
        name: of the distribution.
        versions: the range, e.g. ">=2.6".
        extra: name of the extra that requires it, or empty.
    """

    name: str
    versions: str
    extra: str = ""


def read_requirements(setup_file: Path | None = None) -> list[Requirement]:
    """The required packages, those of extras last.

    Args:
        setup_file: setup.cfg of a checkout; by default this one's. Where it does not exist, the metadata of the
            installed package are read.
    """
    path = setup_file or Path(__file__).parents[2] / "setup.cfg"
    if not path.is_file():
        return _installed()
    parser = configparser.ConfigParser()
    parser.read(path, encoding="utf-8")
    parts = [("", parser.get("options", "install_requires", fallback=""))]
    if parser.has_section("options.extras_require"):
        parts += parser.items("options.extras_require")
    return [_parse(line, extra) for extra, lines in parts for line in lines.splitlines() if line.strip()]


def _installed() -> list[Requirement]:
    try:
        lines = importlib.metadata.requires("samed_hf") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    requirements = []
    for line in lines:
        extra = re.search(r"""extra\s*==\s*["']([^"']+)["']""", line)
        requirements.append(_parse(line, extra.group(1) if extra else ""))
    return sorted(requirements, key=lambda one: one.extra != "")


def _parse(line: str, extra: str) -> Requirement:
    name, versions = re.findall(r"^\s*([\w.-]+)\s*([^;]*)", line)[0]
    return Requirement(name, versions.strip().strip("()"), extra)


def installed_version(name: str) -> str | None:
    """The version of a distribution, or `None` if it isn't installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
