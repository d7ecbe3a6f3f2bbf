"""Files of a directory or a Hub repository, all of one commit; a failed connection is not taken for a missing file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, is_offline_mode
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import httpx
from transformers.utils import cached_file

from ..utils.packaged import SMALL_SAM, check_version, is_directory, locate
from ..utils.text import one_line

__all__ = ["DOWNLOAD_OPTIONS", "describe_access", "fetch_file", "fetch_json", "fetch_weights", "pin_revision"]

DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def pin_revision(source: str, download: dict[str, Any]) -> dict[str, Any]:
    """Return `download` with the commit of its revision, at which every file is then read.

    Raises:
        ConnectionError: the Hub can't be reached, and the cache doesn't have the revision.
        ValueError: the packaged base model has another version.
    """
    if source == SMALL_SAM:
        return download | {"revision": check_version(download.get("revision"))}
    if is_directory(source):
        return download
    options = {key: download[key] for key in ("revision", "cache_dir", "token") if key in download}
    try:
        pinned = HfApi().resolve_revision(source, **options, local_files_only=_is_offline(download))
    except (HfHubHTTPError, HFValidationError):
        return download  # no such repository or revision, or no access: the first file's error says so
    except (RevisionResolutionError, httpx.HTTPError) as error:
        if _is_offline(download):
            return download
        raise _connection_error(source, "its revision", error) from error
    return download | {"revision": pinned}


def fetch_file(source: str, name: str, download: dict[str, Any]) -> Path | None:
    """Return the path of a file, fetched into the cache; `None` if the directory or repository doesn't have it.

    Raises:
        ConnectionError: the connection or the Hub failed.
        OSError: no such repository or revision, or no access to it.
    """
    try:
        file = cached_file(locate(source), name, **download)
    except (OSError, httpx.HTTPError) as error:
        causes = (error, error.__cause__)
        if _is_offline(download) and any(isinstance(cause, LocalEntryNotFoundError) for cause in causes):
            return None
        if any(map(_is_of_connection, causes)):
            raise _connection_error(source, name, error) from error
        if type(error) is OSError and error.errno is None and error.__cause__ is None:
            return None  # transformers' error of a missing file
        raise
    return None if file is None else Path(file)


def fetch_json(source: str, name: str, download: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file, empty if there is none; raises as [`fetch_file`], and for damaged ones."""
    file = fetch_file(source, name, download)
    try:
        content = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}): the file is damaged; fetch it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds {type(content).__name__}: expected an object; fetch the file again.")
    return content


def fetch_weights(source: str, download: dict[str, Any], variant: str | None = None) -> None:
    """Fetch the safetensors files of a model into the cache; raises as [`fetch_file`].

    transformers takes a connection that fails here for a repository without safetensors.
    """
    if Path(locate(source)).is_dir() or download.get("force_download"):
        return
    infix = f".{variant}" if variant else ""
    if fetch_file(source, f"model{infix}.safetensors", download) is None:
        index = fetch_json(source, f"model.safetensors.index{infix}.json", download)
        for shard in sorted(set(index.get("weight_map", {}).values())):
            fetch_file(source, shard, download)


def describe_access(source: str, error: BaseException) -> str:
    """Return what gives access to a repository that is gated, private or missing; empty for other errors."""
    cause = error.__cause__
    if isinstance(cause, GatedRepoError):
        need = f"It is gated: accept its terms at {constants.ENDPOINT}/{source}, then log"
    elif isinstance(cause, RepositoryNotFoundError):
        need = "If it is private, log"
    else:
        return ""
    return f"{need} in by `hf auth login`, set HF_TOKEN, or give token=."


def _is_offline(download: dict[str, Any]) -> bool:
    return bool(download.get("local_files_only")) or is_offline_mode()


def _is_of_connection(error: BaseException | None) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code >= 500
    return isinstance(error, httpx.TransportError | LocalEntryNotFoundError)


def _connection_error(source: str, what: str, error: BaseException) -> ConnectionError:
    reason: BaseException = error
    while reason.__cause__ is not None:
        reason = reason.__cause__
    return ConnectionError(
        f"{what} of {source!r} couldn't be fetched from {constants.ENDPOINT} ({one_line(reason)}): check the "
        "connection and try again; files that have arrived are kept."
    )
