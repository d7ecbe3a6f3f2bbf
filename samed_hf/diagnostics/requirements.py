"""What this package requires, as its setup.cfg declares it; the standard library suffices to read it."""

from __future__ import annotations

import configparser
import importlib.metadata
import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["Requirement", "installed_version", "read_requirements"]


class Requirement(NamedTuple):
    """A package that is required.

    Attributes:
        name: of the distribution.
        versions: the range, e.g. ">=2.6".
        extra: of what optional part, or empty.
    """

    name: str
    versions: str
    extra: str = ""


def read_requirements(setup_file: Path | None = None) -> list[Requirement]:
    """All packages required, the optional ones after the others.

    Args:
        setup_file: setup.cfg of a checkout; by default this one's. Without it, what was installed says the same.
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
    found = []
    for line in lines:
        extra = re.search(r"""extra\s*==\s*["']([^"']+)["']""", line)
        found.append(_parse(line, extra.group(1) if extra else ""))
    return sorted(found, key=lambda one: one.extra != "")


def _parse(line: str, extra: str) -> Requirement:
    name, versions = re.match(r"\s*([\w.-]+)\s*([^;]*)", line).groups()
    return Requirement(name, versions.strip().strip("()"), extra)


def installed_version(name: str) -> str | None:
    """The version of a distribution; `None` where it isn't installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
