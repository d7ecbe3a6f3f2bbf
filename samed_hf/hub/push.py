"""An adapter's repository on the Hugging Face Hub: laid out, described, uploaded."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import httpx
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .card import PRIVATE_SETTINGS, is_local_base, write_card

__all__ = ["ADAPTER_FOLDER", "DTYPES", "lay_out_repository", "push_adapter"]

ADAPTER_FOLDER = "adapter"
"""Where the adapter's files lie in a repository.

With an `adapter_config.json` at the root, transformers' Auto classes and pipelines would take config and image
processor, and the adapter's revision too, from the base model.
"""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
# What else belongs to the adapter; checkpoints, logs and data of its run stay at home.
_FILES = ("config.json", "preprocessor_config.json", "metrics.csv", "metrics.json", "training_curve.png")
_PICTURES = ("overlay.png", "examples/*.png")
_HANDLER = '''"""What Hugging Face Inference Endpoints look for in a repository."""

from samed_hf.serving.handler import EndpointHandler

__all__ = ["EndpointHandler"]
'''


def push_adapter(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    dtype: str = "float32",
    base_model: str | None = None,
    base_revision: str | None = None,
    pictures: bool | None = None,
    with_handler: bool = False,
    commit_message: str = "Upload adapter",
    report: Callable[[str], None] = print,
) -> str:
    """Upload an adapter's folder to a model repository, made where it is missing.

    What was uploaded by a try that failed isn't sent again. The folder itself is never changed.

    Args:
        folder: what a training or `save_pretrained` left.
        repo_id: "user/name", or "name" in one's own namespace.
        private: make a new repository private.
        token: defaults to that of `hf auth login` or `HF_TOKEN`.
        dtype: "float32", "float16" or "bfloat16", of the weights in the repository.
        base_model: the base model's name on the Hub, where the adapter was trained on a local folder.
        base_revision: its revision.
        pictures: send overlay and example slices too; `None` sends those of synthetic data alone.
        with_handler: add `handler.py` and `requirements.txt` for Inference Endpoints.
        commit_message: of the commit.
        report: told what others won't be able to do, and sizes.

    Returns:
        The repository's address.

    Raises:
        FileNotFoundError: `folder` holds no adapter.
        ValueError: the Hub refused or can't be reached, an unknown dtype, or damaged weights; the folder is as it was.
    """
    folder = Path(folder)
    _check(folder, dtype)
    flags = {"--dtype": dtype if dtype != "float32" else None, "--base_model": base_model}
    flags |= {"--base_revision": base_revision}
    words = ["samed-hf", "push", str(folder), "--repo_id", repo_id]
    words += [word for flag, value in flags.items() if value for word in (flag, value)]
    switches = {"--private": private, "--pictures": pictures, "--with_handler": with_handler}
    again = shlex.join([*words, *(flag for flag, given in switches.items() if given)])
    with tempfile.TemporaryDirectory() as aside, _explaining(f"The upload of {folder} to {repo_id!r}", again):
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        base = (base_model, base_revision) if base_model else _push_random_base(api, folder, repo_id, private)
        if base[0] and not base_model:
            report(f"pushed      {base[0]}: the random base model, without which the adapter is nothing")
        staged = lay_out_repository(
            folder,
            Path(aside) / "repository",
            repo_id=repo_id,
            dtype=dtype,
            base=base,
            pictures=pictures,
            with_handler=with_handler,
            report=report,
        )
        _refuse_secrets(staged, folder, token)
        stale = _stale(api, repo_id, staged)
        api.upload_folder(folder_path=staged, repo_id=repo_id, commit_message=commit_message, delete_patterns=stale)
    return f"{api.endpoint}/{repo_id}"


def _stale(api: HfApi, repo_id: str, staged: Path) -> list[str] | None:
    """What an earlier upload left that would now mislead: another layout's files, pictures that are to stay here."""
    stale = [name for name in _ADAPTER if api.file_exists(repo_id, name)]
    if not (staged / "overlay.png").is_file() and api.file_exists(repo_id, "overlay.png"):
        stale += _PICTURES
    return stale or None


def _push_random_base(api: HfApi, folder: Path, repo_id: str, private: bool | None) -> tuple[str | None, str | None]:
    """Upload a demonstration's base model of random weights, which is nowhere else; nothing of any other adapter's."""
    own = _read(folder / "adapter_config.json").get("base_model_name_or_path")
    if not own or not _read(folder / "training_settings.json").get("run", {}).get("random_base"):
        return None, None
    base = folder / own
    if not (base / "model.safetensors").is_file():
        return None, None
    name = api.create_repo(f"{repo_id}-base", private=private, exist_ok=True).repo_id
    files = ["config.json", "model.safetensors", "preprocessor_config.json"]
    commit = api.upload_folder(
        folder_path=base, repo_id=name, allow_patterns=files, commit_message="Upload SAM of random weights"
    )
    return name, commit.oid


def lay_out_repository(
    folder: Path,
    target: Path,
    *,
    repo_id: str,
    dtype: str = "float32",
    base: tuple[str | None, str | None] = (None, None),
    pictures: bool | None = None,
    with_handler: bool = False,
    report: Callable[[str], None] = print,
) -> Path:
    """Write what goes onto the Hub into `target`; see [`push_adapter`] for the arguments. Returns `target`."""
    (target / ADAPTER_FOLDER).mkdir(parents=True)
    settings = _read(folder / "training_settings.json")
    run = settings.get("run", {})
    _write(target / ADAPTER_FOLDER / "adapter_config.json", _hub_config(folder, base, report))
    _write_weights(folder, target / ADAPTER_FOLDER, dtype, report)
    wanted = list(_FILES)
    found = [file for pattern in _PICTURES for file in folder.glob(pattern)]
    if pictures or (pictures is None and run.get("synthetic")):
        wanted += _PICTURES
    elif found and pictures is None:
        report(
            "note        overlay and example slices stay here, since they show patients: where you may publish them, "
            "push with --pictures"
        )
    for pattern in wanted:
        for file in sorted(folder.glob(pattern)):
            (target / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / file.relative_to(folder))
    if settings:
        _write(target / "training_settings.json", {k: v for k, v in settings.items() if k not in PRIVATE_SETTINGS})
    if with_handler:
        (target / "handler.py").write_text(_HANDLER, encoding="utf-8")
        (target / "requirements.txt").write_text("samed_hf\n", encoding="utf-8")
    if not (target / "config.json").is_file():
        report(f"note        {folder} has no config.json: the repository gets no card and needs the labels given")
        return target
    write_card(target, name=repo_id)
    return target


def _check(folder: Path, dtype: str) -> None:
    missing = [name for name in _ADAPTER if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} is no adapter: {', '.join(missing)} missing. Give the folder of a training.")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}: expected one of {', '.join(DTYPES)}.")


def _hub_config(folder: Path, base: tuple[str | None, str | None], report: Callable[[str], None]) -> dict[str, Any]:
    """The adapter's config with a base model that others can find, or none."""
    content = _read(folder / "adapter_config.json")
    own = content.get("base_model_name_or_path")
    if base[0] is not None:
        content |= {"base_model_name_or_path": base[0], "revision": base[1]}
    elif own is None or is_local_base(own) or (folder / own).is_dir():
        report(
            "warning     the base model is a folder on this machine: by from_pretrained, pipeline and PEFT, others can "
            "load the adapter only with a copy of it as base_model_name_or_path. If it is on the Hub, push again "
            "with --base_model USER/NAME."
        )
        content |= {"base_model_name_or_path": None, "revision": None}
    return content


def _write_weights(folder: Path, target: Path, dtype: str, report: Callable[[str], None]) -> None:
    try:
        weights = load_file(folder / "adapter_model.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{folder / 'adapter_model.safetensors'} is damaged ({error}): nothing was sent.") from error
    file = target / "adapter_model.safetensors"
    save_file({key: value.to(DTYPES[dtype]) for key, value in weights.items()}, file, metadata={"format": "pt"})
    report(f"adapter     {file.stat().st_size / 1e6:.1f} MB in {dtype}")


def _refuse_secrets(staged: Path, folder: Path, token: str | None) -> None:
    """Nothing that is sent may name a place on this machine or hold a token."""
    secrets = {str(folder.resolve()), str(Path.home()), token or get_token() or ""} - {"", "/"}
    for file in staged.rglob("*"):
        if file.suffix in (".json", ".md", ".csv", ".txt", ".py"):
            text = file.read_text(encoding="utf-8")
            for secret in secrets:
                if secret in text and len(secret) > 5:
                    raise ValueError(
                        f"{file.relative_to(staged)} would tell others a place on this machine or a token: nothing was "
                        "sent; take it out of the adapter's files first."
                    )


@contextmanager
def _explaining(what: str, again: str) -> Iterator[None]:
    """Turn what the Hub's client raises into one line that tells how to try again."""
    try:
        yield
    # The client wraps what fails while large files are sent into a bare RuntimeError.
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError, RuntimeError) as error:
        told = [part for part in (error, error.__cause__) if part is not None]
        reason = " ".join(" ".join(map(str, told)).split()) or type(error).__name__
        raise ValueError(f"{what} failed ({reason}). The folder is untouched; try again with `{again}`.") from error


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
