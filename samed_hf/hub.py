"""An adapter's folder on the Hugging Face Hub."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx

__all__ = ["ADAPTER_FOLDER", "push_adapter"]

ADAPTER_FOLDER = "adapter"

# What belongs to the adapter; checkpoints, logs and data of its run stay at home.
_FILES = [
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "config.json",
    "metrics.csv",
    "metrics.json",
    "overlay.png",
    "preprocessor_config.json",
    "training_curve.png",
]


def push_adapter(
    folder: str | os.PathLike, repo_id: str, *, private: bool | None = None, token: str | None = None
) -> str:
    """Upload an adapter's folder to a model repository, made where it is missing.

    Args:
        folder: what a training or `save_pretrained` left.
        repo_id: "user/name", or "name" in one's own namespace.
        private: make a new repository private.
        token: defaults to that of `hf auth login` or `HF_TOKEN`.

    Returns:
        The repository's address.

    Raises:
        FileNotFoundError: `folder` holds no adapter.
        ValueError: the Hub refused or can't be reached; the folder is as it was.
    """
    folder = Path(folder)
    missing = [name for name in ("adapter_config.json", "adapter_model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} is no adapter: {', '.join(missing)} missing. Give the folder of a training.")
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        api.upload_folder(folder_path=folder, repo_id=repo_id, allow_patterns=_FILES, commit_message="Upload adapter")
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"The upload of {folder} to {repo_id!r} failed ({reason}). The folder is untouched; try again with "
            f"`samed-hf push {shlex.quote(str(folder))} --repo_id {repo_id}`."
        ) from error
    return f"{api.endpoint}/{repo_id}"
