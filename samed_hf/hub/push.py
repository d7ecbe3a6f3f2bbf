"""Upload of an adapter to the Hugging Face Hub."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, RevisionNotFoundError
from huggingface_hub.utils import httpx

from .card import PRIVATE_SETTINGS, is_hub_id, read_json, split_card, write_card
from .repository import ADAPTER_FILES, OUTDATED, check_adapter, check_source, lay_out_repository, refuse_links
from .space import MODEL, lay_out_page, open_space

__all__ = ["create_repository", "push_adapter"]

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
    source: str | None = None,
    license: str | None = None,
    base_license: str | None = None,
    data_license: str | None = None,
    commit_message: str = "Upload adapter",
    revision: str | None = None,
    create_pr: bool = False,
    page: str | os.PathLike[str] | Callable[[Path], object] | None = None,
    browser_space: str | None = None,
) -> str:
    """Upload an adapter, its scores and its card, but no checkpoints and data of the run; return the address.

    Cases are numbered in what is uploaded, and paths of the machine are left out. Text and metadata that others wrote
    into the repository's card stay.

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
        source: git URL at a tag or commit from which others install this package; by default, where it was installed
            from, if that is a git repository or a release.
        license, base_license, data_license: the Hub's identifiers of the licences of the adapter's weights, the base
            model and the data; by default, those that the training was given. The card says which are unknown.
        commit_message: of the commit.
        revision: branch to commit to, created if it does not exist; defaults to main.
        create_pr: open a pull request, whose address is returned, instead of committing to the branch.
        page: what [`export_page`] wrote, or a function that writes it into a directory. It becomes a static Space, to
            which the card links; its model becomes `browser/model.onnx` of the repository, which the page loads at this
            commit. Of a private or gated repository, which browsers can't read, the Space is private and has the model.
        browser_space: name of the Space; by default that of the repository.

    Raises:
        ValueError: the Hub refused or can't be reached, an unknown dtype, damaged weights, `private` for a public
            repository, `with_handler` where the source is unknown, `page` with `create_pr`, or a Space that holds
            something else or is public where the repository isn't.
    """
    directory = Path(directory)
    check_adapter(directory, dtype)
    check_source(source, required=with_handler)
    licenses = {"license": license, "base_license": base_license, "data_license": data_license}
    contents: dict[str, Any] = {"images": images, "source": source, "with_handler": with_handler, "licenses": licenses}
    flags = {"dtype": dtype if dtype != "float32" else None, "base_model": base_model, "base_revision": base_revision}
    flags |= {"source": source, "revision": revision, **licenses}
    switches = {"private": private, "pictures": images, "with_handler": with_handler, "create_pr": create_pr}
    switches |= {"with_browser": page is not None}
    flags |= {"browser_site": None if page is None or callable(page) else str(page), "browser_space": browser_space}
    command, done = _command(directory, repo_id, **flags, **switches), list[str]()
    if create_pr and page is not None:
        raise ValueError("create_pr and a page are given: push with the page when the pull request is merged.")
    with tempfile.TemporaryDirectory() as temporary:
        work, site = Path(temporary), Path(temporary, "site") if page is None or callable(page) else Path(page)
        if callable(page):
            page(site)
        with _one_line_errors(directory, repo_id, command, done):
            api = HfApi(token=token)
            repo_id, is_private = create_repository(api, repo_id, private)
            base = (base_model, base_revision) if base_model else _push_random_base(api, directory, repo_id, is_private)
            contents |= {"base": base, "dataset": _public_dataset(api, directory)}
            contents["card"] = _present_card(api, repo_id, revision, work)
            staged = lay_out_repository(directory, work / "repository", repo_id=repo_id, dtype=dtype, **contents)
            _refuse_secrets(staged, directory, token)
            upload = partial(_upload, api, repo_id, staged, commit_message, revision)
            if page is None:
                commit = upload(create_pr)
                return commit.pr_url or f"{api.endpoint}/{repo_id}"
            _refuse_secrets(site, directory, token)
            url = _push_page(api, repo_id, is_private, browser_space or repo_id, site, staged, upload, done)
            write_card(staged, name=repo_id, licenses=licenses, source=source, page=url)
            _upload(api, repo_id, staged, "Link the page", revision, False)
            return f"{api.endpoint}/{repo_id}"


def _push_page(
    api: HfApi, repo_id: str, is_private: bool, space: str, site: Path, staged: Path, upload: Any, done: list[str]
) -> str:
    """Upload the adapter with the page's model, then the page, which loads it at this commit; return its address.

    Browsers can't read a private or gated repository: its Space is private and has the model.
    """
    is_closed = is_private or bool(api.model_info(repo_id).gated)
    space = open_space(api, space, is_closed)
    if not is_closed:
        (staged / MODEL).parent.mkdir()
        shutil.copyfile(site / "model.onnx", staged / MODEL)
    commit = upload(False)
    done.append(f"The adapter is at {api.endpoint}/{repo_id}, without a link to the page.")
    model = None if is_closed else f"{api.endpoint}/{repo_id}/resolve/{commit.oid}/{Path(MODEL).parent}/"
    license = split_card((staged / "README.md").read_text(encoding="utf-8"))[0].get("license")
    present = _present_card(api, space, None, staged.parent, "space") or ""
    lay_out_page(site, page := staged.with_name("page"), repo_id, model, license, present)
    old, about = ["vendor/*", "*.onnx"], f"Upload the page of {repo_id}"
    api.upload_folder(folder_path=page, repo_id=space, repo_type="space", commit_message=about, delete_patterns=old)
    done[:] = [
        f"The adapter is at {api.endpoint}/{repo_id}, its page at {api.endpoint}/spaces/{space}, without a link."
    ]
    logger.info("page        %s/spaces/%s%s", api.endpoint, space, ", private, with the model" if is_closed else "")
    return f"{api.endpoint}/spaces/{space}"


def _command(directory: Path, repo_id: str, **flags: str | bool | None) -> str:
    """The command line of the same upload, without the token."""
    words = ["samed-hf", "push", str(directory), "--repo_id", repo_id]
    for flag, value in flags.items():
        if value:
            words += [f"--{flag}"] if value is True else [f"--{flag}", value]
    return shlex.join(words)


def _upload(
    api: HfApi, repo_id: str, staged: Path, commit_message: str, revision: str | None, create_pr: bool
) -> CommitInfo:
    """Commit the files, without those of earlier uploads."""
    if revision is not None and not create_pr and not revision.startswith("refs/pr/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    return api.upload_folder(
        folder_path=staged,
        repo_id=repo_id,
        commit_message=commit_message,
        delete_patterns=OUTDATED,
        revision=revision,
        create_pr=create_pr,
    )


def create_repository(api: HfApi, repo_id: str, private: bool | None) -> tuple[str, bool]:
    """Create a repository if there is none; return its full name and whether it is private."""
    name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    is_private = bool(api.model_info(name).private)
    if private and not is_private:
        raise ValueError(
            f"private is given, but {name!r} exists and is public: nothing was uploaded. Make it private in its "
            "settings on the Hub, or give another repo_id."
        )
    return name, is_private


def _present_card(api: HfApi, repo_id: str, revision: str | None, directory: Path, kind: str = "model") -> str | None:
    """The repository's `README.md`, on main if the branch does not exist yet."""
    for branch in dict.fromkeys((revision, None)):
        with suppress(EntryNotFoundError, RevisionNotFoundError):
            file = api.hf_hub_download(repo_id, "README.md", repo_type=kind, revision=branch, cache_dir=directory)
            return Path(file).read_text(encoding="utf-8")
    return None


def _public_dataset(api: HfApi, directory: Path) -> str | None:
    """The Hub id of the data set that was trained on, if it is one that everyone can see."""
    name = read_json(directory / "training_settings.json").get("dataset_name")
    if name and is_hub_id(name):
        with suppress(HfHubHTTPError):
            return name if not api.dataset_info(name).private else None
    return None


def _push_random_base(api: HfApi, directory: Path, repo_id: str, private: bool) -> tuple[str | None, str | None]:
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
    name, _ = create_repository(api, f"{repo_id}-base", private)
    commit = api.upload_folder(
        folder_path=base, repo_id=name, allow_patterns=files, commit_message="Upload SAM of random weights"
    )
    logger.info("pushed      %s: the base model of random weights, which the adapter needs", name)
    return name, commit.oid


def _refuse_secrets(staged: Path, directory: Path, token: str | None) -> None:
    """Raise a `ValueError` if a file to upload contains a path of this machine or a token."""
    settings = read_json(directory / "training_settings.json")
    secrets = {str(directory.resolve()), str(Path.home()), token or get_token() or ""}
    paths = [str(settings[key]) for key in PRIVATE_SETTINGS - {"cases"} if settings.get(key)]
    secrets |= {path for path in paths if path.startswith("/") and path.count("/") > 1}
    for file in staged.rglob("*"):
        if file.suffix in (".json", ".md", ".csv", ".txt", ".py", ".onnx", ".html"):
            content = file.read_bytes()
            if any(secret.encode() in content and len(secret) > 5 for secret in secrets):
                raise ValueError(
                    f"{file.relative_to(staged)} contains a path of this machine or a token: nothing was uploaded; "
                    "remove it from the adapter's files first."
                )


@contextmanager
def _one_line_errors(directory: Path, repo_id: str, command: str, done: list[str]) -> Iterator[None]:
    """Turn the errors of the Hub's client into one line with what is done and the command that tries again."""
    try:
        yield
    # The client raises a bare RuntimeError where the upload of large files fails.
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError, RuntimeError) as error:
        causes = [part for part in (error, error.__cause__) if part is not None]
        reason = " ".join(" ".join(map(str, causes)).split()) or type(error).__name__
        raise ValueError(
            f"The upload of {directory} to {repo_id!r} failed ({reason}). {' '.join([*done, 'The directory is'])} "
            f"unchanged; try again with `{command}`."
        ) from error
