"""Where others install this package from."""

from __future__ import annotations

import json
from importlib import metadata

__all__ = ["package_source"]


def package_source() -> str | None:
    """Return the git URL of the installed package at its commit or tag for pip, "git+https://…@…"; `None` if unknown.

    That is the commit pip installed it from, else the tag of a released version at the metadata's URL "Source". The
    name alone would install whatever package an index has under it.
    """
    try:
        distribution = metadata.distribution("samed_hf")
    except metadata.PackageNotFoundError:
        return None
    record = json.loads(distribution.read_text("direct_url.json") or "{}")
    url, revision = record.get("url", ""), record.get("vcs_info", {}).get("commit_id")
    if revision is None and ".dev" not in distribution.version:
        urls = dict(line.split(", ", 1) for line in distribution.metadata.get_all("Project-URL") or ())
        url, revision = urls.get("Source", ""), f"v{distribution.version}"
    return f"git+{url}@{revision}" if revision and url.startswith("https://") and "@" not in url else None
