"""Upload of an adapter to the Hugging Face Hub."""

from __future__ import annotations

import logging
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import httpx

from .card import read_json
from .repository import ADAPTER_FILES, check_adapter, lay_out_repository, refuse_links

__all__ = ["push_adapter"]

logger = logging.getLogger(__name__)


def push_adapter(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    dtype: str = "float32",
    base_model: str | None = None,
    base_revision: str | None = None,
    images: bool | None = None,
    with_handler: bool = False,
    commit_message: str = "Upload adapter",
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload an adapter, its scores and its card, but no checkpoints and data of the run; return the address.

    Args:
        directory: of the adapter, as a training left it; it is not changed.
        repo_id: "user/name", or "name" in one's own namespace; created if it does not exist.
        private: whether a new repository is private; `None` is the namespace's own default.
        token: of the Hub; `None` uses that of `hf auth login` or `HF_TOKEN`.
        dtype: data type of the uploaded weights: "float32", "float16" or "bfloat16".
        base_model: Hub name of the base model, if the adapter names a local directory.
        base_revision: its branch, tag or commit.
        images: upload overlay and example slices too; `None` uploads those of synthetic data only.
        with_handler: add `handler.py` and `requirements.txt` for Inference Endpoints.
        commit_message: of the commit.
        revision: branch to commit to, created if it does not exist; defaults to main.
        create_pr: open a pull request, whose address is returned, instead of committing to the branch.

    Raises:
        ValueError: the Hub refused or can't be reached, an unknown dtype, damaged weights, or a file to upload is a
            symbolic link that leads out of the directory.
    """
    directory = Path(directory)
    check_adapter(directory, dtype)
    flags = {"--dtype": dtype if dtype != "float32" else None, "--base_model": base_model}
    flags |= {"--base_revision": base_revision}
    switches = {"--private": private, "--pictures": images, "--with_handler": with_handler}
    words = [word for flag, value in flags.items() if value for word in (flag, value)]
    words += [flag for flag, given in switches.items() if given]
    command = shlex.join(["samed-hf", "push", str(directory), "--repo_id", repo_id, *words])
    with tempfile.TemporaryDirectory() as temporary, _one_line_errors(directory, repo_id, command):
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        base = (base_model, base_revision) if base_model else _push_random_base(api, directory, repo_id, private)
        staged = Path(temporary) / "repository"
        lay_out_repository(
            directory, staged, repo_id=repo_id, dtype=dtype, base=base, images=images, with_handler=with_handler
        )
        _refuse_secrets(staged, directory, token)
        if revision is not None and not create_pr and not revision.startswith("refs/pr/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            folder_path=staged,
            repo_id=repo_id,
            commit_message=commit_message,
            delete_patterns=_outdated_files(api, repo_id, staged, revision),
            revision=revision,
            create_pr=create_pr,
        )
    return commit.pr_url or f"{api.endpoint}/{repo_id}"


def _outdated_files(api: HfApi, repo_id: str, staged: Path, revision: str | None) -> list[str] | None:
    """Patterns of an earlier upload's files to delete: those of an older layout, and images that are not uploaded."""
    outdated = [name for name in ADAPTER_FILES if api.file_exists(repo_id, name, revision=revision)]
    if not (staged / "overlay.png").is_file() and api.file_exists(repo_id, "overlay.png", revision=revision):
        outdated += ["overlay.png", "examples/*.png"]
    return outdated or None


def _push_random_base(api: HfApi, directory: Path, repo_id: str, private: bool | None) -> tuple[str | None, str | None]:
    """Upload a demonstration's base model of random weights, which exists in the run only.

    Returns its name and commit; (`None`, `None`) for any other adapter.
    """
    own = read_json(directory / ADAPTER_FILES[0]).get("base_model_name_or_path")
    base = directory / (own or "")
    is_random = read_json(directory / "training_settings.json").get("run", {}).get("random_base")
    if not own or not is_random or not (base / "model.safetensors").is_file():
        return None, None
    files = ["config.json", "model.safetensors", "preprocessor_config.json"]
    # A run that pushes while it trains names its base by an absolute path.
    refuse_links(base if Path(own).is_absolute() else directory, [base / file for file in files])
    name = api.create_repo(f"{repo_id}-base", private=private, exist_ok=True).repo_id
    commit = api.upload_folder(
        folder_path=base, repo_id=name, allow_patterns=files, commit_message="Upload SAM of random weights"
    )
    logger.info("pushed      %s: the base model of random weights, which the adapter needs", name)
    return name, commit.oid


def _refuse_secrets(staged: Path, directory: Path, token: str | None) -> None:
    """Raise a `ValueError` if a file to upload contains a path of this machine or a token."""
    secrets = {str(directory.resolve()), str(Path.home()), token or get_token() or ""} - {"", "/"}
    for file in staged.rglob("*"):
        if file.suffix in (".json", ".md", ".csv", ".txt", ".py"):
            text = file.read_text(encoding="utf-8")
            if any(secret in text and len(secret) > 5 for secret in secrets):
                raise ValueError(
                    f"{file.relative_to(staged)} contains a path of this machine or a token: nothing was uploaded; "
                    "remove it from the adapter's files first."
                )


@contextmanager
def _one_line_errors(directory: Path, repo_id: str, command: str) -> Iterator[None]:
    """Turn the errors of the Hub's client into one line with the command that tries again."""
    try:
        yield
    # The client raises a bare RuntimeError where the upload of large files fails.
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError, RuntimeError) as error:
        causes = [part for part in (error, error.__cause__) if part is not None]
        reason = " ".join(" ".join(map(str, causes)).split()) or type(error).__name__
        raise ValueError(
            f"The upload of {directory} to {repo_id!r} failed ({reason}). The directory is unchanged; try again with "
            f"`{command}`."
        ) from error
